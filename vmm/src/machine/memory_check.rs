//! Whether the limit on locked memory lets the guest do DMA at all, asked before it starts.

use spapr_devices::vfio::{Container, MemoryLimit, MemoryLimitError, host_page_bytes};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::{LockPolicy, Policy};

use crate::iommu_report::need::{ContainerKind, Guest};

/// Checks the limit for a guest with `ram_bytes` of memory and these containers.
///
/// With memory locked on first mapping, what must be possible is each default window and one
/// region of memory; that all of memory may follow is only warned of.
///
/// # Errors
/// When the limit is too low, with what is needed and what is available.
pub(super) fn check(
    containers: &[&Container],
    ram_bytes: u64,
    policy: &Policy,
) -> Result<(), MemoryLimitError> {
    let limit = MemoryLimit::current()?;
    let guest = Guest {
        ram_bytes,
        region: policy
            .region
            .unwrap_or_else(|| RegionSize::for_ram(ram_bytes)),
        kernel_tables: policy.tce.binds_kernel_table(),
        host_page_bytes: host_page_bytes(),
    };
    let kinds: Vec<ContainerKind> = containers
        .iter()
        .map(|container| container.info().into())
        .collect();
    let need = guest.need(&kinds, policy.lock);
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
