//! A guest that makes a pseudo-random sequence of TCE calls on its first host bridge's default DMA
//! window, to be run where different handlers serve them: all must answer alike.
//!
//! Command line: `seed=NUMBER` and `calls=COUNT` (in blocks of 100). For each block it prints
//!
//!     TCE-SEQUENCES-BLOCK NUMBER calls=… succeeded=… live=… codes=DIGEST view=DIGEST
//!
//! where `codes` stands for all that the calls returned (r3 to r12), `view` for all entries in use
//! as H_GET_TCE reads them after the block, and `live` counts those that map something. It ends with
//! `TCE-SEQUENCES-DONE` and powers off. `print=NUMBER` also prints each call of one block with what
//! it returned, and the entries after it.
//!
//! `also=NAME,…` adds calls that Linux's handlers answer otherwise than they should, or that they
//! must not be given, for they harm the host (see `sequence`). `case=NAME` makes a few fixed calls
//! in place of the sequence (see `cases`).
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod calls;
#[cfg(target_arch = "powerpc64")]
mod cases;
#[cfg(target_arch = "powerpc64")]
mod report;
#[cfg(target_arch = "powerpc64")]
mod sequence;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::console::Console;
    use spapr_test_guests::digest::Digest;
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::random::Random;
    use spapr_test_guests::rtas;

    use crate::calls::{PAGE_BYTES, Window};
    use crate::cases;
    use crate::report::Block;
    use crate::sequence::{Also, Phase, Sequence};

    const CALLS_OF_A_BLOCK: u64 = 100;

    fn main(machine: &Machine<'static>) {
        let bridge = machine.host_bridges().next();
        let (Some(bridge), Some(ram_bytes)) = (bridge, machine.ram_bytes()) else {
            rtas::stop_with("there is no PCI host bridge or no memory");
        };
        let window = Window {
            liobn: bridge.window.liobn.into(),
            start: bridge.window.start,
            entries: bridge.window.bytes / PAGE_BYTES,
            ram_bytes,
        };
        if let Some(name) = machine.argument("case") {
            cases::make(name, window);
        } else {
            let blocks = machine.number_argument("calls").unwrap_or(1000) / CALLS_OF_A_BLOCK;
            let random = Random::new(machine.number_argument("seed").unwrap_or(1));
            let also = Also::of(machine.argument("also").unwrap_or(""));
            let printed = machine.number_argument("print");
            let mut sequence = Sequence::new(random, window, also);
            for number in 0..blocks {
                make_block(&mut sequence, number, printed == Some(number));
            }
        }
        writeln!(Console, "TCE-SEQUENCES-DONE").unwrap_or_default();
    }

    fn make_block(sequence: &mut Sequence, number: u64, is_printed: bool) {
        let mut block = Block {
            number,
            is_printed,
            succeeded: 0,
            live: 0,
            codes: Digest::default(),
            view: Digest::default(),
        };
        for index in 0..CALLS_OF_A_BLOCK {
            let call = sequence.next_call(Phase::of_block(number));
            block.called(index, call, &call.make());
        }
        for part in sequence.parts() {
            for entry in part {
                block.read(entry, &sequence.window().get_entry(entry));
            }
        }
        block.print(CALLS_OF_A_BLOCK);
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
