//! IOMMU groups and the devices in them.

use std::fmt;

/// Drivers beside VFIO's own that leave a device's DMA to whoever owns the group: those with
/// `driver_managed_dma` in the kernel (drivers/pci/pci-stub.c, drivers/pci/pcie/portdrv.c).
const HARMLESS_DRIVERS: [&str; 2] = ["pcieport", "pci-stub"];

/// Number of an IOMMU group, which is also the name of its node below /dev/vfio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u32);

impl fmt::Display for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A device of an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its name below /sys/kernel/iommu_groups; a PCI address for a PCI function.
    pub name: String,
    /// The driver it is bound to, if any.
    pub driver: Option<String>,
}

impl GroupMember {
    /// Whether a driver of the host does DMA with it, so that the group cannot be given away.
    /// (A bridge's driver does none; neither does VFIO's or no driver.)
    pub fn is_in_host_use(&self) -> bool {
        self.driver
            .as_deref()
            .is_some_and(|driver| !is_vfio_driver(driver) && !HARMLESS_DRIVERS.contains(&driver))
    }
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "{} (bound to {driver})", self.name),
            None => write!(f, "{} (bound to no driver)", self.name),
        }
    }
}

/// vfio-pci and the variants of it that some devices have (`mlx5_vfio_pci`).
pub(super) fn is_vfio_driver(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}
