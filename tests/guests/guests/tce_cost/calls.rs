//! The hypercalls that are measured, on the first entries of a window.

use core::ptr;

use spapr_test_guests::hypercall::{call, number};

/// Where the lists are: above the guest's image, each in a page of 4 KiB.
const LISTS: u64 = 32 << 20;
/// What the entries map: pages of 4 KiB in RAM that nothing else uses.
const PAGES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 4096;
const READ_WRITE: u64 = 3;
const LONGEST: u64 = 512;
/// No hypercall has this number.
const UNKNOWN: u64 = 0x3f4;

/// Lists of 512 entries in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists {
    /// Address of the one whose pages follow each other.
    pub(crate) contiguous: u64,
    /// Address of the one of whose pages no two follow each other.
    pub(crate) scattered: u64,
}

impl Lists {
    /// Writes the lists.
    pub(crate) fn fill() -> Self {
        for index in 0..LONGEST {
            write(LISTS, index, Self::page(index));
            // 5 and 512 have no common factor: every page is there once.
            write(LISTS + PAGE_BYTES, index, Self::page(index * 5 % LONGEST));
        }
        Self {
            contiguous: LISTS,
            scattered: LISTS + PAGE_BYTES,
        }
    }

    /// An entry that maps page `index`.
    pub(crate) const fn page(index: u64) -> u64 {
        (PAGES + index * PAGE_BYTES) | READ_WRITE
    }
}

fn write(list: u64, index: u64, entry: u64) {
    let address = usize::try_from(list + index * 8).unwrap_or(0);
    let place = ptr::with_exposed_provenance_mut::<u64>(address);
    // SAFETY: aligned, in RAM, and outside of all that Rust knows.
    unsafe { place.write_volatile(entry.to_be()) };
}

/// A DMA window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Its logical I/O bus number.
    pub(crate) liobn: u64,
    /// Its first bus address.
    pub(crate) start: u64,
}

impl Window {
    pub(crate) fn put(self, entry: u64) -> i64 {
        make(number::H_PUT_TCE, [self.liobn, self.start, entry, 0])
    }

    pub(crate) fn get(self) -> i64 {
        make(number::H_GET_TCE, [self.liobn, self.start, 0, 0])
    }

    pub(crate) fn put_list(self, list: u64, n: u64) -> i64 {
        make(
            number::H_PUT_TCE_INDIRECT,
            [self.liobn, self.start, list, n],
        )
    }

    pub(crate) fn stuff(self, n: u64) -> i64 {
        make(number::H_STUFF_TCE, [self.liobn, self.start, 0, n])
    }

    pub(crate) fn unknown_call() -> i64 {
        make(UNKNOWN, [0; 4])
    }
}

#[inline(always)]
fn make(number: u64, arguments: [u64; 4]) -> i64 {
    // SAFETY: TCE calls change no memory, and no device here makes use of what they map.
    unsafe { call(number, arguments) }.code
}
