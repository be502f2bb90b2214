//! What the lab and its tests share: writing initial RAM disks, reading the kernel's count of TCE
//! calls, and sitting at a terminal.

pub mod cpio;
pub mod initrd;
#[cfg(any(feature = "end-to-end", feature = "lab-program"))]
pub mod pseudo_terminal;
pub mod tce_returns;
