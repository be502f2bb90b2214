//! H_SIGNAL_SYS_RESET: system reset interrupts, which no processor can mask (PAPR,
//! "H_SIGNAL_SYS_RESET"). A Linux that crashes stops its other processors with them, those that
//! have interrupts off too, before it enters the kernel that takes the dump.

use spapr_hypercalls::abi::{Arguments, ReturnCode};

use crate::partition::modes::LPCR_ILE;
use crate::partition::processors::Processors;

/// The target that means all processors.
const ALL: u64 = u64::MAX;
/// The target that means all processors but the caller's.
const ALL_OTHERS: u64 = u64::MAX - 1;

/// Where the interrupt begins; LPCR\[AIL\] does not move it (Power ISA, III 7.5.1).
const VECTOR: u64 = 0x100;
/// The bits of SRR1 that do not hold those of the MSR but say what happened (Power ISA, bits 33 to
/// 36 and 42 to 47). All zero: nothing that ended a power-saving mode.
const SRR1_CAUSE: u64 = 0x783f_0000;

const MSR_SF: u64 = 1 << 63;
const MSR_ME: u64 = 1 << 12;
const MSR_LE: u64 = 1;

/// The registers that the interrupt changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemReset {
    /// Address of the next instruction.
    pub pc: u64,
    /// Machine state register.
    pub msr: u64,
    /// Where the processor was.
    pub srr0: u64,
    /// The machine state that it was in.
    pub srr1: u64,
}

impl SystemReset {
    /// The interrupt, to a processor that is at `pc` with machine state `msr` and the bits `lpcr`
    /// of the logical partitioning control register.
    pub const fn interrupt(pc: u64, msr: u64, lpcr: u64) -> Self {
        let little_endian = if lpcr & LPCR_ILE == 0 { 0 } else { MSR_LE };
        Self {
            pc: VECTOR,
            msr: MSR_SF | msr & MSR_ME | little_endian,
            srr0: pc,
            srr1: msr & !SRR1_CAUSE,
        }
    }
}

/// Serves the call of processor `caller`; argument: the target's interrupt server number, or -1 or
/// -2 for all or all others. Processors that are stopped are left alone.
#[inline(never)]
pub fn signal(processors: &Processors, caller: u32, arguments: &Arguments) -> ReturnCode {
    let [target, ..] = *arguments;
    let spared = match target {
        ALL => None,
        ALL_OTHERS => Some(caller),
        _ => {
            let found = u32::try_from(target).is_ok_and(|server| processors.system_reset(server));
            return if found {
                ReturnCode::SUCCESS
            } else {
                ReturnCode::PARAMETER
            };
        }
    };
    processors.system_reset_all(spared);
    ReturnCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::processors::StartAddress;

    const LITTLE_ENDIAN_KERNEL: u64 = 0x8000_0000_0280_b033;

    #[test]
    fn the_handler_finds_where_the_processor_was() {
        let interrupt =
            SystemReset::interrupt(0xc000_0000_0001_2344, LITTLE_ENDIAN_KERNEL, LPCR_ILE);
        assert_eq!(
            interrupt,
            SystemReset {
                pc: 0x100,
                msr: MSR_SF | MSR_ME | MSR_LE,
                srr0: 0xc000_0000_0001_2344,
                srr1: 0x8000_0000_0280_b033 & !SRR1_CAUSE,
            }
        );
        let big_endian = SystemReset::interrupt(0, 0, 0);
        assert_eq!(big_endian.msr, MSR_SF, "machine checks stay off");
    }

    /// Four processors, the last of them stopped.
    fn processors() -> Processors {
        let processors = Processors::new(4);
        for server in 0..3 {
            let start = StartAddress { entry: 0, r3: 0 };
            processors.start(server, start).unwrap();
            processors.wait_for_start(server).unwrap();
        }
        processors
    }

    fn signalled(target: u64) -> (ReturnCode, Vec<u32>) {
        let processors = processors();
        let code = signal(&processors, 1, &[target, 0, 0, 0, 0, 0, 0, 0, 0]);
        let taken = (0..4)
            .filter(|&server| processors.take_system_reset(server))
            .collect();
        (code, taken)
    }

    #[test]
    fn one_all_or_all_other_processors_can_be_meant() {
        assert_eq!(signalled(2), (ReturnCode::SUCCESS, vec![2]));
        assert_eq!(signalled(1), (ReturnCode::SUCCESS, vec![1]));
        assert_eq!(signalled(ALL), (ReturnCode::SUCCESS, vec![0, 1, 2]));
        assert_eq!(signalled(ALL_OTHERS), (ReturnCode::SUCCESS, vec![0, 2]));
    }

    #[test]
    fn a_stopped_processor_is_left_alone() {
        assert_eq!(signalled(3), (ReturnCode::SUCCESS, vec![]));
    }

    #[test]
    fn a_processor_that_does_not_exist_is_a_parameter_error() {
        for target in [4, 1 << 32, ALL_OTHERS - 1] {
            assert_eq!(signalled(target), (ReturnCode::PARAMETER, vec![]));
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_state_the_interrupt_is_taken_in_64_bits_without_translation(
            pc: u64, msr: u64, lpcr: u64
        ) {
            let interrupt = SystemReset::interrupt(pc, msr, lpcr);
            assert_eq!(interrupt.msr & !(MSR_ME | MSR_LE), MSR_SF);
            assert_eq!((interrupt.pc, interrupt.srr0), (VECTOR, pc));
            assert_eq!(interrupt.srr1 & SRR1_CAUSE, 0);
        }
    }
}
