//! The serial device with ports (virtio 5.3, "console device"): each port is a stream of bytes between the guest and
//! whoever is at the port's socket.
//!
//! | file | what it holds |
//! |---|---|
//! | `channel` | a port's socket, and who is connected to it |
//! | `ports` | the ports with their sockets, which outlast a machine's lives |
//! | `port` | what a driver has made of a port |
//! | `control` | messages about ports |
//! | `device` | the device |
//!
//! Nothing is kept on the way: what a peer sends stays in its socket until the guest has a buffer for it, and what the
//! guest sends stays in its queue until the socket takes it. So neither side can have this process hold more than a
//! request of each queue. What a guest sends while nobody is connected goes nowhere.

mod channel;
mod control;
mod device;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod hostile_tests;
mod port;
mod ports;
#[cfg(test)]
mod tests;

pub use channel::Outlet;
pub use device::Serial;
pub use ports::{PortOptions, Ports};

/// The highest number that a port may have: each has two queues, and there are two more.
pub const HIGHEST_PORT: u32 = 30;
