//! Frames to the guest.

use std::ops::Range;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::drops::{Drops, Reason};
use super::filter::Filter;
use super::room::{MOST_PIECES, Room};
use super::trains::Trains;
use super::{MOST_FRAMES, Turn, config};
use crate::dma::{DmaMemory, behind};
use crate::net::{
    BEGINNING_BYTES, Backend, Frame, HEADER_BYTES, MOST_FRAME_BYTES, Mac, Offloads, StreamError,
};
use crate::virtio::device::{ServeError, Served};
use crate::virtio::used;

/// The most frames that wait in the host: more than an interface's queue has (`txqueuelen`, 1000 frames).
const MOST_STALE_FRAMES: usize = 4096;
/// A frame that is expected to be shorter is copied: the kernel takes a list of buffers, and writes to each, for more than
/// that.
const LEAST_STRAIGHT_BYTES: usize = 2048;
/// Where a header says in how many buffers its frame is (`num_buffers`).
const BUFFERS_AT: usize = 10;

/// What a guest's driver gets.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// The card's name.
    pub(super) name: &'a str,
    /// Features that it has accepted.
    pub(super) features: u64,
    pub(super) filter: &'a Filter,
    /// Frames pass.
    pub(super) is_up: bool,
}

/// Why a turn ends without an end of the frames.
#[derive(Debug)]
pub(super) enum Interruption {
    /// The driver did what cannot be.
    Driver(ServeError),
    /// No frames come any more.
    Host(StreamError),
}

impl<T: Into<ServeError>> From<T> for Interruption {
    fn from(error: T) -> Self {
        Self::Driver(error.into())
    }
}

/// What became of a frame.
enum Delivered {
    Whole,
    /// It waits for more buffers.
    Waits,
    /// It waits for the next turn.
    Interrupted,
    /// There are never enough.
    TooLong,
}

