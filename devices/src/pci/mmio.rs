//! Accesses to BARs that the guest does not reach directly: I/O ports, and memory that cannot be
//! mapped. They arrive as KVM_EXIT_MMIO.

use log::Level;
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::bars::BarName;
use super::function::{Decoded, Function};
use super::host_bridge::HostBridge;
use crate::{guest_activity, guest_message};

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
