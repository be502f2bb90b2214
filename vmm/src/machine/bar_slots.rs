//! The guest's address space outside RAM: BARs as memory slots, doorbells as ioeventfds.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use spapr_devices::board::AddressSpace;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use spapr_kvm::memory_slots::MemorySlots;
use spapr_kvm::vm::Vm;
use vmm_sys_util::eventfd::EventFd;

/// A VM's address space outside RAM.
#[derive(Debug)]
pub(super) struct BarSlots {
    vm: Arc<Vm>,
    slots: Arc<MemorySlots>,
    mapped: Mutex<HashMap<GuestPhysicalAddress, u32>>,
}

impl BarSlots {
    pub(super) fn new(vm: Arc<Vm>, slots: Arc<MemorySlots>) -> Self {
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

    fn connect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        let connected = self.vm.connect_doorbell(guest.0, event);
        connected.map_err(io::Error::from)
    }

    fn disconnect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        let disconnected = self.vm.disconnect_doorbell(guest.0, event);
        disconnected.map_err(io::Error::from)
    }
}
