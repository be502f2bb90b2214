//! The pseudo-random sequence of calls.
//!
//! Calls are crowded onto few entries, so that each overlaps many before it: 1,024 in the middle of
//! the window, where the kernel's table goes from one page to the next, and 64 at each end. What
//! they map are pages at both sides of the boundaries at which memory is locked region by region,
//! and at the end of RAM. One call in six is wrong.
//!
//! What the sequence leaves out unless asked for, because Linux's handlers do it otherwise
//! (arch/powerpc/kvm/book3s_64_vio.c):
//!
//! | `also=` | what |
//! |---|---|
//! | `beyond-end` | lists and ranges that begin in the window and end beyond it: **the kernel would write beyond its tables**; for handlers in user space only |
//! | `clears` | lists with entries that have no permission, which name RAM: **the kernel would hold on to that memory for ever**; for handlers in user space only |
//! | `strays` | lists with an entry that has no permission and names no RAM: the kernel refuses them half done |

use core::ops::Range;

use spapr_test_guests::hypercall::number;
use spapr_test_guests::random::Random;

use crate::calls::{Call, LIST, LONGEST, PAGE_BYTES, READ_WRITE, Window, write_to_list};

/// Entries in use at each end of the window.
const EDGE_ENTRIES: u64 = 64;
/// The entries in use in its middle. A page of 64 KiB of the kernel's table holds 8,192 entries, and
/// one of 4 KiB a divisor of that.
const MIDDLE: Range<u64> = 8192 - 512..8192 + 512;
/// The guest's memory is locked in regions of this size.
const REGION_BYTES: u64 = 256 << 20;
/// How many pages are in use at each of the places in RAM.
const PAGES_OF_A_PLACE: u64 = 1024;

/// Lengths of lists and ranges in turn: few entries, many, all kinds. A VMM that chooses by length
/// who handles them is made to choose again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Short,
    Long,
    Mixed,
}

impl Phase {
    /// The phase of a block of calls.
    pub(crate) const fn of_block(number: u64) -> Self {
        match number % 4 {
            0 | 1 => Self::Short,
            2 => Self::Long,
            _ => Self::Mixed,
        }
    }

    const fn lengths(self) -> &'static [u64] {
        match self {
            Self::Short => &[0, 1, 1, 2, 2, 3, 4, 5, 7, 8],
            Self::Long => &[64, 128, 200, 511, 512],
            Self::Mixed => &[0, 1, 2, 3, 8, 9, 16, 17, 33, 64, 100, 256, 511, 512],
        }
    }
}

/// What the sequence has besides what all handlers answer alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Also {
    beyond_end: bool,
    clears: bool,
    strays: bool,
}

impl Also {
    /// Reads names with commas between them.
    pub(crate) fn of(names: &str) -> Self {
        let has = |wanted: &str| names.split(',').any(|name| name == wanted);
        Self {
            beyond_end: has("beyond-end"),
            clears: has("clears"),
            strays: has("strays"),
        }
    }
}

/// The sequence.
#[derive(Debug)]
pub(crate) struct Sequence {
    random: Random,
    window: Window,
    also: Also,
}

impl Sequence {
    pub(crate) const fn new(random: Random, window: Window, also: Also) -> Self {
        Self {
            random,
            window,
            also,
        }
    }

    pub(crate) const fn window(&self) -> &Window {
        &self.window
    }

    /// The entries in use.
    pub(crate) const fn parts(&self) -> [Range<u64>; 3] {
        let end = self.window.entries;
        [0..EDGE_ENTRIES, MIDDLE, end - EDGE_ENTRIES..end]
    }

    /// The next call; its list is in memory.
    pub(crate) fn next_call(&mut self, phase: Phase) -> Call {
        let call = match self.random.below(8) {
            0 | 1 => self.put(),
            2 => self.get(),
            3 | 4 => self.stuff(phase),
            _ => self.put_list(phase),
        };
        if self.random.below(6) == 0 {
            self.make_wrong(call)
        } else {
            call
        }
    }

    fn put(&mut self) -> Call {
        let (index, _) = self.range(1);
        let entry = match self.random.below(4) {
            0 => self.value_without_permission(),
            _ => self.page(1) | self.permission(),
        };
        self.window.put(self.window.ioba(index), entry)
    }

    fn get(&mut self) -> Call {
        let (index, _) = self.range(1);
        self.window.get(self.window.ioba(index))
    }

    fn stuff(&mut self, phase: Phase) -> Call {
        let length = self.random.one_of(phase.lengths());
        let (index, mut count) = self.range(length);
        if self.also.beyond_end && self.random.below(8) == 0 {
            count = self.beyond_end(index);
        }
        let value = self.value_without_permission();
        self.window.stuff(self.window.ioba(index), value, count)
    }

    fn put_list(&mut self, phase: Phase) -> Call {
        let length = self.random.one_of(phase.lengths());
        let (mut index, mut count) = self.range(length);
        if self.also.beyond_end && self.random.below(8) == 0 {
            index = self.window.entries - 1 - self.random.below(EDGE_ENTRIES);
            count = self.window.entries - index + 1 + self.random.below(EDGE_ENTRIES);
        }
        self.fill_list(count);
        self.window.put_list(self.window.ioba(index), LIST, count)
    }

