//! BARs of passed-through devices in guest memory, as KVM maps them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use spapr_devices::pci::MmioMapper;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use spapr_kvm::memory_slots::MemorySlots;

/// BARs as memory slots of the guest.
#[derive(Debug)]
pub(super) struct BarSlots {
    slots: Arc<MemorySlots>,
    mapped: Mutex<HashMap<GuestPhysicalAddress, u32>>,
}

impl BarSlots {
    pub(super) fn new(slots: Arc<MemorySlots>) -> Self {
        Self {
            slots,
            mapped: Mutex::default(),
        }
    }
}

impl MmioMapper for BarSlots {
    fn map(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()> {
        // SAFETY: the caller keeps the range mapped until `unmap` (contract of MmioMapper); it is
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
}
