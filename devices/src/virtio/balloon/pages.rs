//! Guest memory on its way back to the host.
//!
//! The host takes back whole pages of its own. Where those are larger than a driver's 4 KiB, one is given back when
//! all of it has been given away in one go, as guests with pages of that size do it.

use std::io;

use log::Level;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::PAGE_BYTES;
use crate::guest_message;

/// Guest memory that the host may have back.
pub(super) struct Pages {
    ram: GuestMemoryMmap,
    /// Bytes of the host's pages; `None` if nothing is given back.
    page_bytes: Option<u64>,
    /// A page of the host's of which some was given away: where it is, and the bits of its parts.
    partial: Option<(u64, Vec<u64>)>,
    /// What is to be given back with one call: start and end.
    run: Option<(u64, u64)>,
}

/// A page that is no memory of the guest's.
#[derive(Debug)]
pub(super) struct NoMemory;

impl Pages {
    /// Those of `ram`, which is of pages of `page_bytes`; none of them is given back without.
    pub(super) fn new(ram: GuestMemoryMmap, page_bytes: Option<u64>) -> Self {
        Self {
            ram,
            page_bytes: page_bytes.filter(|bytes| bytes.is_power_of_two() && *bytes >= PAGE_BYTES),
            partial: None,
            run: None,
        }
    }

    /// Whether anything is given back.
    pub(super) const fn are_released(&self) -> bool {
        self.page_bytes.is_some()
    }

    fn is_memory(&self, address: u64, bytes: u64) -> bool {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.ram.get_slice(GuestAddress(address), length).is_ok()
    }

    /// The driver gives away its page at `address`.
    pub(super) fn give(&mut self, address: u64) -> Result<(), NoMemory> {
        if !self.is_memory(address, PAGE_BYTES) {
            return Err(NoMemory);
        }
        let Some(page_bytes) = self.page_bytes else {
            return Ok(());
        };
        let start = address & !(page_bytes - 1);
        if page_bytes == PAGE_BYTES || self.completes(start, address, page_bytes) {
            self.add(start, page_bytes);
        }
        Ok(())
    }

    /// Whether the part at `address` is the last that lacked of the host's page at `start`.
    fn completes(&mut self, start: u64, address: u64, page_bytes: u64) -> bool {
        let parts = page_bytes / PAGE_BYTES;
        let words = usize::try_from(parts.div_ceil(64)).unwrap_or(0);
        if self
            .partial
            .as_ref()
            .is_none_or(|(known, _)| *known != start)
        {
            self.partial = Some((start, vec![0; words]));
        }
        let Some((_, bits)) = &mut self.partial else {
            return false;
        };
        let part = (address - start) / PAGE_BYTES;
        if let Some(word) = bits.get_mut(usize::try_from(part / 64).unwrap_or(usize::MAX)) {
            *word |= 1 << (part % 64);
        }
        let given: u64 = bits.iter().map(|word| u64::from(word.count_ones())).sum();
        if given < parts {
            return false;
        }
        self.partial = None;
        true
    }

    /// The driver takes back its page at `address`, of which the host has nothing to know but this.
    pub(super) fn take(&mut self, address: u64) {
        let is_of = |(start, bits): &(u64, Vec<u64>)| {
            let bytes = bits.len() as u64 * 64 * PAGE_BYTES;
            address
                .checked_sub(*start)
                .is_some_and(|offset| offset < bytes)
        };
        if self.partial.as_ref().is_some_and(is_of) {
            self.partial = None;
        }
    }

    /// The driver has no use for these bytes now; their whole pages are given back.
    pub(super) fn report(&mut self, address: u64, bytes: u64) -> Result<(), NoMemory> {
        if bytes == 0 {
            return Ok(());
        }
        if !self.is_memory(address, bytes) {
            return Err(NoMemory);
        }
        let Some(page_bytes) = self.page_bytes else {
            return Ok(());
        };
        // It is memory, so it does not go past the last address.
        let end = (address + bytes) & !(page_bytes - 1);
        let start = address.next_multiple_of(page_bytes);
        if start < end {
            self.add(start, end - start);
        }
        Ok(())
    }

    fn add(&mut self, start: u64, bytes: u64) {
        match &mut self.run {
            Some((_, end)) if *end == start => *end += bytes,
            Some((first, _)) if *first == start + bytes => *first = start,
            _ => {
                self.flush();
                self.run = Some((start, start + bytes));
            }
        }
    }

    /// Gives back what was added.
    pub(super) fn flush(&mut self) {
        let Some((start, end)) = self.run.take() else {
            return;
        };
        if let Err(error) = self.release(start, end - start) {
            // As when all of the process is locked in memory.
            guest_message!(
                Level::Warn,
                "the host takes no memory back of what the guest's balloon gives away: {error}"
            );
            self.page_bytes = None;
        }
    }

    fn release(&self, start: u64, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        // A page of the host's that is not memory of the guest's alone stays.
        let Ok(slice) = self.ram.get_slice(GuestAddress(start), length) else {
            return Ok(());
        };
        let memory = slice.ptr_guard_mut();
        // SAFETY: all of it is guest memory, which is mapped as long as `ram` is there. Whoever reads it expects
        // that it changes at any time: it is zero from now on.
        let result = unsafe { libc::madvise(memory.as_ptr().cast(), length, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Nothing is given away.
    pub(super) fn reset(&mut self) {
        self.partial = None;
        self.run = None;
    }
}
