//! What a machine has of the host and keeps from one life to the next, so that nobody else gets it in between:
//! its memory, the IOMMU groups of its devices in their containers, its disks, and KVM's device.
//!
//! The VM itself and all that KVM has for it are made anew, and each device is opened anew: the kernel gives
//! one back the configuration that it had before it was first opened, and thaws what EEH has frozen. Only
//! who has the group can open it.

use std::sync::Arc;

use log::Level;
use spapr_devices::dma::DmaMemory;
use spapr_devices::guest_message;
use spapr_devices::virtio::disk::Disk;
use spapr_kvm::host::{HostError, Kvm, NoXive};

use super::attachments::Attachments;
use super::disks::{self, DiskRefusal};
use super::host::Host;
use super::passthrough::{self, PassthroughError, TakenGroup};
use crate::memory::{self, Backing, GuestRam, MemoryError};
use crate::spec::MachineDescription;

/// What a machine keeps over its lives: before the first one, what its front end has opened at most.
///
/// The groups go before the memory that their containers could map.
#[derive(Default)]
pub struct Kept {
    groups: Option<Vec<TakenGroup>>,
    disks: Option<Vec<Arc<Disk>>>,
    attachments: Attachments,
    ram: Option<GuestRam>,
    kvm: Option<Kvm>,
    /// Why guests have XICS, if that was told.
    told_of_xics: Option<NoXive>,
}

impl Kept {
    /// What there is before the first life: what its front end has opened.
    pub fn of(attachments: Attachments) -> Self {
        Self {
            attachments,
            ..Self::default()
        }
    }

    pub(super) const fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// KVM, opened when it is first asked for.
    pub(super) fn kvm(&mut self, host: &Host<'_>) -> Result<&Kvm, HostError> {
        let kvm = match self.kvm.take() {
            Some(kvm) => kvm,
            None => (host.open)()?,
        };
        Ok(self.kvm.insert(kvm))
    }

    /// Guest memory, all of it zero: mapped when it is first asked for, and cleared later on.
    pub(super) fn cleared_ram(
        &mut self,
        description: &MachineDescription,
    ) -> Result<GuestRam, MemoryError> {
        if let Some(ram) = &self.ram {
            let mut filesystems = self.attachments.filesystems.iter();
            if let Some(filesystem) = filesystems.find(|it| it.may_touch_memory()) {
                return Err(MemoryError::InUse {
                    tag: filesystem.tag(),
                });
            }
            ram.clear();
            return Ok(ram.clone());
        }
        warn_of_little_memory(description);
        let backing = match description.hugepages {
            // Where nobody else is to have it, the host makes transparent huge pages of it more readily.
            pages if description.shares_memory() => Backing::Shared(pages),
            Some(pages) => Backing::Hugepages(pages),
            None => Backing::Anonymous,
        };
        let ram = GuestRam::new(description.memory, backing)?;
        Ok(self.ram.insert(ram).clone())
    }

    /// The groups of the devices, taken when they are first asked for.
    pub(super) fn groups(
        &mut self,
        description: &MachineDescription,
    ) -> Result<&[TakenGroup], PassthroughError> {
        let groups = match self.groups.take() {
            Some(groups) => groups,
            None => passthrough::take(&description.vfio, description.iommu)?,
        };
        Ok(self.groups.insert(groups))
    }

    /// Says, in the first life, why guests of this host have XICS.
    pub(super) fn tell_of_xics(&mut self, why: NoXive) {
        if self.told_of_xics.replace(why) != Some(why) {
            guest_message!(
                Level::Warn,
                "the guest's interrupt controller is XICS, not XIVE: {why}"
            );
        }
    }

    /// Has the disks open, in the order of the description.
    pub(super) fn open_all_disks(
        &mut self,
        description: &MachineDescription,
        ram: &GuestRam,
    ) -> Result<(), DiskRefusal> {
        if self.disks.is_none() {
            let memory = DmaMemory::by_guest_address(ram.mmap().clone());
            self.disks = Some(disks::open(
                description,
                &memory,
                self.attachments.disk_failures.as_ref(),
            )?);
        }
        Ok(())
    }

    /// The disks that are open.
    pub(super) fn open_disks(&self) -> &[Arc<Disk>] {
        self.disks.as_deref().unwrap_or_default()
    }

    /// Gives the host what it may have until the next life begins: memory that is not set aside for the guest.
    /// Nothing of it may be locked for DMA any more.
    pub(super) fn rest(&self) {
        if let Some(ram) = &self.ram {
            ram.give_back();
        }
    }
}

fn warn_of_little_memory(description: &MachineDescription) {
    let (cpus, memory) = (description.cpus, description.memory);
    if let Some(more) = memory::more_memory_for(cpus, memory.0) {
        guest_message!(
            Level::Warn,
            "{cpus} processors with {memory} of memory: Linux needs some MiB for each and may run out of \
             memory as it starts; give fewer, or {more}"
        );
    }
}
