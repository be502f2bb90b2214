//! Ranges that end behind their DMA window, in each call that has a range, after calls that may bring the
//! machine to have the host's kernel serve such calls: kernels before Linux 7 look where a range starts and
//! not where it ends, and would write behind their tables.

use core::fmt;

use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::dma_window::{DynamicWindows, PAGE_BYTES, Window};
use spapr_test_guests::hypercall::{call, code, number};
use spapr_test_guests::machine::Machine;

use crate::hypercalls::must;
use crate::report::Report;

/// The list, and the pages that its entries name: RAM that nothing else of the guest uses.
const LIST: u64 = 80 << 20;
const PAGES: u64 = 96 << 20;
/// The most entries of a list.
const LONGEST: u64 = 512;
const READ_WRITE: u64 = 3;
/// An entry without permission: the most that a clearing call could write.
const POISON: u64 = 0x6b6b_6b6b_6b6b_6000;
/// Of a dynamic window, as powers of two: fewer entries than a list can have.
const PAGE_SHIFT: u32 = 12;
const WINDOW_SHIFT: u32 = 20;
/// How often all of it is done.
const ROUNDS: u64 = 5;

/// Ranges of one call.
#[derive(Debug, Default)]
struct Count {
    tried: u64,
    refused: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.refused, self.tried)
    }
}

/// A window, and what was tried in it.
struct Attack<'a> {
    window: Window,
    report: &'a mut Report,
    stuffs: Count,
    lists: Count,
}

/// In the default window of each host bridge, and in a dynamic one if there are such.
pub(crate) fn behind_the_end(machine: &Machine<'_>, report: &mut Report) {
    // SAFETY: the guest's image ends far below, and the machine puts the device tree at the end of RAM
    // or below 768 MiB.
    let list = unsafe { DmaMemory::new(LIST, PAGE_BYTES) };
    // Scattered, so that it is much to do.
    list.fill(|index| entry(LONGEST - 1 - index).to_be());
    for bridge in machine.host_bridges() {
        attack("default", Window::of(&bridge.window), report);
        let Some(windows) = DynamicWindows::of(machine, &bridge) else {
            continue;
        };
        match windows.create(PAGE_SHIFT, WINDOW_SHIFT) {
            Ok(window) => {
                attack("dynamic", window, report);
                let removed = windows.remove(&window);
                report.check(removed.is_ok(), format_args!("a window stays: {removed:?}"));
            }
            Err(status) => report.wrong(format_args!("no dynamic window: {status}")),
        }
    }
}

fn attack(name: &str, window: Window, report: &mut Report) {
    let mut attack = Attack {
        window,
        report,
        stuffs: Count::default(),
        lists: Count::default(),
    };
    let last = attack.entries() - 1;
    for _ in 0..ROUNDS {
        for provoke in [single_clearings, short_lists, scattered_lists, everything] {
            provoke(&mut attack);
            attack.put(last, entry(0));
            clearings(&mut attack);
            lists(&mut attack);
            attack.check_last(entry(0));
        }
    }
    attack.stuff(0, attack.entries());
    let Attack {
        report,
        stuffs,
        lists,
        ..
    } = attack;
    report.tell(format_args!(
        "HOSTILE-GUEST-RANGES {name} H_STUFF_TCE={stuffs} H_PUT_TCE_INDIRECT={lists}"
    ));
}

/// An entry that is right.
const fn entry(page: u64) -> u64 {
    (PAGES + page * PAGE_BYTES) | READ_WRITE
}

fn single_clearings(attack: &mut Attack<'_>) {
    for page in 0..64 {
        attack.stuff(page, 1);
    }
}

fn short_lists(attack: &mut Attack<'_>) {
    for page in 0..64 {
        attack.list(page, 1);
    }
}

fn scattered_lists(attack: &mut Attack<'_>) {
    for page in 0..64 {
        attack.list(page, 128);
    }
}

fn everything(attack: &mut Attack<'_>) {
    for page in 0..64 {
        attack.put(page, entry(page));
        attack.list(page, 16);
        attack.stuff(page, 1);
        attack.stuff(page, 16);
    }
}

