//! Whether the limit on locked memory lets the guest do DMA at all, asked before it starts.

use spapr_devices::vfio::{Container, IommuInfo, MemoryLimit, MemoryLimitError, host_page_bytes};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::{LockPolicy, Policy};

use super::dma_windows;
use super::locked_memory::Guest;
use crate::cli::DdwMode;
use crate::memory::GuestRam;

/// Checks the limit for a guest with memory `ram`, these containers, and dynamic windows as `ddw`
/// says.
///
/// With memory locked on first mapping, what must be possible is each default window and one
/// region of memory; that all of memory may follow is only warned of.
///
/// # Errors
/// When the limit is too low, with what is needed and what is available.
pub(super) fn check(
    containers: &[&Container],
    ram: &GuestRam,
    policy: &Policy,
    ddw: DdwMode,
) -> Result<(), MemoryLimitError> {
    let limit = MemoryLimit::current()?;
    let region = policy.region;
    let region = region.unwrap_or_else(|| RegionSize::for_ram(ram.bytes()));
    let guest = Guest {
        ram_bytes: ram.bytes(),
        region,
        block: policy.block.unwrap_or(region),
        kernel_tables: policy.tce.binds_kernel_table(),
        host_page_bytes: host_page_bytes(),
        ddw,
        largest_page: dma_windows::page_backed_by(ram.page_bytes().min(region.bytes())),
    };
    let containers: Vec<IommuInfo> = containers.iter().map(|it| *it.info()).collect();
    let need = guest.need(&containers, policy.lock);
    limit.check(need.first_mapping.total_bytes())?;
    if policy.lock == LockPolicy::FirstMap
        && let Err(shortage) = limit.check(need.most.total_bytes())
    {
        log::warn!(
            "a guest that maps all of its memory for DMA will get an error from some point on: \
             {shortage}"
        );
    }
    Ok(())
}
