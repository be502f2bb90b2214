//! KVM's VFIO device: it tells KVM of the IOMMU groups whose devices the guest has, and binds the
//! kernel's TCE tables to them (Documentation/virt/kvm/devices/vfio.rst).

use std::os::fd::AsRawFd;

use kvm_bindings::powerpc64::{
    KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_vfio_spapr_tce,
};
use spapr_hypercalls::address::Liobn;
use vmm_sys_util::errno;

use crate::kernel::DeviceFd;
use crate::tce_table::TceTable;
use crate::vm::Vm;

/// Why KVM and VFIO could not be brought together.
#[derive(Debug, thiserror::Error)]
pub enum VfioDeviceError {
    /// There is no VFIO device.
    #[error("KVM cannot make a VFIO device (KVM_DEV_TYPE_VFIO): load the module vfio")]
    Create(#[source] errno::Error),
    /// A group was refused.
    #[error("KVM refused a VFIO group (KVM_DEV_VFIO_GROUP_ADD)")]
    AddGroup(#[source] errno::Error),
    /// A TCE table could not be bound.
    #[error(
        "KVM cannot bind the TCE table of LIOBN {liobn} to the VFIO group \
         (KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE): {}",
        explain(.source.errno())
    )]
    SetSpaprTce {
        /// The LIOBN.
        liobn: Liobn,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

impl VfioDeviceError {
    /// The errno of KVM's refusal.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Create(source) | Self::AddGroup(source) => source.errno(),
            Self::SetSpaprTce { source, .. } => source.errno(),
        }
    }
}

/// What a refusal of KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE means
/// (`kvm_spapr_tce_attach_iommu_group` in arch/powerpc/kvm/book3s_64_vio.c).
fn explain(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT => "the group was not added before",
        libc::EINVAL => {
            "no window of the group has the same offset, at least the size and at most the page \
             size, or its container is of version 1"
        }
        libc::ENOTTY => "the table is being destroyed",
        _ => "the kernel does not support it",
    }
}

/// KVM's VFIO device; a VM has at most one. Dropping it takes all groups back.
#[derive(Debug)]
pub struct VfioKvmDevice(DeviceFd);

impl VfioKvmDevice {
    /// Makes the VFIO device of `vm`.
    ///
    /// # Errors
    /// [`VfioDeviceError::Create`].
    pub fn new(vm: &Vm) -> Result<Self, VfioDeviceError> {
        let device = vm.0.create_device(kvm_device_type_KVM_DEV_TYPE_VFIO);
        device.map(Self).map_err(VfioDeviceError::Create)
    }

    /// Tells KVM of an open VFIO group.
    ///
    /// A VM that ends with a group that was added and that nothing was ever bound to makes the kernel
    /// warn (`kvm_spapr_tce_release_vfio_group` in virt/kvm/vfio.c), on which some hosts are set to
    /// panic: so a group is added when something is to be bound to it.
    ///
    /// # Errors
    /// [`VfioDeviceError::AddGroup`], with EEXIST for a group already added.
    pub fn add_group(&self, group: &impl AsRawFd) -> Result<(), VfioDeviceError> {
        self.set(KVM_DEV_VFIO_GROUP_ADD, &group.as_raw_fd())
            .map_err(VfioDeviceError::AddGroup)
    }

    /// Binds `table` to the group's IOMMU window of the same bus offset: from now on what the
    /// kernel puts into the table goes to the hardware. The window must have been made before; the
    /// group is added if it has not been.
    ///
    /// On an error the caller drops the table: unbound, it would swallow the guest's entries.
    ///
    /// # Errors
    /// [`VfioDeviceError::SetSpaprTce`]; [`VfioDeviceError::AddGroup`].
    pub fn set_spapr_tce(
        &self,
        group: &impl AsRawFd,
        table: &TceTable,
    ) -> Result<(), VfioDeviceError> {
        let binding = kvm_vfio_spapr_tce {
            groupfd: group.as_raw_fd(),
            tablefd: table.as_raw_fd(),
        };
        let mut bound = self.set(KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, &binding);
        if bound.is_err_and(|error| error.errno() == libc::ENOENT) {
            self.add_group(group)?;
            bound = self.set(KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, &binding);
        }
        bound.map_err(|source| VfioDeviceError::SetSpaprTce {
            liobn: table.liobn(),
            source,
        })
    }

    fn set<T>(&self, attribute: u32, argument: &T) -> errno::Result<()> {
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_GROUP,
            attr: attribute.into(),
            addr: std::ptr::from_ref(argument) as u64,
        };
        // SAFETY: it is the address of what the attribute takes: a descriptor, or one `kvm_vfio_spapr_tce`.
        unsafe { self.0.set_attr(&attribute) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_binding_says_what_the_kernel_wanted() {
        let error = |errno| VfioDeviceError::SetSpaprTce {
            liobn: Liobn(0x8000_0000),
            source: errno::Error::new(errno),
        };
        assert_eq!(error(libc::EINVAL).errno(), libc::EINVAL);
        assert!(error(libc::EINVAL).to_string().contains("no window"));
        assert!(error(libc::ENOENT).to_string().contains("0x80000000"));
        assert!(error(libc::ENOENT).to_string().contains("not added"));
    }
}
