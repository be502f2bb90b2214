//! Limited addressing: dynamic windows that devices reach whose DMA masks have fewer than 64 bits (LoPAR's "limited
//! address" of ibm,reset-pe-dma-windows).
//!
//! The host has one window then, with the default one at its start and a dynamic one from 4 GiB on
//! (`vfio::limited`): so a bridge's windows are all made anew when a guest asks for it.

use spapr_hypercalls::address::{Liobn, PageShift};
use spapr_hypercalls::engine::{Use, WindowError};
use spapr_hypercalls::world::GuestMemory;

use super::{Addressing, Bridge, DmaWindowError, EngineWindows, WindowHost};
use crate::vfio::{host_page_bytes, kvm_table_bytes};

impl<M: GuestMemory, H: WindowHost> EngineWindows<'_, M, H> {
    /// Checks that the bridge may have limited addressing, which empties its windows: a guest asks for it before its
    /// driver maps anything, but another function behind the bridge may be at work.
    pub(super) fn check_limited(&self, number: u8, bridge: &Bridge) -> Result<u64, DmaWindowError> {
        let bytes = bridge.limits.shared_window_bytes();
        let bytes = bytes.ok_or(DmaWindowError::NoLimitedAddressing(number))?;
        if !self.engine.maps_nothing(number) {
            return Err(DmaWindowError::Mapped(number));
        }
        Ok(bytes)
    }

    /// Makes the default window of a bridge that has none, in a window of the host's of `shared_bytes` that has room
    /// for a dynamic one at limited addresses.
    pub(super) fn limit(
        &self,
        number: u8,
        bridge: &mut Bridge,
        shared_bytes: u64,
    ) -> Result<(), DmaWindowError> {
        let host = self.host(number)?;
        // One that the host would not remove is in its place.
        self.engine.remove_left_overs(number)?;
        let page = PageShift::SIZE_4K;
        // The kernel's table is that of the default window alone.
        let kernel_table_bytes = if self.windows.kernel_tables {
            kvm_table_bytes(bridge.default_window.entries, host_page_bytes())
        } else {
            0
        };
        // Guest memory is counted too: a window in which nothing can be mapped is not worth its tables.
        let memory = self.memory_to_lock(bridge.limits.bytes());
        let entries = shared_bytes >> page.get();
        let kernels_and_memory = kernel_table_bytes.saturating_add(memory);
        host.check_limit(page, entries, kernels_and_memory, false)
            .map_err(|source| DmaWindowError::MemoryLimit {
                bridge: number,
                bytes: bridge.limits.bytes(),
                memory,
                source,
            })?;
        let liobn = Liobn::of_pci_window(number, 0);
        let refused = |source| WindowError::Create { liobn, source };
        host.share_window(bridge.limits.bytes()).map_err(refused)?;
        let added = self.engine.add_window(liobn, bridge.default_window);
        // Now, so that a refusal is known.
        let made = added.and_then(|()| self.engine.activate(liobn, Use::NotYet));
        let Err(error) = made else {
            bridge.has_default = true;
            bridge.addressing = Addressing::Limited;
            return Ok(());
        };
        host.unshare_window();
        // What is not made at the host cannot stay there.
        let _ = self.engine.remove_window(liobn);
        Err(error.into())
    }
}

#[cfg(test)]
#[path = "limited_tests.rs"]
mod tests;
