//! What the lab, its tests and its benchmark share: writing initial RAM disks, reading the kernel's
//! count of TCE calls and what it says of a process' memory, sitting at a terminal, the results of a benchmark, images
//! of expansion ROMs, and what is in the documents.

#[cfg(feature = "benchmark")]
pub mod benchmark;
pub mod cpio;
#[cfg(feature = "documents")]
pub mod documents;
pub mod expansion_rom;
pub mod initrd;
pub mod peer;
pub mod proc_sizes;
#[cfg(any(feature = "end-to-end", feature = "lab-program"))]
pub mod pseudo_terminal;
pub mod tce_returns;
