//! Interrupt lines and BAR mappings of passed-through devices, as KVM makes them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;
use spapr_devices::interrupts::{InterruptLines, Lisn};
use spapr_devices::pci::MmioMapper;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::irqfd::VmInterrupts;
use crate::kvm::memory_slots::MemorySlots;
use crate::kvm::xics::{Trigger, Xics};

/// Interrupt lines into the in-kernel XICS.
#[derive(Debug)]
pub(super) struct XicsLines {
    vm: Arc<VmFd>,
    xics: Xics,
}

impl XicsLines {
    pub(super) fn new(vm: Arc<VmFd>, xics: Xics) -> Self {
        Self { vm, xics }
    }
}

impl InterruptLines for XicsLines {
    fn connect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        // A source exists from its first connection on; the guest unmasks it by ibm,set-xive.
        self.xics
            .create_source(lisn.0, Trigger::Edge)
            .map_err(io::Error::other)?;
        self.vm
            .assign_irqfd(lisn.0, event, None)
            .map_err(io::Error::other)
    }

    fn disconnect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        self.vm
            .deassign_irqfd(lisn.0, event)
            .map_err(io::Error::other)
    }
}

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
        self.mapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(guest, slot);
        Ok(())
    }

    fn unmap(&self, guest: GuestPhysicalAddress, _host: HostRange) -> io::Result<()> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
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
