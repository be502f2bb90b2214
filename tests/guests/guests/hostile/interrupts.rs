//! The interrupt controller: the hypercalls of XIVE, and loads and stores in its pages. A machine
//! with XICS has none of either; one with XIVE has no hypercalls of XICS.

use spapr_test_guests::access::{WIDTHS, Width, load, store};
use spapr_test_guests::hypercall::{code, hypercall, number};
use spapr_test_guests::machine::Machine;
use spapr_test_guests::random::Random;

use crate::hypercalls::must;
use crate::report::Report;
use crate::values::Values;

/// Where event queues are put: between the arena and what is at the end of RAM.
const QUEUES: u64 = 64 << 20;
const QUEUE_SHIFT: u64 = 16;
const QUEUE_BYTES: u64 = 1 << QUEUE_SHIFT;
/// Pages of a source.
const PAGE: u64 = 0x1_0000;
/// The operating system's page of the thread interrupt management area, and the programs' behind it.
const THREAD_MANAGEMENT: u64 = 0x0006_0302_031a_0000;
const SOURCES: u64 = 0x0006_0100_0000_0000;
/// The terminal's source, and the first of devices' messages.
const TERMINAL: u64 = 0x1100;
const MESSAGES: u64 = 0x1300;
/// No machine has this source.
const NO_SOURCE: u64 = 0x1fff;
const NO_PROCESSOR: u64 = 1024;
const PRIORITY: u64 = 6;
/// What the terminal's source puts into its queue.
const DATA: u64 = 0x1234_5678;

const XIVE: [u64; 11] = [
    number::H_INT_GET_SOURCE_INFO,
    number::H_INT_SET_SOURCE_CONFIG,
    number::H_INT_GET_SOURCE_CONFIG,
    number::H_INT_GET_QUEUE_INFO,
    number::H_INT_SET_QUEUE_CONFIG,
    number::H_INT_GET_QUEUE_CONFIG,
    number::H_INT_SET_OS_REPORTING_LINE,
    number::H_INT_GET_OS_REPORTING_LINE,
    number::H_INT_ESB,
    number::H_INT_SYNC,
    number::H_INT_RESET,
];
/// H_EOI, H_CPPR, H_IPI, H_IPOLL, H_XIRR and H_XIRR_X.
const XICS: [u64; 6] = [0x64, 0x68, 0x6c, 0x70, 0x74, 0x2fc];

/// Calls that have one right answer each.
pub(crate) fn mistakes(machine: &Machine<'_>, values: &Values, report: &mut Report) {
    if !machine.has_xive() {
        for nr in XIVE {
            must(report, code::H_FUNCTION, nr, [0, 0, 0, 0, 0]);
        }
        return;
    }
    for nr in XICS {
        must(report, code::H_FUNCTION, nr, [0, 0, 0, 0]);
    }
    unknown_flags(report);
    sources(report);
    queues(values.ram_bytes, report);
    what_is_right(report);
}

fn unknown_flags(report: &mut Report) {
    for nr in XIVE {
        let expected = match nr {
            number::H_INT_SET_OS_REPORTING_LINE | number::H_INT_GET_OS_REPORTING_LINE => {
                code::H_FUNCTION
            }
            _ => code::H_PARAMETER,
        };
        for flags in [4, 1 << 63, u64::MAX] {
            must(report, expected, nr, [flags, TERMINAL, PRIORITY, 0, 0]);
        }
    }
}

fn sources(report: &mut Report) {
    for source in [
        NO_SOURCE,
        0x2000,
        0xffff,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX,
    ] {
        for nr in [
            number::H_INT_GET_SOURCE_INFO,
            number::H_INT_SET_SOURCE_CONFIG,
            number::H_INT_GET_SOURCE_CONFIG,
            number::H_INT_ESB,
            number::H_INT_SYNC,
        ] {
            must(report, code::H_P2, nr, [0, source, 0, 0xff, 0]);
        }
    }
    for (expected, arguments) in [
        (code::H_P3, [2, TERMINAL, NO_PROCESSOR, PRIORITY, 1]),
        (code::H_P3, [2, TERMINAL, u64::MAX, PRIORITY, 1]),
        (code::H_P4, [2, TERMINAL, 0, 7, 1]),
        (code::H_P4, [2, TERMINAL, 0, u64::MAX, 1]),
        // There is no queue yet.
        (code::H_P4, [2, TERMINAL, 0, PRIORITY, 1]),
        (code::H_P5, [2, TERMINAL, 0, 0xff, 1 << 31]),
        (code::H_P5, [2, TERMINAL, 0, 0xff, u64::MAX]),
    ] {
        must(report, expected, number::H_INT_SET_SOURCE_CONFIG, arguments);
    }
    for offset in [1, 4, PAGE, PAGE + 8, 1 << 40, u64::MAX - 7] {
        for flags in [0, 1] {
            let arguments = [flags, TERMINAL, offset, 0];
            must(report, code::H_P3, number::H_INT_ESB, arguments);
        }
    }
}

