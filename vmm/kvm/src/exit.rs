//! Why KVM_RUN returned: what KVM leaves in the page that it shares for a vCPU
//! (Documentation/virt/kvm/api.rst, 5).

use std::fmt;

use kvm_bindings::powerpc64::{
    KVM_EXIT_DEBUG, KVM_EXIT_EPR, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_MMIO, KVM_EXIT_NMI, KVM_EXIT_PAPR_HCALL, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT,
    KVM_EXIT_UNKNOWN, KVM_EXIT_WATCHDOG, kvm_run,
};

/// Why KVM_RUN returned without an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'a> {
    /// The guest made a hypercall that is not the kernel's: see `Vcpu::papr_hcall`.
    Hypercall,
    /// The guest read at this address, where it has no memory, and gets these bytes.
    MmioRead(u64, &'a mut [u8]),
    /// The guest wrote these bytes to this address, where it has no memory.
    MmioWrite(u64, &'a [u8]),
    /// A signal came.
    Interrupted,
    /// Anything else.
    Other(OtherExit),
}

/// An exit that no guest should bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherExit {
    reason: u32,
    /// The first doubleword of what KVM says of it: for a failed entry and an internal error why.
    detail: u64,
}

impl fmt::Display for OtherExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.reason {
            KVM_EXIT_UNKNOWN => "KVM_EXIT_UNKNOWN",
            KVM_EXIT_DEBUG => "KVM_EXIT_DEBUG",
            KVM_EXIT_SHUTDOWN => "KVM_EXIT_SHUTDOWN",
            KVM_EXIT_FAIL_ENTRY => "KVM_EXIT_FAIL_ENTRY",
            KVM_EXIT_NMI => "KVM_EXIT_NMI",
            KVM_EXIT_INTERNAL_ERROR => "KVM_EXIT_INTERNAL_ERROR",
            KVM_EXIT_WATCHDOG => "KVM_EXIT_WATCHDOG",
            KVM_EXIT_EPR => "KVM_EXIT_EPR",
            KVM_EXIT_SYSTEM_EVENT => "KVM_EXIT_SYSTEM_EVENT",
            reason => return write!(f, "exit reason {reason}"),
        };
        f.write_str(name)?;
        match self.reason {
            KVM_EXIT_FAIL_ENTRY => {
                let reason = self.detail;
                write!(f, ", the hardware's reason {reason:#x}")
            }
            // Four bytes are its number, and the rest a count.
            KVM_EXIT_INTERNAL_ERROR => write!(f, " {}", self.detail & u64::from(u32::MAX)),
            _ => Ok(()),
        }
    }
}

/// A hypercall that a vCPU stopped at (KVM_EXIT_PAPR_HCALL).
///
/// At the next KVM_RUN, KVM puts [`ret`](Self::ret) into r3 and [`args`](Self::args) into r4 to
/// r12, all of them, whatever the hypercall (`kvm_arch_vcpu_ioctl_run` in
/// arch/powerpc/kvm/powerpc.c): outputs are written over the arguments, the rest is left alone.
#[derive(Debug)]
pub struct PaprHcall<'a> {
    /// The hypercall's number, r3.
    pub nr: u64,
    /// The return code, r3.
    pub ret: &'a mut u64,
    /// The arguments and results, r4 to r12.
    pub args: &'a mut [u64; 9],
}

/// Why KVM_RUN returned, of which `run` tells.
#[inline]
pub(crate) fn of(run: &mut kvm_run) -> Exit<'_> {
    match run.exit_reason {
        KVM_EXIT_PAPR_HCALL => Exit::Hypercall,
        KVM_EXIT_MMIO => mmio(run),
        KVM_EXIT_INTR => Exit::Interrupted,
        reason => Exit::Other(OtherExit {
            reason,
            detail: detail(run),
        }),
    }
}

fn mmio(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: the exit reason says that this is the field in use; besides, every field of the union
    // consists of integers, for which any bits will do.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let address = mmio.phys_addr;
    let length = usize::try_from(mmio.len).unwrap_or(usize::MAX);
    let length = length.min(mmio.data.len());
    let data = &mut mmio.data[..length];
    if mmio.is_write == 0 {
        Exit::MmioRead(address, data)
    } else {
        Exit::MmioWrite(address, data)
    }
}

