//! Power states of a function (PCI Bus Power Management Interface Specification, 3.2.4): outside D0 it answers
//! configuration accesses, but none to its BARs.
//!
//! The host's kernel goes to the table of MSI-X vectors, which is in a BAR, whenever vectors are taken or given; it switches
//! memory decoding on for that (`vfio_pci_memory_lock_and_enable`) and does not look at the power state
//! (`vfio_msi_disable`, `pci_msix_shutdown`). What nothing answers freezes the device on a POWER host, or is a machine check
//! that ends the host. So a function is woken before. For a reset, and when the device's file is closed, the kernel does
//! so itself (`vfio_pci_ioctl_reset`, `vfio_pci_core_disable`).

use std::io;

use super::config_space::read_u16;
use super::function::Function;

/// The field of the power management control and status register; 0 is D0.
const STATE: u16 = 3;
/// Cleared by writing it as 1.
const PME_STATUS: u16 = 1 << 15;
/// That register of a function that answers nothing.
pub(super) const ASLEEP: u16 = STATE;

/// Whether a function answers accesses to its BARs, by that register.
pub(super) const fn is_awake(control: u16) -> bool {
    control & STATE == 0
}

impl Function {
    /// Has it in D0. While `vectors` is held no processor of the guest's has it in another state again
    /// ([`Function::write_config`]).
    ///
    /// # Errors
    /// The host's refusal, or [`io::ErrorKind::Other`] when the device stays in its state.
    pub(super) fn wake(&self) -> io::Result<()> {
        let Some(register) = self.power_control() else {
            return Ok(());
        };
        let mut state = self.state();
        let control = read_u16(&*self.backend, register)?;
        // Of one whose endpoint is frozen, stores go nowhere, and nobody thaws it meanwhile: `vectors` is held for that.
        if is_awake(control) && is_awake(state.power) || !self.answers()? {
            return Ok(());
        }
        if !is_awake(control) {
            let awake = (control & !(STATE | PME_STATUS)).to_le_bytes();
            self.with_command_kept(|| self.backend.write_config(register, &awake))?;
        }
        self.refresh(&mut state);
        if !is_awake(state.power) {
            let power = state.power & STATE;
            return Err(io::Error::other(format!(
                "it stays in power state D{power}"
            )));
        }
        self.map_missing(&mut state);
        Ok(())
    }

    /// Whether a write there can change the power state, which a reset does as well.
    pub(super) fn changes_power(&self, offset: u16, bytes: usize) -> bool {
        let mut register = self.power_control().into_iter();
        register.any(|register| touches(offset, bytes, register, 2))
            || self.resets_itself(offset, bytes)
    }
}

/// Whether `bytes` at `offset` have a part of a register of `length` bytes at `start`.
pub(super) fn touches(offset: u16, bytes: usize, start: u16, length: u16) -> bool {
    offset < start + length && usize::from(start) < usize::from(offset) + bytes
}

#[cfg(test)]
#[path = "power_tests.rs"]
mod tests;
