//! Tests that take too long for every change: `cargo lab test long::` runs them on each kind of host, with
//! each kernel.

mod compressed_kernels;
mod disk;
mod guest_kernels;
mod reboots;
mod soak;