    /// A range of up to `length` entries that are in use.
    fn range(&mut self, length: u64) -> (u64, u64) {
        let [start, middle, end] = self.parts();
        let part = match self.random.below(12) {
            0 => start,
            1 => end,
            _ => middle,
        };
        let entries = part.end - part.start;
        let length = length.min(entries);
        // A range of no entries still begins at one.
        let room = entries - length.max(1);
        let index = match self.random.below(8) {
            0 => part.start,
            1 => part.start + room,
            _ => part.start + self.random.below(room + 1),
        };
        (index, length)
    }

    /// How many entries from `index` on are too many.
    fn beyond_end(&mut self, index: u64) -> u64 {
        let rest = self.window.entries - index;
        let more = self.random.below(EDGE_ENTRIES);
        let counts = [rest + 1, rest + 1 + more, 1 << 32, 1 << 52, u64::MAX];
        self.random.one_of(&counts)
    }

    /// Writes `count` entries, most of which map, in runs of pages that follow each other.
    fn fill_list(&mut self, count: u64) {
        let longest_run = self.random.one_of(&[1, 1, 2, 8, 64, LONGEST]);
        let (mut entry, mut left) = (0, 0);
        for index in 0..count.min(LONGEST) {
            if left == 0 {
                left = longest_run;
                entry = self.page(longest_run) | self.permission();
            } else {
                entry += PAGE_BYTES;
            }
            left -= 1;
            write_to_list(index, entry);
        }
        if self.also.clears && self.random.below(3) == 0 {
            let first = self.random.below(count.max(1));
            let cleared = 1 + self.random.below(8);
            for index in first..count.min(first + cleared) {
                let page = self.page(1);
                write_to_list(index, self.random.one_of(&[0, 0, page]));
            }
        }
        if self.also.strays && self.random.below(4) == 0 {
            let index = self.random.below(count.max(1));
            write_to_list(index, self.no_ram());
        }
    }

    /// An entry that maps nothing, as guests clear one, or poison it.
    fn value_without_permission(&mut self) -> u64 {
        match self.random.below(6) {
            0 => self.page(1),
            1 => self.no_ram(),
            2 => self.random.number() & !READ_WRITE,
            _ => 0,
        }
    }

    fn permission(&mut self) -> u64 {
        self.random.one_of(&[1, 2, 3, 3])
    }

    /// The address of a page in RAM that `room` - 1 pages follow.
    fn page(&mut self, room: u64) -> u64 {
        let pages = self.window.ram_bytes / PAGE_BYTES;
        let regions = self.window.ram_bytes.div_ceil(REGION_BYTES);
        let before = PAGES_OF_A_PLACE / 2;
        let first = match self.random.below(4) {
            0 => REGION_BYTES / 4 / PAGE_BYTES,
            1 => (1 + self.random.below(regions)) * (REGION_BYTES / PAGE_BYTES) - before,
            2 => pages - before,
            _ => self.random.below(pages),
        };
        let page = first + self.random.below(PAGES_OF_A_PLACE);
        page.min(pages - room) * PAGE_BYTES
    }

    /// An address that is no RAM.
    fn no_ram(&mut self) -> u64 {
        let end = self.window.ram_bytes;
        let addresses = [
            end,
            end + PAGE_BYTES,
            1 << 40,
            1 << 52,
            1 << 63 | PAGE_BYTES,
            !(PAGE_BYTES - 1),
        ];
        self.random.one_of(&addresses)
    }

    /// Makes a mistake in a call that all handlers refuse alike.
    fn make_wrong(&mut self, mut call: Call) -> Call {
        let [liobn, ioba, third, count] = &mut call.arguments;
        match self.random.below(6) {
            0 => *liobn = self.no_liobn(),
            1 => *ioba = self.outside_window(*ioba),
            2 => *ioba += self.random.one_of(&[1, 8, PAGE_BYTES / 2, PAGE_BYTES - 1]),
            _ => match call.number {
                number::H_PUT_TCE => *third = self.wrong_entry(),
                number::H_STUFF_TCE => *third |= self.permission(),
                number::H_PUT_TCE_INDIRECT => match self.random.below(4) {
                    0 => *count = self.random.one_of(&[513, 514, 1 << 32, u64::MAX]),
                    1 => *third += self.random.one_of(&[1, 8, 2048, 4088]),
                    2 => *third = self.no_ram(),
                    _ => {
                        let index = self.random.below((*count).max(1));
                        write_to_list(index, self.wrong_entry());
                    }
                },
                _ => *ioba = self.outside_window(*ioba),
            },
        }
        call
    }

    /// An entry with permission that names no page of RAM.
    fn wrong_entry(&mut self) -> u64 {
        let address = match self.random.below(2) {
            0 => self.no_ram(),
            _ => self.page(1) + self.random.one_of(&[4, 8, 0x800, 0xffc]),
        };
        address | self.permission()
    }

    fn no_liobn(&mut self) -> u64 {
        let liobn = self.window.liobn;
        let others = [0, 1, liobn + 1, liobn + 0x100, liobn | 1 << 32, u64::MAX];
        self.random.one_of(&others)
    }

    /// A bus address that is none of the window's, aligned as `ioba` is.
    fn outside_window(&mut self, ioba: u64) -> u64 {
        let end = self.window.ioba(self.window.entries);
        let others = [
            end,
            end + PAGE_BYTES,
            ioba + (end - self.window.start),
            1 << 59,
            !(PAGE_BYTES - 1),
        ];
        self.random.one_of(&others)
    }
}
