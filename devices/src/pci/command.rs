//! The command register of a function (PCI Local Bus Specification 3.0, 6.2.2): which addresses it decodes, and whether
//! it does DMA.
//!
//! While the host has vectors of it, it decodes its memory, whatever the guest has: the host's kernel goes to the table of
//! MSI-X vectors by itself after a function-level reset and when a device leaves D3hot, both of which a guest can ask
//! for, and does not look whether anything answers (`__pci_restore_msix_state` in drivers/pci/msi/msi.c). The guest finds the
//! register as it has written it, and while it has memory off, its BARs are not mapped.

use std::io;

use super::backend::{FunctionBackend, InterruptKind};
use super::config_space::{read_u16, register};
use super::function::{Function, State};

pub(super) const IO: u16 = 1;
pub(super) const MEMORY: u16 = 1 << 1;
pub(super) const BUS_MASTER: u16 = 1 << 2;
/// The kernel's own, whatever the device answers (`init_pci_cap_basic_perm` in drivers/vfio/pci/vfio_pci_config.c).
const LINE_DISABLE: u16 = 1 << 10;

/// Whether a device answers, by its register: one that is frozen reads as ones, of which the five highest are never set.
const fn answers(command: u16) -> bool {
    command | LINE_DISABLE != u16::MAX
}

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

    /// Takes what a guest writes, and makes it what the device gets.
    pub(super) fn take_command(&mut self, offset: u16, data: &mut [u8]) {
        let has_vectors = self.host_vectors.is_some();
        change(offset, data, |low| {
            self.wants_memory = low & low_bits(MEMORY) != 0;
            match has_vectors {
                true => low | low_bits(MEMORY),
                false => low,
            }
        });
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
        state.command &= !bits;
        state.wants_memory &= bits & MEMORY == 0;
        let kept = if state.host_vectors.is_some() {
            MEMORY
        } else {
            0
        };
        clear(&*self.backend, bits & !kept)
    }

    /// Whether the device answers accesses to its configuration space.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn answers(&self) -> io::Result<bool> {
        read_u16(&*self.backend, register::COMMAND).map(answers)
    }

    /// Has it decode memory if the host has vectors of it, should it have stopped by itself.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn hold_decoding(&self, state: &State) -> io::Result<()> {
        match state.host_vectors {
            Some(_) => self.decode_memory(true),
            None => Ok(()),
        }
    }

    /// Has the device decode memory, or not; one that does not answer stays as it is.
    fn decode_memory(&self, is_needed: bool) -> io::Result<()> {
        let command = read_u16(&*self.backend, register::COMMAND)?;
        let wanted = match is_needed {
            true => command | MEMORY,
            false => command & !MEMORY,
        };
        if wanted == command || !answers(command) {
            return Ok(());
        }
        let wanted = wanted.to_le_bytes();
        self.backend.write_config(register::COMMAND, &wanted)
    }

    /// Notes which vectors the host has of it, or is about to have, and has it decode memory if there are any.
    ///
    /// # Errors
    /// The host's refusal; what the host is about to have is not noted then.
    pub(super) fn set_host_vectors(&self, kind: Option<InterruptKind>) -> io::Result<()> {
        let mut state = self.state();
        if kind.is_none() {
            state.host_vectors = None;
        }
        // A BAR that could not be taken from the guest has to answer.
        let is_needed = kind.is_some() || state.wants_memory || !state.mapped.is_empty();
        self.decode_memory(is_needed)?;
        state.host_vectors = kind;
        Ok(())
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
        if !answers(before) {
            return Ok(());
        }
        let before = before.to_le_bytes();
        self.backend.write_config(register::COMMAND, &before)
    }
}