fn queues(ram_bytes: u64, report: &mut Report) {
    for (expected, [server, priority]) in [
        (code::H_P2, [NO_PROCESSOR, PRIORITY]),
        (code::H_P2, [u64::MAX, PRIORITY]),
        (code::H_P3, [0, 7]),
        (code::H_P3, [0, 0xff]),
        (code::H_P3, [0, 1 << 32]),
    ] {
        for nr in [
            number::H_INT_GET_QUEUE_INFO,
            number::H_INT_SET_QUEUE_CONFIG,
            number::H_INT_GET_QUEUE_CONFIG,
        ] {
            let arguments = [0, server, priority, QUEUES, QUEUE_SHIFT];
            must(report, expected, nr, arguments);
        }
    }
    // Behind RAM, across its end, unaligned, and the controller's own pages.
    for address in [
        ram_bytes,
        ram_bytes - 4096,
        QUEUES + 4096,
        QUEUES + 1,
        SOURCES,
        SOURCES + TERMINAL * 2 * PAGE,
        THREAD_MANAGEMENT,
        1 << 63,
        u64::MAX,
        !(QUEUE_BYTES - 1),
    ] {
        let arguments = [1, 0, PRIORITY, address, QUEUE_SHIFT];
        must(
            report,
            code::H_P4,
            number::H_INT_SET_QUEUE_CONFIG,
            arguments,
        );
    }
    for shift in [1, 12, 21, 63, 64, 1 << 32, u64::MAX] {
        let arguments = [1, 0, PRIORITY, QUEUES, shift];
        must(
            report,
            code::H_P5,
            number::H_INT_SET_QUEUE_CONFIG,
            arguments,
        );
    }
    let coalesced = [0, 0, PRIORITY, QUEUES, QUEUE_SHIFT];
    must(
        report,
        code::H_PARAMETER,
        number::H_INT_SET_QUEUE_CONFIG,
        coalesced,
    );
}

/// An interrupt that the guest triggers itself comes to its queue.
fn what_is_right(report: &mut Report) {
    let set_queue = |report: &mut Report, address| {
        let arguments = [1, 0, PRIORITY, address, QUEUE_SHIFT];
        must(
            report,
            code::H_SUCCESS,
            number::H_INT_SET_QUEUE_CONFIG,
            arguments,
        );
    };
    set_queue(report, QUEUES + QUEUE_BYTES);
    // And elsewhere.
    set_queue(report, QUEUES);
    let arguments = [2, TERMINAL, 0, PRIORITY, DATA];
    must(
        report,
        code::H_SUCCESS,
        number::H_INT_SET_SOURCE_CONFIG,
        arguments,
    );
    let told = must(
        report,
        code::H_SUCCESS,
        number::H_INT_GET_SOURCE_CONFIG,
        [0, TERMINAL],
    );
    report.check(
        told.registers[..3] == [0, PRIORITY, DATA],
        format_args!("the source's configuration is {:x?}", told.registers),
    );
    let info = must(
        report,
        code::H_SUCCESS,
        number::H_INT_GET_SOURCE_INFO,
        [0, TERMINAL],
    );
    let [flags, management, trigger, shift, ..] = info.registers;
    report.check(
        (flags, shift) == (0, 16) && (management, trigger) == (trigger + PAGE, trigger),
        format_args!("the source's pages are {:x?}", info.registers),
    );
    // Accept events (SET_PQ_00), by a load and by hypercall.
    // SAFETY: a source's page is no memory.
    let state = unsafe { load(management + 0xc00, Width::Doubleword) };
    report.check(state.is_ok(), format_args!("the source's page: {state:?}"));
    an_event_comes(trigger, 0, report);
    let arguments = [0, TERMINAL, 0xc00, 0];
    must(report, code::H_SUCCESS, number::H_INT_ESB, arguments);
    an_event_comes(trigger, 1, report);
    must(report, code::H_SUCCESS, number::H_INT_RESET, [0]);
    let told = must(
        report,
        code::H_SUCCESS,
        number::H_INT_GET_QUEUE_CONFIG,
        [0, 0, PRIORITY],
    );
    report.check(
        told.registers[..4] == [0; 4],
        format_args!("the queue is still at {:x?}", told.registers),
    );
}

