//! Having QEMU leave work to itself that it would leave to the kernel, where it has no option for that.
//!
//! The program is traced (ptrace(2)) until it has said what is not to be, and let go then: what it does
//! afterwards costs what it costs untraced.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use spapr_lab::benchmark::results::Peer;

/// KVM_CHECK_EXTENSION, as an ioctl on powerpc (include/uapi/linux/kvm.h).
const KVM_CHECK_EXTENSION: u32 = 0x2000_ae03;
/// KVM_ENABLE_CAP, with a structure of 104 bytes.
const KVM_ENABLE_CAP: u32 = 0x8068_aea3;
/// KVM_CAP_SPAPR_TCE_VFIO.
const BINDING: u64 = 142;
/// KVM_CAP_PPC_ENABLE_HCALL: whether the kernel serves a hypercall (Documentation/virt/kvm/api.rst).
const ENABLE_HCALL: u32 = 104;
/// H_STUFF_TCE and H_PUT_TCE_INDIRECT.
const LISTS: [u64; 2] = [0x138, 0x13c];

/// In `struct kvm_enable_cap`: the first two arguments.
const ARGUMENTS: usize = 8;
const SECOND_ARGUMENT: usize = 16;

/// Offsets of registers for PTRACE_PEEKUSER: doublewords by register number
/// (arch/powerpc/include/uapi/asm/ptrace.h).
const R0: usize = 0;
const R3: usize = 3 * 8;
const R4: usize = 4 * 8;
const R5: usize = 5 * 8;

/// What a stop for a system call adds to the signal's number (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// What the kernel is not to do for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Bind TCE tables to IOMMU groups: the answer to the question for KVM_CAP_SPAPR_TCE_VFIO becomes 0.
    Binding,
    /// Serve [`LISTS`]: where the program says that the kernel shall, it says that it shall not.
    Lists,
}

impl Kept {
    /// What is kept from a peer.
    pub(crate) const fn from(peer: Peer) -> Option<Self> {
        match peer {
            Peer::QemuUser => Some(Self::Binding),
            Peer::QemuSafe => Some(Self::Lists),
            _ => None,
        }
    }

    /// Has `command` be traced from its first instruction.
    pub(crate) fn prepare(command: &mut Command) {
        let arrange = || trace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop);
        // SAFETY: between fork and exec, one system call that touches no memory.
        unsafe { command.pre_exec(arrange) };
    }

    /// Follows the program until all that is kept from it is, and lets it go.
    ///
    /// # Errors
    /// When it ends before that.
    pub(crate) fn keep(self, child: &Child) -> io::Result<()> {
        let traced = Traced::start(child)?;
        match self {
            Self::Binding => traced.hide_binding()?,
            Self::Lists => traced.refuse_lists()?,
        }
        trace(libc::PTRACE_DETACH, traced.pid, 0, 0).map(drop)
    }
}

/// A program that is traced; it stands still.
struct Traced {
    pid: i32,
}

impl Traced {
    fn start(child: &Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        wait_for_stop(pid)?;
        let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD).map_err(io::Error::other)?;
        trace(libc::PTRACE_SETOPTIONS, pid, 0, options)?;
        Ok(Self { pid })
    }

    fn hide_binding(&self) -> io::Result<()> {
        while self.next_ioctl(KVM_CHECK_EXTENSION)? != BINDING {}
        // The answer is there at the second stop, when the call is over.
        trace(libc::PTRACE_SYSCALL, self.pid, 0, 0)?;
        wait_for_stop(self.pid)?;
        trace(libc::PTRACE_POKEUSER, self.pid, R3, 0).map(drop)
    }

    fn refuse_lists(&self) -> io::Result<()> {
        let mut left = LISTS.to_vec();
        while !left.is_empty() {
            let structure = usize::try_from(self.next_ioctl(KVM_ENABLE_CAP)?);
            let structure = structure.map_err(io::Error::other)?;
            let first = self.peek(libc::PTRACE_PEEKDATA, structure)?;
            let number = self.peek(libc::PTRACE_PEEKDATA, structure + ARGUMENTS)?;
            // The capability is the first half of a doubleword, by the host's byte order.
            let [b0, b1, b2, b3, ..] = first.to_ne_bytes();
            let capability = u32::from_ne_bytes([b0, b1, b2, b3]);
            if capability == ENABLE_HCALL && left.contains(&number) {
                let second = structure + SECOND_ARGUMENT;
                trace(libc::PTRACE_POKEDATA, self.pid, second, 0)?;
                left.retain(|known| *known != number);
            }
        }
        Ok(())
    }

    /// Waits until the program begins an ioctl with this number; the ioctl's argument.
    fn next_ioctl(&self, wanted: u32) -> io::Result<u64> {
        let mut pass_on = 0;
        loop {
            trace(libc::PTRACE_SYSCALL, self.pid, 0, pass_on)?;
            let signal = wait_for_stop(self.pid)?;
            if signal != SYSTEM_CALL_STOP {
                // A signal of its own, but for the one that exec causes under trace.
                pass_on = match signal {
                    libc::SIGTRAP => 0,
                    signal => usize::try_from(signal).map_err(io::Error::other)?,
                };
                continue;
            }
            pass_on = 0;
            // At the end of the call, the registers of its arguments still hold them: whatever is done
            // about the beginning must bear to be done about the end, too. The kernel takes the lower half
            // of the number, and programs extend it with or without a sign.
            let call = self.peek(libc::PTRACE_PEEKUSER, R0)?.cast_signed();
            let number = self.peek(libc::PTRACE_PEEKUSER, R4)? & 0xffff_ffff;
            if call == libc::SYS_ioctl && number == u64::from(wanted) {
                return self.peek(libc::PTRACE_PEEKUSER, R5);
            }
        }
    }

    fn peek(&self, request: libc::c_uint, address: usize) -> io::Result<u64> {
        let mut word = 0u64;
        // The system call itself puts what it reads where `data` points; the C library's wrapper does so,
        // too, and returns it, which cannot be told from an error.
        let data = ptr::from_mut(&mut word).expose_provenance();
        trace(request, self.pid, address, data)?;
        Ok(word)
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
            "it ended before it had asked the kernel for what is kept from it",
        ));
    }
    Ok(libc::WSTOPSIG(status))
}

/// `data` is a number, or for requests that read the exposed address of a doubleword.
fn trace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: a request that reads writes at most one doubleword, where `data` points.
    let returned = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) };
    match returned {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
