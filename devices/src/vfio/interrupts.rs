//! Interrupts of a passed-through PCI function: which eventfd the kernel signals for which.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use parking_lot::MutexGuard;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_MASKABLE, VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX, vfio_irq_info,
};
use vmm_sys_util::errno::Error as Errno;

use super::address::PciAddress;
use super::device::Device;
use super::{argument_size, kernel};

/// A kind of interrupt of a PCI function, and two notices that VFIO gives in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Irq {
    /// The interrupt line. The kernel masks it when it signals; see [`Device::unmask_intx`].
    Intx,
    /// Message-signalled interrupts.
    Msi,
    /// Message-signalled interrupts with a table.
    Msix,
    /// The device had an error it does not recover from.
    Error,
    /// The host asks for the device back.
    Request,
}

impl Irq {
    const fn index(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }

    const fn is_notice(self) -> bool {
        matches!(self, Self::Error | Self::Request)
    }
}

impl fmt::Display for Irq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
            Self::Error => "error notice",
            Self::Request => "unplug notice",
        })
    }
}

/// What a device has of a kind of interrupt (VFIO_DEVICE_GET_IRQ_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// How many vectors; 0 when it has none of this kind.
    pub count: u32,
    /// Whether they can be masked through VFIO.
    pub maskable: bool,
    /// Whether the kernel masks one when it signals it.
    pub automasked: bool,
    /// Whether their number is fixed once they are enabled.
    pub no_resize: bool,
}

/// The interrupts of a device that are enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enabled {
    irq: Irq,
    vectors: u32,
}

/// Why interrupts cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// There are fewer vectors than asked for.
    #[error(
        "PCI device {address} cannot have {wanted} {irq} vectors: there are {available} of them"
    )]
    TooMany {
        /// The device.
        address: PciAddress,
        /// Which kind.
        irq: Irq,
        /// How many were asked for.
        wanted: usize,
        /// How many there are, of the device or of the host at present.
        available: u32,
    },
    /// A notice was to be given as an interrupt, or the other way round.
    #[error("{0} is not of the kind asked for")]
    WrongKind(Irq),
    /// An ioctl failed.
    #[error("{call} failed for {irq} of PCI device {address}")]
    Call {
        /// Its name.
        call: &'static str,
        /// The device.
        address: PciAddress,
        /// Which kind.
        irq: Irq,
        /// Why.
        #[source]
        source: Errno,
    },
}

impl Device {
    /// What the device has of a kind of interrupt.
    ///
    /// # Errors
    /// The kernel's refusal: EINVAL for a notice that this device does not give.
    pub fn irq_info(&self, irq: Irq) -> Result<IrqInfo, IrqError> {
        let mut info = vfio_irq_info {
            argsz: argument_size::<vfio_irq_info>(),
            index: irq.index(),
            ..Default::default()
        };
        kernel::device_get_irq_info(self.as_fd(), &mut info)
            .map_err(|source| self.irq_failed("VFIO_DEVICE_GET_IRQ_INFO", irq, source))?;
        Ok(IrqInfo {
            count: info.count,
            maskable: info.flags & VFIO_IRQ_INFO_MASKABLE != 0,
            automasked: info.flags & VFIO_IRQ_INFO_AUTOMASKED != 0,
            no_resize: info.flags & VFIO_IRQ_INFO_NORESIZE != 0,
        })
    }