/// The way of frames to the guest.
pub(super) struct Receiver {
    /// A frame behind its header, but for the part of it that went straight into room, and how many bytes there are: 0
    /// when there is none.
    frame: Vec<u8>,
    straight: Range<usize>,
    bytes: usize,
    /// The guest has buffers, and the host no frame.
    waits: bool,
    room: Room,
    /// For how long a frame room is taken ahead.
    expected: usize,
    trains: Trains,
    /// The first chains of the room, which the frame has so far, with how much of each is used, how much of the frame is
    /// there, and where it is to be said how many they are. What waits for more keeps those that it has: the driver is to
    /// tell of others.
    used: Vec<(u16, u32)>,
    written: usize,
    count_at: [Option<GuestAddress>; 2],
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; HEADER_BYTES + MOST_FRAME_BYTES],
            straight: 0..0,
            bytes: 0,
            waits: false,
            room: Room::default(),
            expected: 1,
            trains: Trains::new(),
            used: Vec::new(),
            written: 0,
            count_at: [None; 2],
        }
    }

    /// Whether it waits for the host to have a frame.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }

    /// There is something, so it waits no more; whether it did.
    pub(super) const fn stop_waiting(&mut self) -> bool {
        std::mem::replace(&mut self.waits, false)
    }

    /// Everything as at first: what was received is nobody's, and neither are buffers that were taken.
    pub(super) fn reset(&mut self) {
        self.waits = false;
        self.room.clear();
        self.forget();
    }

    /// Leaves out what `backend` has, as far as a queue of the host's is long.
    pub(super) fn forget_stale(&mut self, backend: &mut Backend) {
        self.room.clear();
        self.forget();
        for _ in 0..MOST_STALE_FRAMES {
            if !matches!(backend.receive(&mut self.frame, None), Ok(Ok(Some(_)))) {
                return;
            }
        }
    }

    /// Has no frame, and what it had is room again.
    fn forget(&mut self) {
        self.bytes = 0;
        self.used.clear();
        self.written = 0;
        self.count_at = [None; 2];
    }

    /// Gives back to the queue what room was taken ahead, for somebody else to serve it next.
    pub(super) fn give_up_room(&mut self, queue: &mut Queue) {
        if self.bytes == 0 {
            // As many as a queue has at most.
            let count = u16::try_from(self.room.len()).unwrap_or(0);
            queue.set_next_avail(queue.next_avail().wrapping_sub(count));
            self.room.clear();
        }
    }

    /// Gives the guest what the host has.
    pub(super) fn serve(
        &mut self,
        backend: &mut Backend,
        queue: &mut Queue,
        memory: &DmaMemory,
        terms: Terms<'_>,
        drops: &mut Drops,
    ) -> Result<Served, Interruption> {
        self.waits = false;
        let mut turn = Turn::new();
        for frames in 0..MOST_FRAMES {
            if turn.is_over() {
                break;
            }
            if self.bytes == 0 {
                self.room
                    .take_for(self.expected, queue, memory, &mut turn)?;
                if self.room.len() == 0 {
                    // What the host has stays there until the guest has room.
                    return Ok(Served::All);
                }
                let is_over = !backend.reads_ahead() && self.trains.is_over(frames);
                if is_over || !self.receive(backend, memory, terms)? {
                    if !is_over {
                        self.trains.ended(frames);
                    }
                    self.waits = true;
                    return Ok(Served::Full);
                }
                turn.charge(self.bytes, 0);
                if let Err(reason) = terms.check(&self.frame, self.bytes) {
                    let bytes = self.bytes.saturating_sub(HEADER_BYTES);
                    drops.count(terms.name, reason, bytes);
                    self.forget();
                    continue;
                }
                if !config::offloads(terms.features).contains(Offloads::CHECKSUM) {
                    // That the host has looked at its checksum is told to who asks (virtio 5.1.6.4.1).
                    self.frame[0] = 0;
                }
            }
            let merges = config::merges_buffers(terms.features);
            match self.deliver(queue, memory, merges, &mut turn)? {
                Delivered::Whole => {
                    self.room.remove(self.used.len());
                    self.forget();
                }
                Delivered::TooLong => {
                    drops.count(terms.name, Reason::NoRoom, self.bytes - HEADER_BYTES);
                    self.forget();
                }
                Delivered::Waits => return Ok(Served::All),
                Delivered::Interrupted => return Ok(Served::Some),
            }
        }
        self.trains.ended(MOST_FRAMES);
        Ok(Served::Some)
    }

    /// Takes the next frame from the host, what is behind its beginning straight into room; false if there is none.
    fn receive(
        &mut self,
        backend: &mut Backend,
        memory: &DmaMemory,
        terms: Terms<'_>,
    ) -> Result<bool, Interruption> {
        let pieces = if !terms.is_up || self.expected < LEAST_STRAIGHT_BYTES {
            // A guest is to see nothing of what does not reach it.
            0
        } else if config::merges_buffers(terms.features) {
            self.room.pieces().len()
        } else {
            self.room.chain(0).map_or(0, |chain| chain.pieces)
        };
        let pieces = &self.room.pieces()[..pieces.min(MOST_PIECES)];
        let received = backend.receive(&mut self.frame, Some(Frame { memory, pieces }))?;
        let Some(received) = received.map_err(Interruption::Host)? else {
            return Ok(false);
        };
        self.bytes = received.bytes;
        self.straight = match received.straight {
            0 => 0..0,
            bytes => BEGINNING_BYTES..BEGINNING_BYTES + bytes,
        };
        self.expected = received.bytes.max(self.expected / 2);
        Ok(true)
    }

    /// Writes the frame into buffers of the guest's, on from where it was left.
    fn deliver(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
        merges: bool,
        turn: &mut Turn,
    ) -> Result<Delivered, ServeError> {
        let most = if merges { queue.size().into() } else { 1 };
        self.frame[BUFFERS_AT..HEADER_BYTES].copy_from_slice(&1_u16.to_le_bytes());
        let mut next_piece = 0;
        for index in 0..self.used.len() {
            next_piece += self.room.chain(index).map_or(0, |chain| chain.pieces);
        }
        while self.written < self.bytes {
            if self.used.len() >= most {
                return Ok(Delivered::TooLong);
            }
            if turn.is_over() && !self.used.is_empty() {
                return Ok(Delivered::Interrupted);
            }
            if self.used.len() == self.room.len() && !self.room.take(queue, memory, turn)? {
                return Ok(Delivered::Waits);
            }
            let Some(chain) = self.room.chain(self.used.len()) else {
                return Ok(Delivered::Waits);
            };
            // Room that was taken before is gone through by each frame that finds it too short.
            turn.charge(0, chain.pieces.max(1));
            let before = self.written;
            let end = next_piece + chain.pieces;
            self.fill(memory, next_piece..end)?;
            next_piece = end;
            if before == 0 && self.written < HEADER_BYTES {
                return Err(ServeError::Request("no room for a frame's header"));
            }
            // MOST_FRAME_BYTES is less than 4 GiB.
            let bytes = u32::try_from(self.written - before).unwrap_or(0);
            self.used.push((chain.head, bytes));
        }
        if let Ok(count @ 2..) = u16::try_from(self.used.len()) {
            for (byte, at) in count.to_le_bytes().into_iter().zip(self.count_at) {
                if let Some(at) = at {
                    memory.write_obj(byte, at)?;
                }
            }
        }
        used::add_all(queue, memory, &self.used)?;
        Ok(Delivered::Whole)
    }

    /// Writes what is left of the frame into those pieces of the room, as far as there is room and it is not there already.
    fn fill(&mut self, memory: &DmaMemory, pieces: Range<usize>) -> Result<(), ServeError> {
        for (address, length) in &self.room.pieces()[pieces] {
            let start = self.written;
            let end = start + (*length).min(self.bytes - start);
            let there = self.straight.clone();
            for part in [start..end.min(there.start), start.max(there.end)..end] {
                if !part.is_empty() {
                    let at = behind(*address, part.start - start)?;
                    memory.write_slice(&self.frame[part], at)?;
                }
            }
            // The two bytes may be in two buffers.
            for (byte, place) in (BUFFERS_AT..HEADER_BYTES).zip(&mut self.count_at) {
                if (start..end).contains(&byte) {
                    *place = Some(behind(*address, byte - start)?);
                }
            }
            self.written = end;
        }
        Ok(())
    }
}

