//! Accesses to BARs that the guest does not reach directly: I/O ports, and memory that cannot be
//! mapped. They arrive as KVM_EXIT_MMIO.

use log::Level;
use parking_lot::MutexGuard;
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::backend::BarSpace;
use super::bars::BarName;
use super::function::{Function, State};
use super::host_bridge::HostBridge;
use crate::{guest_activity, guest_message};

/// A BAR, a place in it, and what keeps it there.
type Decoded<'a> = (usize, u64, Option<MutexGuard<'a, State>>);

impl Function {
    /// Which BAR decodes `bytes` at `guest`, and where in the BAR that is; with what keeps it so, for a device that can
    /// stop answering without the kernel noticing (it looks for D3hot, and not at D1 and D2 or at I/O ports).
    fn decode(&self, guest: GuestPhysicalAddress, bytes: u64) -> Option<Decoded<'_>> {
        let state = self.state();
        let (index, offset, space) = self.decoded(&state).find_map(|(index, bar, start)| {
            let offset = guest.0.checked_sub(start.0)?;
            (offset.checked_add(bytes)? <= bar.bytes).then_some((index, offset, bar.space))
        })?;
        let is_held = space == BarSpace::Io || self.power_control().is_some();
        Some((index, offset, is_held.then_some(state)))
    }
}

impl HostBridge {
    /// Whether an address lies in one of the bridge's windows.
    pub fn contains(&self, address: GuestPhysicalAddress) -> bool {
        let windows = self.windows();
        [windows.io, windows.memory32, windows.memory64]
            .iter()
            .any(|window| window.bus_address(address, 1).is_some())
    }

    /// Reads `data.len()` bytes at `address`, in the order in which they lie in memory. Where no
    /// BAR answers, all bits are ones, as on a bus without a target.
    pub fn mmio_read(&self, address: GuestPhysicalAddress, data: &mut [u8]) {
        let Some((function, (index, offset, held))) = self.target(address, data.len()) else {
            guest_message!(Level::Debug, "read of {address}, where no BAR answers");
            data.fill(0xff);
            return;
        };
        let result = function.backend.read_bar(index, offset, data);
        drop(held);
        guest_activity!(
            Level::Trace,
            "{}: read of {} bytes of {} at {offset:#x}: {data:x?}",
            function.name(),
            data.len(),
            BarName(index)
        );
        if let Err(error) = result {
            data.fill(0xff);
            guest_message!(
                Level::Warn,
                "{}: {} cannot be read at {offset:#x}: {error}",
                function.name(),
                BarName(index)
            );
        }
    }

    /// Writes `data` at `address`. Where no BAR answers, nothing happens.
    pub fn mmio_write(&self, address: GuestPhysicalAddress, data: &[u8]) {
        let Some((function, (index, offset, held))) = self.target(address, data.len()) else {
            guest_message!(Level::Debug, "write to {address}, where no BAR answers");
            return;
        };
        let result = function.backend.write_bar(index, offset, data);
        drop(held);
        guest_activity!(
            Level::Trace,
            "{}: write of {data:x?} to {} at {offset:#x}",
            function.name(),
            BarName(index)
        );
        if let Err(error) = result {
            guest_message!(
                Level::Warn,
                "{}: {} cannot be written at {offset:#x}: {error}",
                function.name(),
                BarName(index)
            );
        }
    }

    fn target(
        &self,
        address: GuestPhysicalAddress,
        size: usize,
    ) -> Option<(&Function, Decoded<'_>)> {
        let bytes = u64::try_from(size).ok()?;
        let mut functions = self.functions().iter();
        functions.find_map(|function| Some((function, function.decode(address, bytes)?)))
    }
}

#[cfg(test)]
#[path = "rom_tests.rs"]
mod tests;
