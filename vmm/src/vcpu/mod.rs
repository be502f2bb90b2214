//! A processor of the guest: the loop around KVM_RUN, and the hypercalls that are no DMA.
//!
//! A hypercall's way: the loop in `thread` (KVM_RUN returns) → `hypercalls` (which family) → for a
//! TCE call the engine of `spapr_hypercalls`, and from there one VFIO ioctl.

pub mod system_reset;

mod call_log;
mod hypercalls;
pub mod rtas;
pub mod thread;
