//! H_SET_MODE: modes of the processors that the guest sets for all of them at once (PAPR,
//! "H_SET_MODE"; the kernel's arch/powerpc/include/asm/hvcall.h, H_SET_MODE_RESOURCE_*).

use std::sync::atomic::{AtomicU64, Ordering};

use spapr_hypercalls::abi::{Arguments, ReturnCode};

/// Interrupts are taken little-endian (Power ISA, LPCR[ILE]).
pub const LPCR_ILE: u64 = 0x0200_0000;
/// Interrupts are taken with relocation on, at 0xc000_0000_0000_4000 (Power ISA, LPCR[AIL]).
pub const LPCR_AIL: u64 = 0x0180_0000;

const RESOURCE_ADDRESS_TRANSLATION: u64 = 3;
const RESOURCE_LITTLE_ENDIAN: u64 = 4;

/// The bits of the LPCR that the guest chose, the same for all processors.
#[derive(Debug, Default)]
pub struct Modes {
    lpcr: AtomicU64,
}

impl Modes {
    /// The bits as every processor should have them, under the mask [`LPCR_ILE`] | [`LPCR_AIL`].
    pub fn lpcr(&self) -> u64 {
        self.lpcr.load(Ordering::SeqCst)
    }

    /// Serves H_SET_MODE (mode flags, resource, two values). Returns whether the bits changed, so
    /// that all processors have to take them up.
    ///
    /// `relocation_on` says whether this host's KVM lets interrupts be taken with relocation on
    /// (KVM_CAP_PPC_AIL_MODE_3).
    #[inline(never)]
    pub fn set(&self, arguments: &Arguments, relocation_on: bool) -> (ReturnCode, bool) {
        let [flags, resource, value1, value2, ..] = *arguments;
        let (mask, bits) = match (resource, flags) {
            (RESOURCE_LITTLE_ENDIAN | RESOURCE_ADDRESS_TRANSLATION, _) if value1 != 0 => {
                return (ReturnCode::P3, false);
            }
            (RESOURCE_LITTLE_ENDIAN | RESOURCE_ADDRESS_TRANSLATION, _) if value2 != 0 => {
                return (ReturnCode::P4, false);
            }
            (RESOURCE_LITTLE_ENDIAN, 0) => (LPCR_ILE, 0),
            (RESOURCE_LITTLE_ENDIAN, 1) => (LPCR_ILE, LPCR_ILE),
            (RESOURCE_ADDRESS_TRANSLATION, 0) => (LPCR_AIL, 0),
            (RESOURCE_ADDRESS_TRANSLATION, 3) if relocation_on => (LPCR_AIL, LPCR_AIL),
            (RESOURCE_LITTLE_ENDIAN | RESOURCE_ADDRESS_TRANSLATION, _) => {
                return (ReturnCode::UNSUPPORTED_FLAG_START, false);
            }
            _ => return (ReturnCode::P2, false),
        };
        let set = |before| before & !mask | bits;
        let before = self.lpcr.update(Ordering::SeqCst, Ordering::SeqCst, set);
        (ReturnCode::SUCCESS, set(before) != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(flags: u64, resource: u64, value1: u64, value2: u64) -> Arguments {
        [flags, resource, value1, value2, 0, 0, 0, 0, 0]
    }

    #[test]
    fn little_endian_interrupts_can_be_turned_on_and_off() {
        let modes = Modes::default();
        assert_eq!(
            modes.set(&arguments(1, 4, 0, 0), false),
            (ReturnCode::SUCCESS, true)
        );
        assert_eq!(modes.lpcr(), LPCR_ILE);
        assert_eq!(
            modes.set(&arguments(1, 4, 0, 0), false),
            (ReturnCode::SUCCESS, false)
        );
        assert_eq!(
            modes.set(&arguments(0, 4, 0, 0), false),
            (ReturnCode::SUCCESS, true)
        );
        assert_eq!(modes.lpcr(), 0);
    }

    #[test]
    fn relocation_on_interrupt_needs_the_host() {
        let modes = Modes::default();
        let ask = arguments(3, 3, 0, 0);
        assert_eq!(
            modes.set(&ask, false),
            (ReturnCode::UNSUPPORTED_FLAG_START, false)
        );
        assert_eq!(modes.set(&ask, true), (ReturnCode::SUCCESS, true));
        assert_eq!(modes.lpcr(), LPCR_AIL);
    }

    #[test]
    fn processors_that_set_two_modes_at_once_lose_neither() {
        for _ in 0..1000 {
            let modes = Modes::default();
            std::thread::scope(|scope| {
                scope.spawn(|| modes.set(&arguments(1, 4, 0, 0), true));
                scope.spawn(|| modes.set(&arguments(3, 3, 0, 0), true));
            });
            assert_eq!(modes.lpcr(), LPCR_ILE | LPCR_AIL);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_guest_asks_only_its_two_fields_change(
            flags: u64, resource in 0u64..6, value1 in 0u64..2, value2 in 0u64..2, host: bool
        ) {
            let modes = Modes::default();
            let (code, changed) = modes.set(&arguments(flags, resource, value1, value2), host);
            assert_eq!(modes.lpcr() & !(LPCR_ILE | LPCR_AIL), 0);
            assert!(!changed || code == ReturnCode::SUCCESS);
        }
    }
}
