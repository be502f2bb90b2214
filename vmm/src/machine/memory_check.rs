//! Whether the limit on locked memory lets the guest do DMA at all, asked before it starts.

use spapr_devices::vfio::{
    Container, IommuVersion, LockedMemoryNeed, MemoryLimit, MemoryLimitError, host_page_bytes,
};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::{LockPolicy, Policy};

use super::build::DEFAULT_WINDOW;

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
    let region = policy
        .region
        .unwrap_or_else(|| RegionSize::for_ram(ram_bytes))
        .bytes();
    let all = need(containers, ram_bytes, policy);
    match policy.lock {
        LockPolicy::Attach => limit.check(all),
        LockPolicy::FirstMap => {
            limit.check(need(containers, region.min(ram_bytes), policy))?;
            if let Err(shortage) = limit.check(all) {
                log::warn!(
                    "a guest that maps all of its memory for DMA will get an error from some \
                     point on: {shortage}"
                );
            }
            Ok(())
        }
    }
}

/// Bytes that get locked for `memory_bytes` of registered memory and the default windows.
fn need(containers: &[&Container], memory_bytes: u64, policy: &Policy) -> u64 {
    let page = host_page_bytes();
    let window = DEFAULT_WINDOW;
    let window_bytes = window.entries << window.page_shift.get();
    let registers = containers
        .iter()
        .any(|container| container.version() == IommuVersion::V2);
    let mut total = if registers { memory_bytes } else { 0 };
    for container in containers {
        total += match container.version() {
            IommuVersion::V1 => LockedMemoryNeed::v1(container.info().window_bytes, page),
            IommuVersion::V2 => LockedMemoryNeed::v2(0).with_window(
                window.page_shift,
                window_bytes,
                1,
                policy.tce.binds_kernel_table(),
                page,
            ),
        }
        .total_bytes();
    }
    total
}