    /// Enables exactly as many vectors of `irq` (INTx, MSI or MSI-X) as there are eventfds, each
    /// signalled for its vector; with none, disables all interrupts. Whatever was enabled before,
    /// of this kind or another, is replaced.
    ///
    /// An eventfd need not outlive the call: the kernel holds it.
    ///
    /// # Errors
    /// [`IrqError::TooMany`] with the number there could be, or the kernel's refusal. No
    /// interrupt is enabled then.
    pub fn set_vectors(&self, irq: Irq, eventfds: &[impl AsRawFd]) -> Result<(), IrqError> {
        if irq.is_notice() {
            return Err(IrqError::WrongKind(irq));
        }
        let wanted = eventfds.len();
        let mut enabled = self.enabled_irqs();
        if wanted == 0 {
            return self.disable(&mut enabled);
        }
        let too_many = |available| IrqError::TooMany {
            address: self.address(),
            irq,
            wanted,
            available,
        };
        let info = self.irq_info(irq)?;
        let vectors = u32::try_from(wanted)
            .ok()
            .filter(|&wanted| wanted <= info.count);
        let Some(vectors) = vectors else {
            self.disable(&mut enabled)?;
            return Err(too_many(info.count));
        };
        // Only the same vectors, or more of them where their number may change, can be set over
        // those that are enabled.
        let over = enabled.is_some_and(|now| {
            now.irq == irq && (now.vectors == vectors || (now.vectors < vectors && !info.no_resize))
        });
        if !over {
            self.disable(&mut enabled)?;
        }
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        let fds = eventfds.iter().map(AsRawFd::as_raw_fd);
        match self.set_irqs(irq, flags, vectors, fds) {
            Ok(0) => {
                *enabled = Some(Enabled { irq, vectors });
                Ok(())
            }
            Ok(available) => {
                self.disable(&mut enabled)?;
                Err(too_many(available))
            }
            Err(source) => {
                self.disable(&mut enabled)?;
                Err(self.irq_failed("VFIO_DEVICE_SET_IRQS", irq, source))
            }
        }
    }

    /// Disables all interrupts. (Notices stay.)
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn disable_vectors(&self) -> Result<(), IrqError> {
        self.disable(&mut self.enabled_irqs())
    }

    /// Lets the interrupt line signal again, after the kernel masked it by signalling.
    ///
    /// # Errors
    /// The kernel's refusal: EINVAL when INTx is not enabled.
    pub fn unmask_intx(&self) -> Result<(), IrqError> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
        match self.set_irqs(Irq::Intx, flags, 1, []) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.irq_failed("VFIO_DEVICE_SET_IRQS", Irq::Intx, source)),
        }
    }

    /// Has `eventfd` signalled for a notice ([`Irq::Error`] or [`Irq::Request`]), or none.
    ///
    /// # Errors
    /// The kernel's refusal: EINVAL when this device does not give the notice.
    pub fn set_notice(&self, irq: Irq, eventfd: Option<&impl AsRawFd>) -> Result<(), IrqError> {
        if !irq.is_notice() {
            return Err(IrqError::WrongKind(irq));
        }
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        let fd = eventfd.map_or(-1, AsRawFd::as_raw_fd);
        match self.set_irqs(irq, flags, 1, [fd]) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.irq_failed("VFIO_DEVICE_SET_IRQS", irq, source)),
        }
    }

    fn enabled_irqs(&self) -> MutexGuard<'_, Option<Enabled>> {
        self.enabled.lock()
    }

    fn disable(&self, enabled: &mut Option<Enabled>) -> Result<(), IrqError> {
        let Some(Enabled { irq, .. }) = enabled.take() else {
            return Ok(());
        };
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        match self.set_irqs(irq, flags, 0, []) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.irq_failed("VFIO_DEVICE_SET_IRQS", irq, source)),
        }
    }

    /// VFIO_DEVICE_SET_IRQS from vector 0 on: `argsz`, flags, index, start and count, then an
    /// eventfd for each vector if the flags say so.
    fn set_irqs(
        &self,
        irq: Irq,
        flags: u32,
        count: u32,
        eventfds: impl IntoIterator<Item = i32>,
    ) -> Result<u32, Errno> {
        let mut words = vec![0, flags, irq.index(), 0, count];
        words.extend(eventfds.into_iter().map(i32::cast_unsigned));
        kernel::device_set_irqs(self.as_fd(), &mut words)
    }

    fn irq_failed(&self, call: &'static str, irq: Irq, source: Errno) -> IrqError {
        IrqError::Call {
            call,
            address: self.address(),
            irq,
            source,
        }
    }
}

#[cfg(test)]
#[path = "interrupts_tests.rs"]
mod tests;
