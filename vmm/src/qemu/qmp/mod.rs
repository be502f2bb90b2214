//! QMP, the protocol by which management programs drive a running machine, as QEMU specifies it
//! (docs/interop/qmp-spec.rst there): JSON objects over a socket.
//!
//! | file | what it is for |
//! |---|---|
//! | `framing` | JSON values in a stream of bytes |
//! | `types` | types of arguments and returns: checks, and the schema |
//! | `commands`, `event_types` | the commands and events that there are |
//! | `answers`, `control`, `descriptors`, `dump` | what commands do |
//! | `block` | what commands about disks do |
//! | `instead` | commands of QEMU's that are not there, and what to do instead |
//! | `net` | what commands about network cards do |
//! | `session` | one client's requests and replies |
//! | `client` | one client's connection |
//! | `server` | the thread that serves all clients |

mod answers;
mod balloon;
mod block;
mod client;
mod commands;
mod control;
mod descriptors;
mod dump;
mod error;
mod event_types;
mod framing;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod instead;
mod net;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod types;

pub use client::Stream;
pub use server::{Endpoints, Listener, Server};
