//! The hypercalls that are measured.

use core::ptr;

use spapr_test_guests::hypercall::{Answer, call, number};
use spapr_test_guests::machine::DmaWindow;

/// Where the lists are: above the guest's image, each in a page of 4 KiB.
const LISTS: u64 = 32 << 20;
/// What the entries map: pages of 4 KiB in RAM that nothing else uses.
const PAGES: u64 = 64 << 20;
const READ_WRITE: u64 = 3;
/// No hypercall has this number.
const UNKNOWN: u64 = 0x3f4;

/// Bytes of a page of the default window.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The most entries of a list.
pub(crate) const LONGEST: u64 = 512;

/// Lists of 512 entries in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists {
    /// Address of the one whose pages follow each other.
    pub(crate) contiguous: u64,
    /// Address of the one of whose pages no two follow each other.
    pub(crate) scattered: u64,
}

impl Lists {
    /// Where the contiguous list is.
    pub(crate) const CONTIGUOUS: u64 = LISTS;

    /// Writes the lists.
    pub(crate) fn fill() -> Self {
        for index in 0..LONGEST {
            write(LISTS, index, page(index));
            // 5 and 512 have no common factor: every page is there once.
            write(LISTS + PAGE_BYTES, index, page(index * 5 % LONGEST));
        }
        Self {
            contiguous: Self::CONTIGUOUS,
            scattered: LISTS + PAGE_BYTES,
        }
    }

    /// Writes a list of pages as far from each other as memory allows, and returns its address.
    pub(crate) fn fill_spread(ram_bytes: u64) -> u64 {
        let list = LISTS + 2 * PAGE_BYTES;
        let distance = (ram_bytes / LONGEST) & !(PAGE_BYTES - 1);
        for index in 0..LONGEST {
            write(list, index, entry_for(index * distance));
        }
        list
    }
}

/// An entry that maps page `index`.
pub(crate) const fn page(index: u64) -> u64 {
    entry_for(PAGES + index * PAGE_BYTES)
}

/// An entry that maps a page at an address.
pub(crate) const fn entry_for(address: u64) -> u64 {
    address | READ_WRITE
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
    pub(crate) fn of(window: &DmaWindow) -> Self {
        Self {
            liobn: window.liobn.into(),
            start: window.start,
        }
    }

    #[inline(always)]
    pub(crate) fn put_at(self, offset: u64, entry: u64) -> i64 {
        let arguments = [self.liobn, self.start + offset, entry, 0];
        make(number::H_PUT_TCE, arguments).code
    }

    #[inline(always)]
    pub(crate) fn put(self, entry: u64) -> i64 {
        self.put_at(0, entry)
    }

    /// The code and the entry.
    #[inline(always)]
    pub(crate) fn get_at(self, offset: u64) -> (i64, u64) {
        let answer = make(number::H_GET_TCE, [self.liobn, self.start + offset, 0, 0]);
        (answer.code, answer.registers[0])
    }

    #[inline(always)]
    pub(crate) fn put_list_at(self, offset: u64, list: u64, n: u64) -> i64 {
        let arguments = [self.liobn, self.start + offset, list, n];
        make(number::H_PUT_TCE_INDIRECT, arguments).code
    }

    #[inline(always)]
    pub(crate) fn put_list(self, list: u64, n: u64) -> i64 {
        self.put_list_at(0, list, n)
    }

    #[inline(always)]
    pub(crate) fn stuff(self, n: u64) -> i64 {
        make(number::H_STUFF_TCE, [self.liobn, self.start, 0, n]).code
    }
}

/// A call that nobody knows.
#[inline(always)]
pub(crate) fn unknown() -> i64 {
    make(UNKNOWN, [0; 4]).code
}

#[inline(always)]
fn make(number: u64, arguments: [u64; 4]) -> Answer {
    // SAFETY: TCE calls change no memory, and no device here makes use of what they map.
    unsafe { call(number, arguments) }
}
