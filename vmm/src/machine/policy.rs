//! What of a description is for the engine.

use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::Policy;

use crate::spec::MachineDescription;

/// How TCE calls are served, and when memory is locked.
pub(super) fn policy(description: &MachineDescription) -> Policy {
    Policy {
        tce: description.tce,
        lock: description.lock,
        region: description.lock_region,
        block: match description.hugepages {
            // They are present.
            Some(_) => None,
            None => Some(RegionSize::block_for(host_page_bytes())),
        },
    }
}
