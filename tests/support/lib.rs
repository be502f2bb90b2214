//! What the lab and the tests that run inside its hosts share: writing initial RAM disks.

pub mod cpio;
pub mod initrd;
