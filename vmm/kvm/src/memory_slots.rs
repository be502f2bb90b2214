//! Memory slots: pieces of this process' memory that are guest memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_bindings::powerpc64::kvm_userspace_memory_region;
use parking_lot::Mutex;
use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress};
use vmm_sys_util::errno;

use crate::vm::Vm;

/// Why a memory slot could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum MemorySlotError {
    /// KVM takes whole host pages.
    #[error(
        "guest memory at {gpa}, {bytes:#x} bytes backed by host address {hva}, does not start \
         and end at host pages of {page:#x} bytes"
    )]
    Unaligned {
        /// Its guest physical address.
        gpa: GuestPhysicalAddress,
        /// What backs it.
        hva: HostVirtualAddress,
        /// Its size.
        bytes: u64,
        /// The host's page size in bytes.
        page: u64,
    },
    /// Two slots would share guest physical addresses.
    #[error("guest memory at {gpa}, {bytes:#x} bytes, overlaps that of slot {slot} at {other}")]
    Overlap {
        /// The guest physical address asked for.
        gpa: GuestPhysicalAddress,
        /// The size asked for.
        bytes: u64,
        /// The slot that is in the way.
        slot: u32,
        /// Where that slot starts.
        other: GuestPhysicalAddress,
    },
    /// All slots are taken.
    #[error("all {max} memory slots of the VM are taken: give it fewer devices")]
    NoSlot {
        /// KVM's limit.
        max: u32,
    },
    /// There is no such slot.
    #[error("there is no memory slot {0}")]
    UnknownSlot(u32),
    /// KVM refused it.
    #[error("KVM_SET_USER_MEMORY_REGION failed for slot {slot}: {bytes:#x} bytes at {gpa}")]
    Kvm {
        /// The slot.
        slot: u32,
        /// Its guest physical address.
        gpa: GuestPhysicalAddress,
        /// Its size in bytes; 0 when it was being removed.
        bytes: u64,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

/// The memory slots of a VM. RAM and the BARs of passed-through devices take their slots here.
///
/// The lock inside is held over KVM's ioctl, so that the book and KVM agree; nothing that a guest
/// does at speed comes here.
#[derive(Debug)]
pub struct MemorySlots {
    vm: Arc<Vm>,
    page: u64,
    book: Mutex<Book>,
}

impl MemorySlots {
    /// The slots of `vm`, all free, at most `max` of them (`Capabilities::max_memory_slots`).
    pub fn new(vm: Arc<Vm>, max: u32) -> Self {
        Self {
            vm,
            page: host_page_bytes(),
            book: Mutex::new(Book {
                max,
                used: BTreeMap::new(),
            }),
        }
    }

    /// Makes the `bytes` bytes at `hva` the guest's memory at `gpa`, and returns the slot.
    ///
    /// # Errors
    /// [`MemorySlotError`]; nothing has changed then.
    ///
    /// # Safety
    /// The guest reads and writes this memory from now on. It must stay mapped until the slot is
    /// removed or the VM is gone, and nothing may rest on its content being stable.
    pub unsafe fn add(
        &self,
        gpa: GuestPhysicalAddress,
        hva: HostVirtualAddress,
        bytes: u64,
    ) -> Result<u32, MemorySlotError> {
        if bytes == 0 || !(gpa.0 | hva.0 | bytes).is_multiple_of(self.page) {
            return Err(MemorySlotError::Unaligned {
                gpa,
                hva,
                bytes,
                page: self.page,
            });
        }
        let mut book = self.book.lock();
        let slot = book.find(gpa, bytes)?;
        // SAFETY: the caller vouches for the memory.
        unsafe { self.set(slot, gpa, hva, bytes) }?;
        book.used.insert(slot, Region { gpa, bytes });
        Ok(slot)
    }

    /// Takes the memory of `slot` away from the guest.
    ///
    /// # Errors
    /// [`MemorySlotError::UnknownSlot`], or KVM's refusal; the slot is still in use then.
    pub fn remove(&self, slot: u32) -> Result<(), MemorySlotError> {
        let mut book = self.book.lock();
        let gpa = book
            .used
            .get(&slot)
            .ok_or(MemorySlotError::UnknownSlot(slot))?
            .gpa;
        // SAFETY: a region of size 0 hands no memory over; it deletes the slot.
        unsafe { self.set(slot, gpa, HostVirtualAddress(0), 0) }?;
        book.used.remove(&slot);
        Ok(())
    }

    /// # Safety
    /// As for [`MemorySlots::add`].
    unsafe fn set(
        &self,
        slot: u32,
        gpa: GuestPhysicalAddress,
        hva: HostVirtualAddress,
        bytes: u64,
    ) -> Result<(), MemorySlotError> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa.0,
            memory_size: bytes,
            userspace_addr: hva.0,
        };
        // SAFETY: the caller vouches for the memory.
        unsafe { self.vm.0.set_user_memory_region(region) }.map_err(|source| MemorySlotError::Kvm {
            slot,
            gpa,
            bytes,
            source,
        })
    }
}

