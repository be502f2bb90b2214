//! The host that a machine is made on.

use std::path::Path;

use spapr_kvm::host::{self, HostError, Kvm};

/// Where the host's processors are described.
const CPUS: &str = "/proc/device-tree/cpus";

/// What of the host is looked for in one place alone.
pub(super) struct Host<'a> {
    /// Opens its KVM.
    pub(super) open: &'a dyn Fn() -> Result<Kvm, HostError>,
    /// Its processors in its device tree.
    pub(super) cpus: &'a Path,
}

impl Host<'_> {
    /// The one that this program runs on.
    pub(super) fn this() -> Self {
        Self {
            open: &host::open,
            cpus: Path::new(CPUS),
        }
    }
}
