//! Enhanced error handling (EEH) of a container's group: VFIO_EEH_PE_OP.
//!
//! Both versions of a container take the operations (`tce_iommu_ioctl` in drivers/vfio/vfio_iommu_spapr_tce.c), for
//! the one partitionable endpoint of each group they hold. VFIO_CHECK_EXTENSION says only whether the host's
//! kernel has EEH at all; a group without an endpoint, as in an LPAR of the emulator, is ENODEV to an operation
//! (`eeh_iommu_group_to_pe` in arch/powerpc/kernel/eeh.c).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use log::Level;
use vfio_bindings::bindings::vfio::{
    VFIO_EEH, VFIO_EEH_PE_CONFIGURE, VFIO_EEH_PE_DISABLE, VFIO_EEH_PE_ENABLE,
    VFIO_EEH_PE_GET_STATE, VFIO_EEH_PE_INJECT_ERR, VFIO_EEH_PE_RESET_DEACTIVATE,
    VFIO_EEH_PE_RESET_FUNDAMENTAL, VFIO_EEH_PE_RESET_HOT, VFIO_EEH_PE_STATE_NORMAL,
    VFIO_EEH_PE_STATE_RESET, VFIO_EEH_PE_STATE_STOPPED, VFIO_EEH_PE_STATE_STOPPED_DMA,
    VFIO_EEH_PE_UNFREEZE_DMA, VFIO_EEH_PE_UNFREEZE_IO, vfio_eeh_pe_err, vfio_eeh_pe_op,
    vfio_eeh_pe_op__bindgen_ty_1,
};
use vmm_sys_util::errno::Error as Errno;

use super::container::Container;
use super::group::Group;
use super::{argument_size, kernel};
use crate::guest_message;
use crate::pci::{PeBackend, PeError, PeRequest, PeState};

/// The partitionable endpoint of the group in a container.
pub struct VfioEndpoint(Arc<Container>);

impl VfioEndpoint {
    /// The endpoint of `container`; `None` where the host has no EEH for its group.
    pub fn of(container: &Arc<Container>) -> Option<Self> {
        let group = Group::number(container.group());
        let refused = |error| {
            guest_message!(
                Level::Info,
                "IOMMU group {group} has no EEH (VFIO_EEH_PE_OP): {error}"
            );
        };
        match container.has_eeh() {
            Ok(true) => Some(Self(Arc::clone(container))),
            Ok(false) => None,
            Err(error) => {
                refused(error);
                None
            }
        }
    }
}

impl Container {
    /// Whether the host's kernel has EEH, and for the group in this container.
    ///
    /// # Errors
    /// The kernel's refusal to tell the state of the group's endpoint: ENODEV where it has none.
    pub fn has_eeh(&self) -> Result<bool, Errno> {
        if !kernel::container_check_extension(self.as_fd(), VFIO_EEH)? {
            return Ok(false);
        }
        self.eeh(VFIO_EEH_PE_GET_STATE).map(|_| true)
    }

    fn eeh(&self, operation: u32) -> Result<u32, Errno> {
        self.eeh_with(operation, vfio_eeh_pe_err::default())
    }

    fn eeh_with(&self, operation: u32, err: vfio_eeh_pe_err) -> Result<u32, Errno> {
        kernel::container_eeh_pe_op(
            self.as_fd(),
            &vfio_eeh_pe_op {
                argsz: argument_size::<vfio_eeh_pe_op>(),
                flags: 0,
                op: operation,
                __bindgen_anon_1: vfio_eeh_pe_op__bindgen_ty_1 { err },
            },
        )
    }
}

impl PeBackend for VfioEndpoint {
    fn request(&self, request: PeRequest) -> io::Result<()> {
        let operation = match request {
            PeRequest::Disable => VFIO_EEH_PE_DISABLE,
            PeRequest::Enable => VFIO_EEH_PE_ENABLE,
            PeRequest::ThawIo => VFIO_EEH_PE_UNFREEZE_IO,
            PeRequest::ThawDma => VFIO_EEH_PE_UNFREEZE_DMA,
            PeRequest::HotReset => VFIO_EEH_PE_RESET_HOT,
            PeRequest::FundamentalReset => VFIO_EEH_PE_RESET_FUNDAMENTAL,
            PeRequest::EndReset => VFIO_EEH_PE_RESET_DEACTIVATE,
            PeRequest::Configure => VFIO_EEH_PE_CONFIGURE,
        };
        match self.0.eeh(operation) {
            Ok(0) => Ok(()),
            // None but the one that asks for the state returns a number.
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Err(error) => Err(error.into()),
        }
    }

    fn state(&self) -> io::Result<PeState> {
        Ok(match self.0.eeh(VFIO_EEH_PE_GET_STATE)? {
            VFIO_EEH_PE_STATE_NORMAL => PeState::Normal,
            VFIO_EEH_PE_STATE_RESET => PeState::Reset,
            VFIO_EEH_PE_STATE_STOPPED => PeState::Stopped,
            VFIO_EEH_PE_STATE_STOPPED_DMA => PeState::DmaStopped,
            _ => PeState::Unavailable,
        })
    }

    /// Address and mask stay 0: the guest's bus addresses are not the host's, and a mask could take in those of other
    /// endpoints of the host's bridge. Firmware then takes one of this endpoint's.
    fn inject(&self, error: PeError) -> io::Result<()> {
        let error = vfio_eeh_pe_err {
            type_: error.is_64_bit.into(),
            func: error.function,
            addr: 0,
            mask: 0,
        };
        match self.0.eeh_with(VFIO_EEH_PE_INJECT_ERR, error) {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "eeh_tests.rs"]
mod tests;
