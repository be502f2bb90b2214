//! Has a thread make another system call than it wanted to, as an attacker's code in it would.

use std::io;

/// Where ptrace has a thread's first register, which holds the number of a system call.
const REGISTER_0: usize = 0;

/// Waits for the thread's next system call, makes `call` of it, and lets go of the thread.
///
/// # Panics
/// When the thread cannot be traced.
pub(crate) fn swap_next_call(thread: i32, call: libc::c_long) {
    trace(libc::PTRACE_SEIZE, thread, 0, 0);
    trace(libc::PTRACE_INTERRUPT, thread, 0, 0);
    wait_for_stop(thread);
    trace(
        libc::PTRACE_SETOPTIONS,
        thread,
        0,
        libc::PTRACE_O_TRACESYSGOOD as usize,
    );
    trace(libc::PTRACE_SYSCALL, thread, 0, 0);
    let number = usize::try_from(call).expect("a number");
    loop {
        // The call's beginning; a signal that comes before it is not what is waited for.
        if wait_for_stop(thread) == libc::SIGTRAP | 0x80 {
            trace(libc::PTRACE_POKEUSER, thread, REGISTER_0, number);
            break;
        }
        trace(libc::PTRACE_SYSCALL, thread, 0, 0);
    }
    trace(libc::PTRACE_DETACH, thread, 0, 0);
}

fn trace(request: libc::c_uint, thread: i32, address: usize, data: usize) {
    // SAFETY: these requests take numbers, and change another process alone.
    let result = unsafe { libc::ptrace(request, thread, address, data) };
    assert!(
        result >= 0,
        "ptrace {request:#x} of {thread}: {}",
        io::Error::last_os_error()
    );
}

/// The signal that the thread stopped with.
fn wait_for_stop(thread: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is good for one int.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    assert_eq!(waited, thread, "{}", io::Error::last_os_error());
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    libc::WSTOPSIG(status)
}
