//! Frames from the guest.

use std::io;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

use super::drops::{Drops, Reason};
use super::receive::Interruption;
use super::{MOST_FRAMES, Turn};
use crate::dma::DmaMemory;
use crate::net::{Backend, ETHERNET_BYTES, Frame, HEADER_BYTES, MOST_FRAME_BYTES, Sent};
use crate::virtio::device::{ServeError, Served};
use crate::virtio::requests;

/// The way of frames from the guest.
#[derive(Default)]
pub(super) struct Sender {
    /// The host has no room for more.
    waits: bool,
    buffers: Vec<Descriptor>,
    pieces: Vec<(GuestAddress, usize)>,
}

/// Nothing is sent any more.
fn over(error: io::Error) -> Interruption {
    Interruption::Host(error.into())
}

impl Sender {
    /// Whether it waits for the host to have room.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }

    /// There is room, so it waits no more; whether it did.
    pub(super) const fn stop_waiting(&mut self) -> bool {
        std::mem::replace(&mut self.waits, false)
    }

    /// Everything as at first.
    pub(super) const fn reset(&mut self) {
        self.waits = false;
    }

    /// Gives the host what the guest has; `name` is the card's. Nothing passes where the link is down.
    pub(super) fn serve(
        &mut self,
        backend: &mut Backend,
        queue: &mut Queue,
        memory: &DmaMemory,
        (name, is_up): (&str, bool),
        drops: &mut Drops,
    ) -> Result<Served, Interruption> {
        self.waits = false;
        let mut turn = Turn::new();
        // What was begun before.
        if !backend.flush().map_err(over)? {
            self.waits = true;
            return Ok(Served::Full);
        }
        for _ in 0..MOST_FRAMES.min(queue.size()) {
            if turn.is_over() {
                break;
            }
            let Some(head) = requests::next_into(queue, memory, &mut self.buffers)? else {
                // The rest of the last frame may be left, and no other may follow.
                self.waits = !backend.flush().map_err(over)?;
                return Ok(Served::All);
            };
            self.gather();
            let pieces = &self.pieces;
            let frame = Frame { memory, pieces };
            let bytes = frame.bytes();
            turn.charge(bytes, self.buffers.len());
            let Some(length) = bytes.checked_sub(HEADER_BYTES) else {
                return Err(ServeError::Request("no whole header").into());
            };
            if !is_up {
                drops.count(name, Reason::LinkDown, length);
            } else if !(ETHERNET_BYTES..=MOST_FRAME_BYTES).contains(&length) {
                drops.count(name, Reason::Length, length);
            } else {
                match backend.send(frame)? {
                    Sent::Sent => {}
                    Sent::Later => {
                        queue.go_to_previous_position();
                        self.waits = true;
                        return Ok(Served::Full);
                    }
                    Sent::Refused(error) => drops.refused(name, length, &error),
                    Sent::Over(error) => {
                        drops.count(name, Reason::Refused, length);
                        queue.add_used(memory, head, 0)?;
                        return Err(over(error));
                    }
                }
            }
            queue.add_used(memory, head, 0)?;
        }
        Ok(Served::Some)
    }

    /// Takes the pieces of a frame from its buffers.
    fn gather(&mut self) {
        self.pieces.clear();
        let readable = self.buffers.iter().filter(|it| !it.is_write_only());
        self.pieces.extend(readable.map(|buffer| {
            let bytes = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
            (buffer.addr(), bytes)
        }));
    }
}
