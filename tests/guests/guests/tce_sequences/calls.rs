//! TCE calls on one DMA window, and the lists that they read.

use core::ptr;

use spapr_test_guests::hypercall::{Answer, call, number};

/// Bytes of a page of the default DMA window.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The permission to read and to write.
pub(crate) const READ_WRITE: u64 = 3;
/// The most entries of a list.
pub(crate) const LONGEST: u64 = 512;
/// Where lists are: above the guest's image, in RAM that nothing else uses.
pub(crate) const LIST: u64 = 32 << 20;

/// A call with its arguments, in the order of their registers from r4 on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The hypercall's number.
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 4],
}

impl Call {
    /// Makes the call.
    pub(crate) fn make(self) -> Answer {
        // SAFETY: TCE calls change no memory, and no device here makes use of what they map.
        unsafe { call(self.number, self.arguments) }
    }

    /// PAPR's name of the call.
    pub(crate) const fn name(self) -> &'static str {
        match self.number {
            number::H_PUT_TCE => "H_PUT_TCE",
            number::H_PUT_TCE_INDIRECT => "H_PUT_TCE_INDIRECT",
            number::H_STUFF_TCE => "H_STUFF_TCE",
            number::H_GET_TCE => "H_GET_TCE",
            _ => "unknown",
        }
    }
}

/// A DMA window, and the RAM that it can map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Its logical I/O bus number.
    pub(crate) liobn: u64,
    /// Its first bus address.
    pub(crate) start: u64,
    /// How many entries it has.
    pub(crate) entries: u64,
    /// Bytes of the guest's RAM.
    pub(crate) ram_bytes: u64,
}

impl Window {
    /// The bus address of entry `index`.
    pub(crate) const fn ioba(&self, index: u64) -> u64 {
        self.start + index * PAGE_BYTES
    }

    pub(crate) const fn put(&self, ioba: u64, entry: u64) -> Call {
        Call {
            number: number::H_PUT_TCE,
            arguments: [self.liobn, ioba, entry, 0],
        }
    }

    pub(crate) const fn get(&self, ioba: u64) -> Call {
        Call {
            number: number::H_GET_TCE,
            arguments: [self.liobn, ioba, 0, 0],
        }
    }

    /// Reads entry `index`.
    pub(crate) fn get_entry(&self, index: u64) -> Answer {
        self.get(self.ioba(index)).make()
    }

    pub(crate) const fn put_list(&self, ioba: u64, list: u64, count: u64) -> Call {
        Call {
            number: number::H_PUT_TCE_INDIRECT,
            arguments: [self.liobn, ioba, list, count],
        }
    }

    pub(crate) const fn stuff(&self, ioba: u64, value: u64, count: u64) -> Call {
        Call {
            number: number::H_STUFF_TCE,
            arguments: [self.liobn, ioba, value, count],
        }
    }
}

/// Writes entry `index`, below [`LONGEST`], of the list at [`LIST`].
pub(crate) fn write_to_list(index: u64, entry: u64) {
    let address = usize::try_from(LIST + index % LONGEST * 8).unwrap_or(0);
    let place = ptr::with_exposed_provenance_mut::<u64>(address);
    // SAFETY: aligned, in RAM, and outside of all that Rust knows.
    unsafe { place.write_volatile(entry.to_be()) };
}
