//! Making a program believe that the kernel cannot bind TCE tables to IOMMU groups: the answer to its
//! question for KVM_CAP_SPAPR_TCE_VFIO becomes 0.
//!
//! The program is traced (ptrace(2)) until it has asked, and let go then: what it does afterwards
//! costs what it costs untraced.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

/// KVM_CHECK_EXTENSION, as an ioctl on powerpc (include/uapi/linux/kvm.h).
const KVM_CHECK_EXTENSION: i64 = 0x2000_ae03;
/// KVM_CAP_SPAPR_TCE_VFIO.
const CAPABILITY: i64 = 142;

/// Offsets of registers for PTRACE_PEEKUSER: doublewords by register number
/// (arch/powerpc/include/uapi/asm/ptrace.h).
const R0: usize = 0;
const R3: usize = 3 * 8;
const R4: usize = 4 * 8;
const R5: usize = 5 * 8;

/// What a stop for a system call adds to the signal's number (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// Has `command` be traced from its first instruction.
pub(crate) fn prepare(command: &mut Command) {
    let arrange = || trace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop);
    // SAFETY: between fork and exec, one system call that touches no memory.
    unsafe { command.pre_exec(arrange) };
}

/// Follows the program until it has asked, answers no, and lets it go.
///
/// # Errors
/// When it ends before it has asked.
pub(crate) fn answer(child: &Child) -> io::Result<()> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    wait_for_stop(pid)?;
    let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD).map_err(io::Error::other)?;
    trace(libc::PTRACE_SETOPTIONS, pid, 0, options)?;
    let mut pass_on = 0;
    loop {
        trace(libc::PTRACE_SYSCALL, pid, 0, pass_on)?;
        let signal = wait_for_stop(pid)?;
        if signal != SYSTEM_CALL_STOP {
            // A signal of its own, but for the one that exec causes under trace.
            pass_on = match signal {
                libc::SIGTRAP => 0,
                signal => usize::try_from(signal).map_err(io::Error::other)?,
            };
            continue;
        }
        pass_on = 0;
        // At the end of the call, the registers of its arguments still hold them.
        let is_question = peek(pid, R0)? == libc::SYS_ioctl
            && peek(pid, R4)? == KVM_CHECK_EXTENSION
            && peek(pid, R5)? == CAPABILITY;
        if is_question {
            // The answer is there at the second stop, when the call is over.
            trace(libc::PTRACE_SYSCALL, pid, 0, 0)?;
            wait_for_stop(pid)?;
            trace(libc::PTRACE_POKEUSER, pid, R3, 0)?;
            trace(libc::PTRACE_DETACH, pid, 0, 0)?;
            return Ok(());
        }
    }
}

/// Waits until the process stops; the signal that stopped it.
fn wait_for_stop(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: writes one integer.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if waited != pid {
        return Err(io::Error::last_os_error());
    }
    if !libc::WIFSTOPPED(status) {
        return Err(io::Error::other(
            "it ended before it asked for KVM_CAP_SPAPR_TCE_VFIO",
        ));
    }
    Ok(libc::WSTOPSIG(status))
}

fn peek(pid: i32, offset: usize) -> io::Result<i64> {
    trace(libc::PTRACE_PEEKUSER, pid, offset, 0)
}

fn trace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> io::Result<i64> {
    let mut word = 0i64;
    // The system call itself puts what it reads where `data` points; the C library's wrapper does
    // so, too, and returns it, which cannot be told from an error.
    let data = if request == libc::PTRACE_PEEKUSER {
        ptr::from_mut(&mut word).expose_provenance()
    } else {
        data
    };
    // SAFETY: it writes at most one doubleword, to `word`.
    let returned = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(word)
}
