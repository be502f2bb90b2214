//! Networks of the host's that a guest's card is in: what carries Ethernet frames between the host and a device.
//!
//! | file | what it holds |
//! |---|---|
//! | `backend` | what carries them, to a device |
//! | `tap` | a TAP interface of the host's kernel |
//! | `stream` | a socket to a program that has a network of its own (passt) |
//! | `frame` | a frame of a guest's, where it lies in memory |
//! | `mac` | addresses of cards |
//!
//! Frames pass with the header that virtio devices have (virtio 5.1.6, `struct virtio_net_hdr_v1`) before them.
//! Who is at the other end is as hostile as a guest: a frame may be anything, and of any length.

mod backend;
mod frame;
mod mac;
mod stream;
mod tap;

pub use backend::{Backend, Received, Sent};
pub use frame::Frame;
pub use mac::{Mac, MacError};
pub use stream::{Stream, StreamError};
pub use tap::{Offloads, SET_OFFLOADS, SET_QUEUE, Tap, TapError};

/// Bytes of the header before each frame.
pub const HEADER_BYTES: usize = 12;

/// Bytes of an Ethernet header: what is shorter is no frame.
pub const ETHERNET_BYTES: usize = 14;

/// Bytes of a frame with its header that tell whom it is for: no frame is shorter.
pub const BEGINNING_BYTES: usize = HEADER_BYTES + ETHERNET_BYTES;

/// Bytes of the longest frame, without the header before it: one that the host's kernel or the guest cuts into
/// segments (virtio 5.1.6.3.1).
pub const MOST_FRAME_BYTES: usize = 65_550;
