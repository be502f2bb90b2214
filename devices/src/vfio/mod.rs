//! Passed-through PCI functions: VFIO with groups and containers, on POWER (SPAPR TCE).
//!
//! From a device's address to its registers and DMA:
//!
//! 1. [`HostPaths::find_device`] says which IOMMU group a [`PciAddress`] is in, or what is in the
//!    way and how to clear it.
//! 2. [`Group::open`] takes the group; [`Container::attach`] puts it into a container, v2 or v1.
//! 3. [`Container::create_window`], [`Container::register_memory`] and [`Container::map`] let the
//!    group's devices reach memory.
//! 4. [`Device::open`] opens a device of the group: its regions, configuration space, reset and
//!    interrupts.
//!
//! Closing goes the other way: a device's file descriptor closes before its group leaves the
//! container, and the group leaves before the container closes. A [`Device`] holds its
//! [`Container`], which holds its [`Group`], and each drops its fields in that order, so that no
//! order of dropping can get it wrong. Mappings of a device's regions may outlive the device's
//! file descriptor, but keep the device busy: unmap them before the device is given back. Every
//! file descriptor is close-on-exec.
//!
//! VFIO's iommufd interface does not exist on POWER (VFIO_DEVICE_CDEV depends on !SPAPR_TCE_IOMMU
//! in drivers/vfio/Kconfig).

mod address;
mod container;
mod device;
mod dma;
mod eeh;
mod function;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod group;
mod hot_reset;
mod interrupts;
#[cfg(not(test))]
mod kernel;
#[cfg(test)]
#[path = "kernel_model.rs"]
mod kernel;
mod limited;
mod memory_limit;
mod preflight;
mod region;
pub mod requests;
mod rom;
mod window;

pub use address::{ParsePciAddressError, PciAddress};
pub use container::{
    Container, ContainerError, DefaultWindowError, IommuInfo, IommuPolicy, IommuVersion,
    USUAL_WINDOW_BYTES,
};
pub use device::{Device, DeviceError};
pub use dma::{RegisterError, host_error};
pub use eeh::VfioEndpoint;
pub use function::VfioFunction;
pub use group::{Group, GroupError};
pub use hot_reset::ResetMember;
pub use interrupts::{Irq, IrqError, IrqInfo};
pub use limited::LIMITED_START;
pub use memory_limit::{
    LockedMemoryNeed, MemoryLimit, MemoryLimitError, host_table_bytes, kvm_table_bytes,
};
pub use preflight::{
    DeviceResources, GroupMember, GroupNumber, HostPaths, InterruptKinds, Platform, PreflightError,
};
pub use region::{Region, RegionIndex, RegionMapping};
pub use rom::{Rom, RomError};
pub use window::{MadeWindow, WindowError, fewest_levels};

/// The size of a page of this host in bytes: 4 KiB or 64 KiB on POWER.
pub fn host_page_bytes() -> u64 {
    // SAFETY: sysconf has no conditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It fails for no name but an unknown one.
    u64::try_from(bytes).unwrap_or(4096)
}

/// `argsz` of a structure for VFIO: its size in bytes, by which the kernel knows its version.
const fn argument_size<T>() -> u32 {
    const {
        assert!(size_of::<T>() <= 4096);
        #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
        {
            size_of::<T>() as u32
        }
    }
}
