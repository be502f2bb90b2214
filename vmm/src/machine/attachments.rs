//! What a machine's devices have at their other ends, which its front end has opened before there is a machine: a
//! sandbox has no calls for that, and front ends differ in how it is named.

use std::sync::Arc;

use spapr_devices::virtio::balloon::BalloonControl;
use spapr_devices::virtio::disk::DiskFailures;
use spapr_devices::virtio::net::Nic;
use spapr_devices::virtio::serial::Ports;
use spapr_devices::virtio::{FsHost, VsockHost};

/// All of it. It outlasts the machine's lives.
#[derive(Default)]
pub struct Attachments {
    /// Its network cards, in the order of the description.
    pub nics: Vec<Arc<Nic>>,
    /// Its sockets, in the order of the description.
    pub vsocks: Vec<Arc<VsockHost>>,
    /// Its file systems, in the order of the description.
    pub filesystems: Vec<Arc<FsHost>>,
    /// The ports of its serial devices, in the order of the description.
    pub ports: Vec<Arc<Ports>>,
    /// Its balloon, if it has one.
    pub balloon: Option<Arc<BalloonControl>>,
    /// Where its disks tell of what the host fails, if somebody hears it.
    pub disk_failures: Option<Arc<DiskFailures>>,
}
