//! Tests that run inside an emulated host; `cargo lab test` takes them there.
//!
//! | module | what |
//! |---|---|
//! | `harness` | starting the VMM, giving it a guest, and looking at what came of it |
//! | `every_host` | tests that run on each kind of host |
//! | `libvirt` | tests that run on a host that has libvirt |
//! | `long` | tests that take too long for every change |
//! | `main_host` | tests that run on one kind of host only, as it makes no difference which |

mod every_host;
mod harness;
mod libvirt;
mod long;
mod main_host;
