//! What the process sees to before all else: that running into a limit ends in a message, and that it is small.

use std::io;

/// The least stack that the main thread is started with: several times what was seen to be used.
const LEAST_STACK_BYTES: u64 = 512 << 10;

/// A limit of this process that messages name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// RLIMIT_AS, in bytes (`ulimit -v` in KiB).
    AddressSpace,
    /// RLIMIT_NPROC, processes and threads of the user (`ulimit -u`).
    Processes,
    /// RLIMIT_STACK, in bytes (`ulimit -s` in KiB).
    Stack,
}

/// The process cannot be started under its limits.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit on the stack is {} KiB (ulimit -s), and this program needs {} KiB; raise it",
    .limit_bytes >> 10,
    LEAST_STACK_BYTES >> 10
)]
pub struct StackTooSmall {
    limit_bytes: u64,
}

/// Makes sure that there is stack enough, and that a file that must not grow any more (RLIMIT_FSIZE,
/// `ulimit -f`) is an error of whoever writes it: as the kernel has it, SIGXFSZ would kill the process
/// without a word. And all threads share one heap: by default each has its own, of which it touches a page of 64 KiB at
/// least, and none here takes memory so often that it would wait for another.
///
/// To be called first, from a function that itself needs next to no stack.
///
/// # Errors
/// [`StackTooSmall`], when the limit cannot be raised either.
pub fn prepare() -> Result<(), StackTooSmall> {
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    #[cfg(target_env = "gnu")]
    // SAFETY: the option is one of glibc's, and there is one thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    match soft_limit(Limit::Stack) {
        Some(limit_bytes) if limit_bytes < LEAST_STACK_BYTES => {
            raise_stack().map_err(|_| StackTooSmall { limit_bytes })
        }
        _ => Ok(()),
    }
}

/// A limit that is in force; `None` when there is none.
pub fn soft_limit(limit: Limit) -> Option<u64> {
    let current = get(limit).ok()?.rlim_cur;
    (current != libc::RLIM_INFINITY).then_some(current)
}

/// The main thread's stack grows as far as the limit says at that moment.
fn raise_stack() -> io::Result<()> {
    let mut stack = get(Limit::Stack)?;
    stack.rlim_cur = LEAST_STACK_BYTES;
    // SAFETY: setrlimit reads the struct it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const stack) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn get(limit: Limit) -> io::Result<libc::rlimit> {
    let resource = match limit {
        Limit::AddressSpace => libc::RLIMIT_AS,
        Limit::Processes => libc::RLIMIT_NPROC,
        Limit::Stack => libc::RLIMIT_STACK,
    };
    let mut found = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit fills the struct it is given.
    if unsafe { libc::getrlimit(resource, &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found)
}
