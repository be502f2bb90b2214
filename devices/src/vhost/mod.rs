//! Virtio queues that others serve: the host's kernel (vhost: drivers/vhost in the kernel, include/uapi/linux/vhost.h), or
//! another program (vhost-user), by crate `vhost`.
//!
//! | file | what it holds |
//! |---|---|
//! | `handle` | an open device of the kernel's |
//! | `rings` | where a queue's rings are in this process |
//! | `net` | network cards |
//! | `vsock` | sockets |
//! | `requests` | the calls, for a filter of them |
//! | `user` | other programs |
//!
//! The kernel reads and writes rings by addresses of this process, which nothing there checks against the guest's
//! memory: that is done here. Buffers it reaches by the table of guest memory that it is given, and nothing else.

mod handle;
mod net;
pub mod requests;
mod rings;
pub(crate) mod user;
mod vsock;

pub use handle::{Kind, Vhost, VhostError};
pub(crate) use net::{NetKernel, NetKernels};
pub(crate) use rings::{BackEnd, Ring};
pub use user::{VhostUser, VhostUserError};
pub(crate) use vsock::VsockKernel;
