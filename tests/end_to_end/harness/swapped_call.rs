//! Has a thread make another system call than it wanted to, as an attacker's code in it would.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The registers of a thread as ptrace has them (struct pt_regs in
/// arch/powerpc/include/uapi/asm/ptrace.h).
type Registers = [u64; 48];

/// Where a system call's number is, and its first argument.
const NUMBER: usize = 0;
const FIRST_ARGUMENT: usize = 3;
/// The stack's pointer.
const STACK: usize = 1;
/// The address of the instruction after the system call.
const NEXT_INSTRUCTION: usize = 32;
const INSTRUCTION_BYTES: u64 = 4;
/// What the thread entered the kernel by.
const TRAP: usize = 40;
/// The kind of registers that a thread has in any case (elf.h).
const NT_PRSTATUS: usize = 1;

/// Below what the stack's leaf functions use without moving its pointer, which is 288 bytes.
const BELOW_STACK_BYTES: u64 = 4096;

/// What a stop at a system call is told by, besides SIGTRAP.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;

/// Waits for the thread's next system call, makes `call` of it, and lets go of the thread.
///
/// # Panics
/// When the thread cannot be traced.
pub(crate) fn swap_next_call(thread: i32, call: libc::c_long) {
    let stopped = Stopped::at_next_call(thread);
    let mut registers = stopped.registers();
    registers[NUMBER] = u64::try_from(call).expect("a number");
    stopped.set_registers(&registers);
    stopped.let_go();
}

/// Has the thread make a call before its next one, which it makes afterwards. Returns what the call
/// returned: an error is negative.
///
/// # Panics
/// When the thread cannot be traced, or ends by the call.
pub(crate) fn insert_call(thread: i32, call: libc::c_long, arguments: &[u64]) -> i64 {
    let stopped = Stopped::at_next_call(thread);
    stopped.insert(call, arguments)
}

/// [`insert_call`] of openat(2): has the thread open a file to read it.
///
/// # Panics
/// As for [`insert_call`].
pub(crate) fn insert_open(thread: i32, path: &Path) -> i64 {
    let stopped = Stopped::at_next_call(thread);
    let address = stopped.registers()[STACK] - BELOW_STACK_BYTES;
    let bytes = [path.as_os_str().as_encoded_bytes(), &[0]].concat();
    let memory = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{thread}/mem"));
    memory
        .and_then(|memory| memory.write_all_at(&bytes, address))
        .expect("cannot write to the thread's stack");
    // An absolute path needs no folder; no flags: to read, and no mode, as nothing is made.
    stopped.insert(libc::SYS_openat, &[0, address, 0, 0])
}

/// A thread that is traced, and stopped at the beginning of a system call.
struct Stopped {
    thread: i32,
}

impl Stopped {
    fn at_next_call(thread: i32) -> Self {
        let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD).expect("a flag");
        trace(libc::PTRACE_SEIZE, thread, 0, options);
        trace(libc::PTRACE_INTERRUPT, thread, 0, 0);
        wait_for_stop(thread);
        let stopped = Self { thread };
        stopped.go_to_call();
        assert_eq!(stopped.call().op, libc::PTRACE_SYSCALL_INFO_ENTRY);
        stopped
    }

    /// Lets the thread go to the next beginning or end of a system call; a signal that comes before is
    /// not what is waited for.
    fn go_to_call(&self) {
        trace(libc::PTRACE_SYSCALL, self.thread, 0, 0);
        while wait_for_stop(self.thread) != AT_CALL {
            trace(libc::PTRACE_SYSCALL, self.thread, 0, 0);
        }
    }

    fn insert(self, call: libc::c_long, arguments: &[u64]) -> i64 {
        let own = self.registers();
        let mut registers = own;
        registers[NUMBER] = u64::try_from(call).expect("a number");
        registers[FIRST_ARGUMENT..][..arguments.len()].copy_from_slice(arguments);
        self.set_registers(&registers);
        self.go_to_call();
        let done = self.call();
        assert_eq!(done.op, libc::PTRACE_SYSCALL_INFO_EXIT);
        // SAFETY: at the end of a call, this is the member that the kernel writes.
        let returned = unsafe { done.u.exit.sval };
        // Back to the instruction that makes its own call.
        let mut again = own;
        again[NEXT_INSTRUCTION] -= INSTRUCTION_BYTES;
        // By no call: the kernel would go back by one more instruction to restart one that was
        // interrupted, which the thread's own may be.
        again[TRAP] = 0;
        self.set_registers(&again);
        self.let_go();
        returned
    }

    /// What the kernel says of the call that the thread is stopped at.
    fn call(&self) -> libc::ptrace_syscall_info {
        // SAFETY: zeroes are a valid value of the structure.
        let mut call: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&call);
        let into = &raw mut call;
        trace(
            libc::PTRACE_GET_SYSCALL_INFO,
            self.thread,
            size,
            into.expose_provenance(),
        );
        call
    }

    fn registers(&self) -> Registers {
        let mut registers = [0; 48];
        self.transfer(libc::PTRACE_GETREGSET, &mut registers);
        registers
    }

    fn set_registers(&self, registers: &Registers) {
        self.transfer(libc::PTRACE_SETREGSET, &mut registers.clone());
    }

    fn transfer(&self, request: libc::c_uint, registers: &mut Registers) {
        let mut vector = libc::iovec {
            iov_base: registers.as_mut_ptr().cast(),
            iov_len: mem::size_of_val(registers),
        };
        let vector = &raw mut vector;
        trace(
            request,
            self.thread,
            NT_PRSTATUS,
            vector.expose_provenance(),
        );
    }

    fn let_go(self) {
        trace(libc::PTRACE_DETACH, self.thread, 0, 0);
    }
}

/// Makes a request of ptrace: `address` and `data` are numbers, or the address of what the request
/// writes or reads in this process.
fn trace(request: libc::c_uint, thread: i32, address: usize, data: usize) {
    // SAFETY: of this process' memory, these requests touch what `data` is the address of alone, and
    // its size comes with it.
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
