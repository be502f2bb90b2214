//! What the host says of a passed-through device while its guest runs: that the device has failed, or
//! that the host wants it back. VFIO signals an eventfd for each; there is nothing that the guest's
//! interface would let a machine do, so whoever runs it is told.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use log::Level;
use spapr_devices::guest_message;
use spapr_devices::vfio::{Device, Irq, IrqError, PciAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::Alarm;
use spapr_devices::error_chain::chain;

/// The notices of a device, each with what is said when it comes. Those that the device does not give
/// are left out.
///
/// # Errors
/// When there are no descriptors left.
pub(super) fn watch(device: &Device) -> io::Result<Vec<Alarm>> {
    let address = device.address();
    let mut alarms = Vec::new();
    for (irq, what, tell) in [
        (Irq::Error, "a failure", failed as fn(PciAddress)),
        (Irq::Request, "the host's request for it", wanted_back),
    ] {
        let event = EventFd::new(EFD_NONBLOCK)?;
        match give(device, irq, &event) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                guest_message!(
                    Level::Warn,
                    "PCI device {address}: {what} would not be logged: {}",
                    chain(&error)
                );
                continue;
            }
        }
        // SAFETY: the eventfd is open, and stays so while it is borrowed.
        let ready = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }.try_clone_to_owned()?;
        let mut is_told = false;
        alarms.push(Alarm::new(ready, move || {
            // A guest may be able to make its device fail again and again, and the kernel asks for one
            // back every ten seconds (`vfio_unregister_group_dev` in drivers/vfio/vfio_main.c).
            if event.read().is_ok() && !is_told {
                tell(address);
                is_told = true;
            }
        }));
    }
    Ok(alarms)
}

/// Has `event` signalled for a notice; false when the device does not give it.
fn give(device: &Device, irq: Irq, event: &EventFd) -> Result<bool, IrqError> {
    match device.irq_info(irq) {
        Ok(info) if info.count != 0 => device.set_notice(irq, Some(event)).map(|()| true),
        Ok(_) => Ok(false),
        // A conventional PCI device has no error notice (`vfio_pci_ioctl_get_irq_info`).
        Err(IrqError::Call { source, .. }) if source.errno() == libc::EINVAL => Ok(false),
        Err(error) => Err(error),
    }
}

/// An error that neither the device nor its bus recovers from (drivers/vfio/pci/vfio_pci_core.c,
/// `vfio_pci_core_aer_err_detected`).
fn failed(address: PciAddress) {
    guest_message!(
        Level::Error,
        "PCI device {address} has had an error that it does not recover from: its guest cannot rely on \
         it any more. Shut the guest down and start it again, which resets the device"
    );
}

fn wanted_back(address: PciAddress) {
    guest_message!(
        Level::Warn,
        "the host wants PCI device {address} back (it is being unbound from its driver, or removed): that \
         waits until this guest has ended"
    );
}
