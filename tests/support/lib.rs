//! What the lab and the tests that run inside its hosts share: writing initial RAM disks, and reading
//! the kernel's count of TCE calls.

pub mod cpio;
pub mod initrd;
pub mod tce_returns;
