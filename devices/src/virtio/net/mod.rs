//! The network card (virtio 5.1, "network device").
//!
//! | file | what it holds |
//! |---|---|
//! | `nic` | a card of the machine: what carries its frames, and how it is to look |
//! | `config` | what a driver reads of it, and what they agree on |
//! | `filter` | which frames its driver wants |
//! | `control` | what its driver says of that |
//! | `receive` | frames to the guest |
//! | `room` | where they go in its memory |
//! | `trains` | how many of them come together |
//! | `transmit` | frames from the guest |
//! | `pair` | a pair of queues, for both ways |
//! | `end_watch` | when to look whether interfaces are still there |
//! | `drops` | frames that go nowhere |
//! | `device` | the device |

mod config;
mod control;
mod device;
#[cfg(any(test, feature = "fuzz"))]
mod driver;
mod drops;
mod end_watch;
mod filter;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod nic;
mod pair;
#[cfg(test)]
mod pair_tests;
mod receive;
mod room;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thread_tests;
mod trains;
mod transmit;
#[cfg(test)]
mod turn_tests;

pub use device::Net;
pub use filter::{Filter, Table};
pub use nic::{Nic, NicOptions};

/// Numbers of the queues of the first pair; those of the others follow in the same order.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Of a card with one pair of queues.
#[cfg(any(test, feature = "fuzz"))]
const CONTROL: usize = 2;

/// The most frames, and about the most bytes, in one turn: whoever waits for the device waits for one at most.
const MOST_FRAMES: u16 = 64;
const MOST_TURN_BYTES: usize = 512 << 10;
/// What a descriptor counts for at least, in bytes, however few its buffer has: it is read and looked at.
const DESCRIPTOR_BYTES: usize = 64;

/// What a turn has left, in bytes.
struct Turn(usize);

impl Turn {
    const fn new() -> Self {
        Self(MOST_TURN_BYTES)
    }

    /// Whether it is over.
    const fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// Passes `bytes` in that many buffers.
    fn charge(&mut self, bytes: usize, buffers: usize) {
        let cost = bytes.max(buffers.saturating_mul(DESCRIPTOR_BYTES));
        self.0 = self.0.saturating_sub(cost);
    }
}
