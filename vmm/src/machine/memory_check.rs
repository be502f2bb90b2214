//! Whether the limit on locked memory lets the guest do DMA at all, asked before it starts.

use log::Level;
use spapr_devices::guest_message;
use spapr_devices::vfio::{Container, MemoryLimit, MemoryLimitError, host_page_bytes};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::{LockPolicy, Policy};

use super::dma_windows;
use super::locked_memory::{GroupWindows, Guest};
use crate::memory::GuestRam;
use crate::spec::DdwMode;
use spapr_devices::error_chain::chain;

/// Why the guest is not started.
#[derive(Debug, thiserror::Error)]
pub enum MemoryCheckError {
    /// Nothing could ever be mapped.
    #[error(
        "the guest could map nothing for DMA: its first mapping locks the DMA windows' tables and one \
         region of memory"
    )]
    FirstMapping(#[source] MemoryLimitError),
    /// Memory is to be locked before the guest starts.
    #[error("guest memory cannot be locked at the start")]
    AtStart(#[source] MemoryLimitError),
    /// The limit cannot be read.
    #[error(transparent)]
    Limit(#[from] MemoryLimitError),
}

/// Checks the limit for a guest with memory `ram`, these containers with their default windows, and dynamic windows as
/// `ddw` says, and has the containers name the one limit that is enough for all that it can do. Bridges without
/// hardware get `virtual_tables_bytes` locked beside.
///
/// With memory locked on first mapping, what must be possible is each default window and one
/// region of memory; that more may follow is only warned of, because a guest may never map it.
///
/// # Errors
/// When the limit is too low, with what is needed, what is available, and the limit to set.
pub(super) fn check(
    containers: &[(&Container, GroupWindows)],
    virtual_tables_bytes: u64,
    ram: &GuestRam,
    policy: &Policy,
    ddw: DdwMode,
) -> Result<(), MemoryCheckError> {
    let limit = MemoryLimit::current()?;
    // The least that a guest's first mapping locks, if there is room for no more.
    let region = policy.region;
    let region = region.unwrap_or_else(|| RegionSize::for_ram(ram.bytes()));
    let guest = Guest {
        ram_bytes: ram.bytes(),
        ram_end: ram.end(),
        region,
        kernel_tables: policy.tce.binds_kernel_table(),
        host_page_bytes: host_page_bytes(),
        ddw,
        largest_page: dma_windows::page_backed_by(ram.page_bytes().min(region.bytes())),
    };
    let groups: Vec<GroupWindows> = containers.iter().map(|(_, windows)| *windows).collect();
    let need = guest.need(&groups, policy.lock);
    let [first, most] = [need.first_mapping, need.most]
        .map(|need| need.total_bytes().saturating_add(virtual_tables_bytes));
    let enough = limit.locked_bytes.saturating_add(most);
    for (container, _) in containers {
        container.advise_limit(enough);
    }
    limit.check(first, enough).map_err(match policy.lock {
        LockPolicy::FirstMap => MemoryCheckError::FirstMapping,
        LockPolicy::Attach => MemoryCheckError::AtStart,
    })?;
    if let Err(shortage) = limit.check(most, enough) {
        guest_message!(
            Level::Warn,
            "the guest may come to map more for DMA than can be locked; its driver gets an error then, \
             and one that tries again until it succeeds waits for ever: {}",
            chain(&shortage)
        );
    }
    Ok(())
}
