//! Guest memory made of pieces, with storage for lists of entries alone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::{GuestPhysicalAddress, HostVirtualAddress};
use crate::world::{GuestMemory, GuestRange, HostRange, NotGuestRam};

/// Doublewords in a page of storage.
const PAGE: usize = 512;

/// Guest RAM; what is not storage reads as zero.
#[derive(Debug)]
pub struct FakeMemory {
    pieces: Vec<GuestRange>,
    storage_start: u64,
    storage: Vec<AtomicU64>,
}

impl FakeMemory {
    /// RAM in `pieces`, with `pages` pages of 4 KiB from `storage` on that can be written.
    pub fn new(pieces: Vec<GuestRange>, storage: GuestPhysicalAddress, pages: usize) -> Self {
        let storage_start = storage.0;
        Self {
            pieces,
            storage_start,
            storage: (0..pages * PAGE).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The pieces, as the engine is told them.
    pub fn ram(&self) -> &[GuestRange] {
        &self.pieces
    }

    /// Writes a list into storage, as a processor of the guest does.
    pub fn write_list(&self, address: GuestPhysicalAddress, list: &[u64]) {
        for (index, value) in (0..).zip(list) {
            if let Some(cell) = self.cell(address.0 + index * 8) {
                cell.store(*value, Ordering::Relaxed);
            }
        }
    }

    fn cell(&self, address: u64) -> Option<&AtomicU64> {
        let offset = address.checked_sub(self.storage_start)?;
        self.storage.get(usize::try_from(offset / 8).ok()?)
    }
}

impl GuestMemory for FakeMemory {
    fn read_doublewords(
        &self,
        address: GuestPhysicalAddress,
        list: &mut [u64],
    ) -> Result<(), NotGuestRam> {
        for (index, value) in (0..).zip(list) {
            let at = address.0.checked_add(index * 8).ok_or(NotGuestRam)?;
            let host = self
                .host_range(GuestPhysicalAddress(at))
                .ok_or(NotGuestRam)?;
            if host.bytes < 8 {
                return Err(NotGuestRam);
            }
            *value = self.cell(at).map_or(0, |cell| cell.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn populate(&self, _: HostRange) -> bool {
        true
    }

    /// Every piece lies a tebibyte further on than the one before, so that no two are contiguous.
    fn host_range(&self, address: GuestPhysicalAddress) -> Option<HostRange> {
        (1u64..).zip(&self.pieces).find_map(|(number, piece)| {
            let offset = address.0.checked_sub(piece.start.0)?;
            let bytes = piece
                .bytes
                .checked_sub(offset)
                .filter(|&bytes| bytes != 0)?;
            Some(HostRange {
                start: HostVirtualAddress((number << 40) + address.0),
                bytes,
            })
        })
    }
}