#[derive(Debug)]
struct Region {
    gpa: GuestPhysicalAddress,
    bytes: u64,
}

/// Which slots are in use, and for what.
#[derive(Debug)]
struct Book {
    max: u32,
    used: BTreeMap<u32, Region>,
}

impl Book {
    /// The lowest free slot, if the range is free too.
    fn find(&self, gpa: GuestPhysicalAddress, bytes: u64) -> Result<u32, MemorySlotError> {
        let end = |start: u64, bytes: u64| u128::from(start) + u128::from(bytes);
        let overlap = self.used.iter().find(|(_, region)| {
            u128::from(gpa.0) < end(region.gpa.0, region.bytes)
                && u128::from(region.gpa.0) < end(gpa.0, bytes)
        });
        if let Some((&slot, region)) = overlap {
            return Err(MemorySlotError::Overlap {
                gpa,
                bytes,
                slot,
                other: region.gpa,
            });
        }
        (0..self.max)
            .find(|slot| !self.used.contains_key(slot))
            .ok_or(MemorySlotError::NoSlot { max: self.max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(max: u32, regions: &[(u32, u64, u64)]) -> Book {
        let used = regions.iter().map(|&(slot, gpa, bytes)| {
            let gpa = GuestPhysicalAddress(gpa);
            (slot, Region { gpa, bytes })
        });
        Book {
            max,
            used: used.collect(),
        }
    }

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let book = book(4, &[(0, 0, 0x1000), (2, 0x2000, 0x1000)]);
        let slot = book.find(GuestPhysicalAddress(0x1000), 0x1000).unwrap();
        assert_eq!(slot, 1);
    }

    #[test]
    fn overlapping_guest_memory_is_refused_with_the_slot_in_the_way() {
        let book = book(4, &[(3, 0x1_0000, 0x2_0000)]);
        for (gpa, bytes) in [(0, 0x1_0001), (0x2_ffff, 1), (0x1_8000, 8), (0, u64::MAX)] {
            let error = book.find(GuestPhysicalAddress(gpa), bytes).unwrap_err();
            assert!(
                matches!(error, MemorySlotError::Overlap { slot: 3, .. }),
                "{error}"
            );
        }
        assert!(book.find(GuestPhysicalAddress(0x3_0000), 1).is_ok());
        assert!(book.find(GuestPhysicalAddress(u64::MAX), 1).is_ok());
    }

    #[test]
    fn a_full_vm_says_how_many_slots_it_has() {
        let error = book(1, &[(0, 0, 0x1000)])
            .find(GuestPhysicalAddress(0x1000), 0x1000)
            .unwrap_err();
        assert!(error.to_string().contains("all 1 memory slots"));
    }

    #[test]
    fn the_host_page_size_is_a_power_of_two() {
        assert!(host_page_bytes().is_power_of_two() && host_page_bytes() >= 0x1000);
    }
}
