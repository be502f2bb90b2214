//! A DMA window: the calls that map and unmap its pages.

use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::hypercall::{call, code, number};
use spapr_test_guests::machine::DmaWindow;
use spapr_test_guests::rtas;

/// Bytes of a page of the window.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Read it.
    Read = 1,
    /// Write it.
    Write = 2,
    /// Both.
    ReadWrite = 3,
}

/// A window with pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Its logical I/O bus number.
    pub(crate) liobn: u32,
    /// Its first bus address.
    pub(crate) start: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
}

impl Window {
    pub(crate) fn of(window: &DmaWindow) -> Self {
        Self {
            liobn: window.liobn,
            start: window.start,
            bytes: window.bytes,
        }
    }

    /// The bus address behind its last.
    pub(crate) const fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Maps the page of a bus address to that of `memory`: H_PUT_TCE.
    pub(crate) fn map(&self, ioba: u64, memory: DmaMemory, permission: Permission) {
        let entry = memory.address() | permission as u64;
        make(number::H_PUT_TCE, [self.liobn.into(), ioba, entry, 0]);
    }

    /// Unmaps the page of a bus address: H_PUT_TCE.
    pub(crate) fn unmap(&self, ioba: u64) {
        make(number::H_PUT_TCE, [self.liobn.into(), ioba, 0, 0]);
    }

    /// Maps `count` pages from a bus address on to those of `memory`, in one call that reads them
    /// from `list`: H_PUT_TCE_INDIRECT.
    pub(crate) fn map_list(&self, ioba: u64, memory: DmaMemory, count: u64, list: DmaMemory) {
        for index in 0..count {
            let entry = (memory.address() + index * PAGE_BYTES) | Permission::ReadWrite as u64;
            list.write(index, entry.to_be());
        }
        make(
            number::H_PUT_TCE_INDIRECT,
            [self.liobn.into(), ioba, list.address(), count],
        );
    }

    /// Unmaps `count` pages in one call: H_STUFF_TCE.
    pub(crate) fn unmap_all(&self, ioba: u64, count: u64) {
        make(number::H_STUFF_TCE, [self.liobn.into(), ioba, 0, count]);
    }
}

/// Makes a call that has to succeed.
fn make(number: u64, arguments: [u64; 4]) {
    // SAFETY: TCE calls change no memory, and what devices can reach by them is for DMA alone.
    let code = unsafe { call(number, arguments) }.code;
    if code != code::H_SUCCESS {
        rtas::stop_with(format_args!("hypercall {number:#x} returned {code}"));
    }
}
