//! The command register of a function (PCI Local Bus Specification 3.0, 6.2.2): which addresses it decodes, and whether
//! it does DMA.
//!
//! While the host has vectors of it, it decodes its memory, whatever the guest has: the host's kernel goes to the table of
//! MSI-X vectors by itself after a function-level reset and when a device leaves D3hot, both of which a guest can ask
//! for, and does not look whether anything answers (`__pci_restore_msix_state` in drivers/pci/msi/msi.c). The guest finds the
//! register as it has written it, and its BARs are not there.

use std::io;

use super::backend::{FunctionBackend, InterruptKind};
use super::config_space::{read_u16, register};
use super::function::{Function, State};

pub(super) const IO: u16 = 1;
pub(super) const MEMORY: u16 = 1 << 1;
pub(super) const BUS_MASTER: u16 = 1 << 2;
/// What is read of a device that answers nothing.
const NO_ANSWER: u16 = u16::MAX;

/// Clears bits of a device's register.
///
/// # Errors
/// The host's refusal.
pub(super) fn clear(backend: &dyn FunctionBackend, bits: u16) -> io::Result<()> {
    let command = read_u16(backend, register::COMMAND)?;
    backend.write_config(register::COMMAND, &(command & !bits).to_le_bytes())
}

impl State {
    /// What a guest that reads configuration space finds there.
    pub(super) fn show_command(&self, offset: u16, data: &mut [u8]) {
        if self.host_vectors.is_some() && !self.wants_memory {
            change(offset, data, |low| low & !low_bits(MEMORY));
        }
    }

    /// What the device gets of a guest's write.
    pub(super) fn keep_decoding(&self, offset: u16, data: &mut [u8]) {
        if self.host_vectors.is_some() {
            change(offset, data, |low| low | low_bits(MEMORY));
        }
    }
}

/// Changes the register's low byte, if an access has it.
fn change(offset: u16, data: &mut [u8], with: impl FnOnce(u8) -> u8) {
    let low = register::COMMAND.checked_sub(offset).map(usize::from);
    if let Some(byte) = low.and_then(|index| data.get_mut(index)) {
        *byte = with(*byte);
    }
}

const fn low_bits(bits: u16) -> u8 {
    bits.to_le_bytes()[0]
}

impl Function {
    /// Clears bits, for the guest as well; memory is decoded for as long as the host has vectors.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn clear_command(&self, bits: u16) -> io::Result<()> {
        let mut state = self.state();
        let kept = if state.host_vectors.is_some() {
            MEMORY
        } else {
            0
        };
        clear(&*self.backend, bits & !kept)?;
        state.command &= !bits;
        state.wants_memory &= bits & MEMORY == 0;
        Ok(())
    }

    /// Notes which vectors the host has of it, or is about to have, and has it decode memory if there are any.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn set_host_vectors(&self, kind: Option<InterruptKind>) -> io::Result<()> {
        let mut state = self.state();
        state.host_vectors = kind;
        let command = read_u16(&*self.backend, register::COMMAND)?;
        let wanted = match kind.is_some() || state.wants_memory {
            true => command | MEMORY,
            false => command & !MEMORY,
        };
        if wanted == command {
            return Ok(());
        }
        self.backend
            .write_config(register::COMMAND, &wanted.to_le_bytes())
    }

    /// Writes something after which the device may have an older command register: one that leaves D3hot, and loses its
    /// state by that, has what it went there with (`vfio_pci_set_power_state`).
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn with_command_kept(
        &self,
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let before = read_u16(&*self.backend, register::COMMAND)?;
        write()?;
        match before {
            NO_ANSWER => Ok(()),
            before => self
                .backend
                .write_config(register::COMMAND, &before.to_le_bytes()),
        }
    }
}