#[cold]
fn detail(run: &kvm_run) -> u64 {
    // SAFETY: every field of the union consists of integers, for which any bits will do, and this one lies at
    // its start.
    unsafe { run.__bindgen_anon_1.hw.hardware_exit_reason }
}

/// The hypercall, if that is why KVM_RUN last returned successfully.
#[inline]
pub(crate) fn papr_hcall(run: &mut kvm_run) -> Option<PaprHcall<'_>> {
    if run.exit_reason != KVM_EXIT_PAPR_HCALL {
        return None;
    }
    // SAFETY: the exit reason says that this is the field in use; besides, every field of the
    // union consists of integers, for which any bits will do.
    let hcall = unsafe { &mut run.__bindgen_anon_1.papr_hcall };
    Some(PaprHcall {
        nr: hcall.nr,
        ret: &mut hcall.ret,
        args: &mut hcall.args,
    })
}

/// Whether what KVM_RUN last returned for has to be completed by another one.
pub(crate) const fn is_to_be_completed(run: &kvm_run) -> bool {
    matches!(run.exit_reason, KVM_EXIT_PAPR_HCALL | KVM_EXIT_MMIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(reason: u32) -> kvm_run {
        kvm_run {
            exit_reason: reason,
            ..Default::default()
        }
    }

    #[test]
    fn an_access_has_as_many_bytes_as_the_instruction_and_never_more_than_a_doubleword() {
        for (said, has) in [(1, 1), (4, 4), (8, 8), (9, 8), (u32::MAX, 8)] {
            for is_write in [0, 1] {
                let mut run = run(KVM_EXIT_MMIO);
                // SAFETY: any bits will do.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                mmio.phys_addr = 0x2_0000_0000;
                mmio.len = said;
                mmio.is_write = is_write;
                mmio.data = [1, 2, 3, 4, 5, 6, 7, 8];
                match (of(&mut run), is_write) {
                    (Exit::MmioRead(0x2_0000_0000, data), 0) => assert_eq!(data.len(), has),
                    (Exit::MmioWrite(0x2_0000_0000, data), 1) => {
                        assert_eq!(data, &[1, 2, 3, 4, 5, 6, 7, 8][..has]);
                    }
                    (exit, _) => panic!("{exit:?}"),
                }
            }
        }
    }

    #[test]
    fn a_hypercall_is_there_only_if_it_is_why_the_vcpu_stopped() {
        let mut stopped = run(KVM_EXIT_PAPR_HCALL);
        // SAFETY: any bits will do.
        let hcall = unsafe { &mut stopped.__bindgen_anon_1.papr_hcall };
        (hcall.nr, hcall.args[8]) = (0x20, 7);
        assert_eq!(of(&mut stopped), Exit::Hypercall);
        let call = papr_hcall(&mut stopped).unwrap();
        assert_eq!((call.nr, call.args[8]), (0x20, 7));
        stopped.exit_reason = KVM_EXIT_MMIO;
        assert!(papr_hcall(&mut stopped).is_none());
    }

    #[test]
    fn other_exits_are_named_as_the_kernel_names_them() {
        let mut failed = run(KVM_EXIT_FAIL_ENTRY);
        failed.__bindgen_anon_1.hw.hardware_exit_reason = 0x700;
        let mut internal = run(KVM_EXIT_INTERNAL_ERROR);
        internal.__bindgen_anon_1.hw.hardware_exit_reason = 3 << 32 | 4;
        for (run, text) in [
            (
                &mut failed,
                "KVM_EXIT_FAIL_ENTRY, the hardware's reason 0x700",
            ),
            (&mut internal, "KVM_EXIT_INTERNAL_ERROR 4"),
            (&mut run(KVM_EXIT_SHUTDOWN), "KVM_EXIT_SHUTDOWN"),
            (&mut run(4711), "exit reason 4711"),
        ] {
            match of(run) {
                Exit::Other(exit) => assert_eq!(exit.to_string(), text),
                exit => panic!("{exit:?}"),
            }
        }
        assert_eq!(of(&mut run(KVM_EXIT_INTR)), Exit::Interrupted);
    }
}
