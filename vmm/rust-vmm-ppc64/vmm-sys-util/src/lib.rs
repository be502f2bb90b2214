//! `vmm-sys-util` as the registry has it, with ioctl numbers that are right on powerpc64.
pub use upstream::*;