impl Terms<'_> {
    /// Whether a frame of `bytes` bytes is to reach the guest, or why it is not: by its header, and its beginning behind
    /// that.
    fn check(&self, beginning: &[u8], bytes: usize) -> Result<(), Reason> {
        let parts = beginning.split_first_chunk::<HEADER_BYTES>();
        let (header, ethernet) = parts.ok_or(Reason::Length)?;
        let (to, _) = ethernet.split_first_chunk().ok_or(Reason::Length)?;
        if !self.is_up {
            Err(Reason::LinkDown)
        } else if bytes < BEGINNING_BYTES {
            Err(Reason::Length)
        } else if !self.filter.wants(Mac(*to)) {
            Err(Reason::Unwanted)
        } else if !takes(config::offloads(self.features), *header) {
            Err(Reason::Offload)
        } else {
            Ok(())
        }
    }
}

/// Whether the host may leave to the guest what a header leaves to it: a frame may be from before the host was told.
fn takes(offloads: Offloads, [flags, kind, ..]: [u8; HEADER_BYTES]) -> bool {
    let needs = |value: u8, bit: u32| u32::from(value) & bit != 0;
    let mut wanted = Offloads::empty();
    wanted.set(
        Offloads::CHECKSUM,
        needs(flags, VIRTIO_NET_HDR_F_NEEDS_CSUM),
    );
    wanted.set(Offloads::ECN, needs(kind, VIRTIO_NET_HDR_GSO_ECN));
    match u32::from(kind) & !VIRTIO_NET_HDR_GSO_ECN {
        VIRTIO_NET_HDR_GSO_NONE => {}
        VIRTIO_NET_HDR_GSO_TCPV4 => wanted |= Offloads::TSO4,
        VIRTIO_NET_HDR_GSO_TCPV6 => wanted |= Offloads::TSO6,
        _ => return false,
    }
    offloads.contains(wanted)
}
