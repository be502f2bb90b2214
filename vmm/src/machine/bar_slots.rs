//! The guest's address space outside RAM: BARs as memory slots, doorbells as ioeventfds.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use parking_lot::Mutex;
use spapr_devices::board::AddressSpace;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::memory_slots::MemorySlots;

/// A VM's address space outside RAM.
#[derive(Debug)]
pub(super) struct BarSlots {
    vm: Arc<VmFd>,
    slots: Arc<MemorySlots>,
    mapped: Mutex<HashMap<GuestPhysicalAddress, u32>>,
}

impl BarSlots {
    pub(super) fn new(vm: Arc<VmFd>, slots: Arc<MemorySlots>) -> Self {
        Self {
            vm,
            slots,
            mapped: Mutex::default(),
        }
    }
}

impl AddressSpace for BarSlots {
    fn map(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()> {
        // SAFETY: the caller keeps the range mapped until `unmap` (contract of AddressSpace); it is
        // a device's memory, which nobody takes for stable.
        let slot = unsafe { self.slots.add(guest, host.start, host.bytes) };
        let slot = slot.map_err(io::Error::other)?;
        self.mapped.lock().insert(guest, slot);
        Ok(())
    }

    fn unmap(&self, guest: GuestPhysicalAddress, _host: HostRange) -> io::Result<()> {
        let mut mapped = self.mapped.lock();
        let slot = *mapped.get(&guest).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no BAR is mapped at {guest}"),
            )
        })?;
        self.slots.remove(slot).map_err(io::Error::other)?;
        mapped.remove(&guest);
        Ok(())
    }

    // Without a length, and whatever is written: then KVM signals the event before it fetches the guest's
    // instruction (KVM_FAST_MMIO_BUS in `kvmppc_hv_emulate_mmio`, arch/powerpc/kvm/book3s_64_mmu_hv.c).
    fn connect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(guest.0), NoDatamatch)
            .map_err(io::Error::from)
    }

    fn disconnect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        self.vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(guest.0), NoDatamatch)
            .map_err(io::Error::from)
    }
}
