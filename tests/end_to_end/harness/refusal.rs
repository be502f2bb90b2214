//! Making the kernel refuse one call of the VMM, to reach what a host of another kind would do.
//!
//! A seccomp filter in the VMM's process answers an ioctl with a chosen error, or with 0, and lets
//! everything else through (the kernel's Documentation/userspace-api/seccomp_filter.rst).

use std::io;

/// `ioctl` request numbers on powerpc (arch/powerpc/include/uapi/asm/ioctl.h).
pub(crate) mod request {
    /// KVM_CHECK_EXTENSION.
    pub(crate) const KVM_CHECK_EXTENSION: u32 = 0x2000_ae03;
    /// VFIO_CHECK_EXTENSION.
    pub(crate) const VFIO_CHECK_EXTENSION: u32 = 0x2000_3b65;
}

/// KVM_CAP_PPC_MMU_RADIX.
pub(crate) const KVM_CAP_PPC_MMU_RADIX: u32 = 134;

/// An ioctl that is not to reach the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// Its request number.
    pub(crate) request: u32,
    /// The low word of its argument, if only that is meant.
    pub(crate) argument: Option<u32>,
    /// The error, or 0 for an answer of 0.
    pub(crate) errno: u16,
}

/// Where the fields of `struct seccomp_data` are, on a little-endian machine.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 16 + 8;
const THIRD_ARGUMENT: u32 = 16 + 2 * 8;

/// To run between fork and exec.
pub(crate) type Preparation = Box<dyn FnMut() -> io::Result<()> + Send + Sync>;

impl Refusal {
    /// What puts the filter into place in the process that calls it.
    pub(crate) fn preparation(&self) -> Preparation {
        let mut program = self.program();
        Box::new(move || install(&mut program))
    }

    fn program(&self) -> Vec<libc::sock_filter> {
        let mut tests = vec![
            (
                NUMBER,
                u32::try_from(libc::SYS_ioctl).expect("a small number"),
            ),
            (SECOND_ARGUMENT, self.request),
        ];
        tests.extend(self.argument.map(|argument| (THIRD_ARGUMENT, argument)));
        let instruction = |code: u32, k: u32, if_not: usize| libc::sock_filter {
            code: u16::try_from(code).expect("codes have 16 bits"),
            jt: 0,
            jf: u8::try_from(if_not).expect("a short program"),
            k,
        };
        let mut program = Vec::new();
        for (index, &(offset, value)) in tests.iter().enumerate() {
            // Over what is left of the tests and the refusal.
            let to_allow = 2 * (tests.len() - 1 - index) + 1;
            program.push(instruction(
                libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
                offset,
                0,
            ));
            program.push(instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                value,
                to_allow,
            ));
        }
        let refuse = libc::SECCOMP_RET_ERRNO | u32::from(self.errno);
        program.push(instruction(libc::BPF_RET | libc::BPF_K, refuse, 0));
        program.push(instruction(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ALLOW,
            0,
        ));
        program
    }
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the call changes what this process may do, no memory of it.
    let answer = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program outlives the call, in which the kernel copies it.
    let answer = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
