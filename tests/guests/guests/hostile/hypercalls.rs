//! Hypercalls with wrong arguments.

use spapr_test_guests::hypercall::{Answer, call, code, hypercall, number};
use spapr_test_guests::random::Random;

use crate::report::Report;
use crate::translation;
use crate::values::Values;

/// Addresses below are the guest's own image and its stack; no argument block is looked for there.
const IMAGE_END: u64 = 32 << 20;
/// Terminals are numbered by the unit address of their node; none is here.
const NO_TERMINAL: u64 = 0x7fff_0000;

/// A call that must be answered with `expected`.
pub(crate) fn must<const N: usize>(
    report: &mut Report,
    expected: i64,
    nr: u64,
    arguments: [u64; N],
) -> Answer {
    report.called();
    // SAFETY: the calls made here write at most to the arena's pages, which hold no Rust object.
    let answer = unsafe { call(nr, arguments) };
    report.check(
        answer.code == expected,
        format_args!(
            "hypercall {nr:#x} {arguments:x?}: {} in place of {expected}",
            answer.code
        ),
    );
    answer
}

/// A call that must not be answered with success, nor with "try again".
fn must_fail<const N: usize>(report: &mut Report, nr: u64, arguments: [u64; N]) {
    report.called();
    // SAFETY: a call that fails changes nothing; one that should have failed is reported.
    let answer = unsafe { call(nr, arguments) };
    report.check(
        (-512..0).contains(&answer.code),
        format_args!(
            "hypercall {nr:#x} {arguments:x?}: {} in place of an error",
            answer.code
        ),
    );
}

/// Mistakes that have one right answer each.
pub(crate) fn mistakes(values: &Values, report: &mut Report) {
    unknown_numbers(report);
    terminal(report);
    rtas_blocks(values, report);
    modes(report);
    translation::without_window(report);
    if let Some(window) = values.window() {
        translation::with_window(window, values.ram_bytes, report);
    }
}

fn unknown_numbers(report: &mut Report) {
    let unknown = [
        0x3f4,
        0x404,
        0x40c,
        0x43c,
        0x500,
        0x1000,
        0x5_0000,
        0xf00c,
        0xf0fc,
        0x1_0020,
        0x1_0000_0020,
        0x8000_0000_0000_0020,
        0xffff_fffc,
        u64::MAX - 3,
        0x21,
        0x13d,
        0x59,
        0xf001,
        u64::MAX,
    ];
    for nr in unknown {
        must(report, code::H_FUNCTION, nr, [1, 2, 3, 4]);
    }
}

fn terminal(report: &mut Report) {
    for length in [17, 1 << 32, u64::MAX] {
        must(
            report,
            code::H_PARAMETER,
            number::H_PUT_TERM_CHAR,
            [0, length, 0, 0],
        );
    }
    for terminal in [1, NO_TERMINAL, 1 << 32, u64::MAX] {
        must(
            report,
            code::H_PARAMETER,
            number::H_PUT_TERM_CHAR,
            [terminal, 1, 0, 0],
        );
        must(
            report,
            code::H_PARAMETER,
            number::H_GET_TERM_CHAR,
            [terminal],
        );
    }
    let input = must(report, code::H_SUCCESS, number::H_GET_TERM_CHAR, [0]);
    report.check(
        input.registers[0] <= 16,
        format_args!("{} bytes of input at once", input.registers[0]),
    );
    must(
        report,
        code::H_SUCCESS,
        number::H_PUT_TERM_CHAR,
        [0, 0, 0, 0],
    );
}

fn rtas_blocks(values: &Values, report: &mut Report) {
    let ram = values.ram_bytes;
    for block in [
        ram,
        ram - 1,
        ram - 4,
        ram - 11,
        1 << 32,
        1 << 52,
        1 << 63,
        u64::MAX,
        u64::MAX - 3,
    ] {
        must(report, code::H_PARAMETER, number::KVMPPC_H_RTAS, [block]);
    }
}

fn modes(report: &mut Report) {
    for resource in [0, 5, 6, 1 << 32, u64::MAX] {
        must_fail(report, number::H_SET_MODE, [0, resource, 0, 0]);
    }
    for (flags, resource, value1, value2) in [
        (2, 4, 0, 0),
        (1, 4, 1, 0),
        (1, 4, 0, 1),
        (1, 3, 0, 0),
        (4, 3, 0, 0),
        (u64::MAX, 3, 0, 0),
    ] {
        must_fail(
            report,
            number::H_SET_MODE,
            [flags, resource, value1, value2],
        );
    }
}

/// Mistakes in H_REGISTER_PROC_TBL; last, as a right call would change how memory is addressed.
pub(crate) fn process_table_mistakes(report: &mut Report) {
    for arguments in [
        [0x20, 0, 0, 0],
        [u64::MAX, 0, 0, 0],
        [0x1a, 0, 0, 0],
        [0x1d, 1, 0, 4],
        [0x1d, 1 << 60, 0, 4],
        [0x1d, u64::MAX, 0, 4],
        [0x1d, 0x100_0000, 1, 4],
        [0x1d, 0x100_0000, 0, 25],
        [0x1d, 0x100_0000, 0, u64::MAX],
    ] {
        must_fail(report, number::H_REGISTER_PROC_TBL, arguments);
    }
}

/// Random arguments, with a liking for edges; each answer has to be one that PAPR knows.
pub(crate) fn at_random(values: &Values, random: &mut Random, rounds: u64, report: &mut Report) {
    for _ in 0..rounds {
        let nr = random.one_of(&[
            number::H_GET_TCE,
            number::H_PUT_TCE,
            number::H_PUT_TCE_INDIRECT,
            number::H_STUFF_TCE,
            number::H_SET_SPRG0,
            number::H_GET_TERM_CHAR,
            number::H_PUT_TERM_CHAR,
            number::H_GET_CPU_CHARACTERISTICS,
            number::H_SET_MODE,
            number::KVMPPC_H_RTAS,
        ]);
        let mut arguments = [(); 9].map(|()| values.any(random));
        match nr {
            number::H_GET_TCE
            | number::H_PUT_TCE
            | number::H_PUT_TCE_INDIRECT
            | number::H_STUFF_TCE => arguments[0] = values.liobn(random),
            // Nothing that fills the terminal.
            number::H_PUT_TERM_CHAR => arguments[0] |= NO_TERMINAL,
            number::H_SET_MODE => {
                arguments[0] = random.below(5);
                arguments[1] = random.below(7);
                arguments[2] *= random.below(2);
                arguments[3] *= random.below(2);
            }
            number::KVMPPC_H_RTAS if arguments[0] < IMAGE_END => {
                arguments[0] = values.outside_ram(random);
            }
            _ => {}
        }
        report.called();
        // SAFETY: none of them writes to memory: the argument blocks of RTAS calls found outside
        // the guest's image are none.
        let answer = unsafe { hypercall(nr, &arguments) };
        report.check(
            (-512..=1).contains(&answer.code),
            format_args!("hypercall {nr:#x} {arguments:x?}: {}", answer.code),
        );
    }
}