/// Ranges of H_STUFF_TCE.
fn clearings(attack: &mut Attack<'_>) {
    /// So many pages are 2^64 bytes.
    const ALL: u64 = 1 << 52;
    let entries = attack.entries();
    let last = entries - 1;
    for value in [0, POISON] {
        for count in [
            2,
            3,
            16,
            200,
            LONGEST,
            LONGEST + 1,
            entries,
            1 << 18,
            1 << 32,
            ALL - last,
            ALL,
            ALL + 1,
            1 << 63,
            u64::MAX,
        ] {
            attack.refuse_stuff(last, value, count);
        }
        for count in [
            entries + 1,
            entries + LONGEST,
            2 * entries,
            1 << 32,
            ALL,
            ALL + 1,
            1 << 63,
            u64::MAX,
        ] {
            attack.refuse_stuff(0, value, count);
        }
        for pages in [2, 16, 200, entries / 2] {
            for count in [pages + 1, 2 * pages, ALL + pages, u64::MAX] {
                attack.refuse_stuff(entries - pages, value, count);
            }
        }
    }
}

/// Ranges of H_PUT_TCE_INDIRECT; the list is right.
fn lists(attack: &mut Attack<'_>) {
    let entries = attack.entries();
    for count in [2, 3, 16, 200, LONGEST] {
        attack.refuse_list(entries - 1, count);
    }
    for pages in [2, 16, 200, LONGEST - 1] {
        if pages < entries {
            attack.refuse_list(entries - pages, pages + 1);
            attack.refuse_list(entries - pages, LONGEST);
        }
    }
    for count in entries + 1..=LONGEST {
        attack.refuse_list(0, count);
    }
    for page in [0, entries - 1] {
        for count in [LONGEST + 1, 1 << 32, (1 << 52) + 1, 1 << 63, u64::MAX] {
            attack.refuse_list(page, count);
        }
    }
}

impl Attack<'_> {
    const fn entries(&self) -> u64 {
        self.window.bytes / PAGE_BYTES
    }

    fn liobn(&self) -> u64 {
        self.window.liobn.into()
    }

    const fn ioba(&self, page: u64) -> u64 {
        self.window.start + page * PAGE_BYTES
    }

    fn put(&mut self, page: u64, tce: u64) {
        let arguments = [self.liobn(), self.ioba(page), tce];
        must(self.report, code::H_SUCCESS, number::H_PUT_TCE, arguments);
    }

    fn list(&mut self, page: u64, count: u64) {
        let arguments = [self.liobn(), self.ioba(page), LIST, count];
        must(
            self.report,
            code::H_SUCCESS,
            number::H_PUT_TCE_INDIRECT,
            arguments,
        );
    }

    fn stuff(&mut self, page: u64, count: u64) {
        let arguments = [self.liobn(), self.ioba(page), 0, count];
        must(self.report, code::H_SUCCESS, number::H_STUFF_TCE, arguments);
    }

    fn refuse_stuff(&mut self, page: u64, value: u64, count: u64) {
        let arguments = [self.liobn(), self.ioba(page), value, count];
        let refused = refuses(self.report, number::H_STUFF_TCE, arguments);
        self.stuffs.note(refused);
    }

    fn refuse_list(&mut self, page: u64, count: u64) {
        let arguments = [self.liobn(), self.ioba(page), LIST, count];
        let refused = refuses(self.report, number::H_PUT_TCE_INDIRECT, arguments);
        self.lists.note(refused);
    }

    /// What was refused changed nothing.
    fn check_last(&mut self, expected: u64) {
        let arguments = [self.liobn(), self.ioba(self.entries() - 1)];
        let found = must(self.report, code::H_SUCCESS, number::H_GET_TCE, arguments).registers[0];
        self.report.check(
            found == expected,
            format_args!("the last entry is {found:#x} in place of {expected:#x}"),
        );
    }
}

impl Count {
    const fn note(&mut self, refused: bool) {
        self.tried += 1;
        if refused {
            self.refused += 1;
        }
    }
}

/// Whether the machine finds the arguments wrong.
fn refuses(report: &mut Report, nr: u64, arguments: [u64; 4]) -> bool {
    report.called();
    // SAFETY: TCE calls change no memory, and no device makes use of what they map.
    let code = unsafe { call(nr, arguments) }.code;
    report.check(
        code == code::H_PARAMETER,
        format_args!("hypercall {nr:#x} {arguments:x?}: {code}"),
    );
    code == code::H_PARAMETER
}