/// An event made by a store to `trigger` is entry number `place` of the queue.
fn an_event_comes(trigger: u64, place: u64, report: &mut Report) {
    // SAFETY: a source's page is no memory.
    let stored = unsafe { store(trigger, Width::Doubleword, 0) };
    report.check(
        stored.is_ok(),
        format_args!("the source's page: {stored:?}"),
    );
    must(report, code::H_SUCCESS, number::H_INT_SYNC, [0, TERMINAL]);
    // SAFETY: queues are where nothing of Rust's is.
    let found = unsafe { load(QUEUES + 4 * place, Width::Word) };
    let found = found.map(|word| u64::from(low_word(word).swap_bytes()));
    // The first entries' toggle bit is set.
    report.check(
        found == Ok(0x8000_0000 | DATA),
        format_args!("entry {place} of the queue is {found:x?}"),
    );
}

/// Calls, and loads and stores, with random arguments.
pub(crate) fn at_random(
    machine: &Machine<'_>,
    values: &Values,
    random: &mut Random,
    rounds: u64,
    report: &mut Report,
) {
    if !machine.has_xive() {
        return;
    }
    for _ in 0..rounds {
        if random.below(4) == 0 {
            access(random, report);
        } else {
            call(values, random, report);
        }
    }
    must(report, code::H_SUCCESS, number::H_INT_RESET, [0]);
}

fn call(values: &Values, random: &mut Random, report: &mut Report) {
    let nr = random.one_of(&XIVE);
    let mut arguments = [(); 9].map(|()| values.any(random));
    // Often what there is.
    if random.below(8) != 0 {
        arguments[0] = random.below(4);
    }
    let is_of_queue = matches!(
        nr,
        number::H_INT_GET_QUEUE_INFO
            | number::H_INT_SET_QUEUE_CONFIG
            | number::H_INT_GET_QUEUE_CONFIG
    );
    if random.below(8) != 0 {
        arguments[1] = if is_of_queue { 0 } else { source(random) };
        arguments[2] = if is_of_queue { random.below(8) } else { 0 };
        arguments[3] = random.one_of(&[PRIORITY, 0xff, 0, 5]);
    }
    if nr == number::H_INT_SET_QUEUE_CONFIG {
        let address = values.any(random);
        let is_right = address.is_multiple_of(QUEUE_BYTES) && address < values.ram_bytes;
        arguments[3] = if is_right || random.below(2) == 0 {
            QUEUES + random.below(8) * QUEUE_BYTES
        } else {
            address
        };
        arguments[4] = random.one_of(&[0, QUEUE_SHIFT, QUEUE_SHIFT, arguments[4]]);
    }
    if nr == number::H_INT_ESB && random.below(4) != 0 {
        arguments[2] = 8 * random.below(PAGE / 8);
    }
    report.called();
    // SAFETY: queues, which are written to, are where nothing of Rust's is.
    let answer = unsafe { hypercall(nr, &arguments) };
    report.check(
        (-512..=0).contains(&answer.code),
        format_args!("hypercall {nr:#x} {arguments:x?}: {}", answer.code),
    );
}

/// A source that there is, most of the time.
fn source(random: &mut Random) -> u64 {
    random.one_of(&[0, 1, 0x1000, TERMINAL, MESSAGES, MESSAGES + 1, NO_SOURCE])
}

/// A load from, or a store to, a page of the controller's, of a source that there is or is not.
fn access(random: &mut Random, report: &mut Report) {
    let page = match random.below(4) {
        0 => THREAD_MANAGEMENT + PAGE * random.below(2),
        _ => SOURCES + PAGE * (2 * source(random) + random.below(2)),
    };
    let width = random.one_of(&WIDTHS);
    let address = page + 8 * random.below(PAGE / 8);
    report.called();
    if random.below(2) == 0 {
        // SAFETY: there is no RAM; interrupts are off, so whatever it does is not noticed.
        let _found_or_not = unsafe { load(address, width) };
    } else {
        let value = random.of_any_size();
        // SAFETY: as for a load.
        let _taken_or_not = unsafe { store(address, width, value) };
    }
}

fn low_word(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}
