//! Frames to the guest.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::drops::{Drops, Reason};
use super::filter::Filter;
use super::{MOST_FRAMES, Turn, config};
use crate::dma::DmaMemory;
use crate::net::{
    Backend, ETHERNET_BYTES, HEADER_BYTES, MOST_FRAME_BYTES, Mac, Offloads, StreamError,
};
use crate::virtio::device::{ServeError, Served};
use crate::virtio::{requests, used};

/// The most frames that wait in the host: more than an interface's queue has (`txqueuelen`, 1000 frames).
const MOST_STALE_FRAMES: usize = 4096;
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
    /// A frame behind its header, and how many bytes there are: 0 when there is none.
    frame: Vec<u8>,
    bytes: usize,
    /// The guest has buffers, and the host no frame.
    waits: bool,
    buffers: Vec<Descriptor>,
    /// Buffers that the frame has so far, with how much of each is used, how much of the frame is there, and where it
    /// is to be said how many they are. What waits for more keeps those that it has: the driver is to tell of others.
    used: Vec<(u16, u32)>,
    written: usize,
    count_at: [Option<GuestAddress>; 2],
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; HEADER_BYTES + MOST_FRAME_BYTES],
            bytes: 0,
            waits: false,
            buffers: Vec::new(),
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

    /// Everything as at first: what was received is nobody's.
    pub(super) fn reset(&mut self) {
        self.waits = false;
        self.forget();
    }

    /// Leaves out what `backend` has, as far as a queue of the host's is long.
    pub(super) fn forget_stale(&mut self, backend: &mut Backend) {
        self.forget();
        for _ in 0..MOST_STALE_FRAMES {
            if !matches!(backend.receive(&mut self.frame), Ok(Some(_))) {
                return;
            }
        }
    }

    /// Has no frame, nor buffers for one.
    fn forget(&mut self) {
        self.bytes = 0;
        self.used.clear();
        self.written = 0;
        self.count_at = [None; 2];
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
        for _ in 0..MOST_FRAMES {
            if turn.is_over() {
                break;
            }
            if self.bytes == 0 && !requests::is_there(queue, memory)? {
                // What the host has stays there until the guest has room.
                return Ok(Served::All);
            }
            if self.bytes == 0 {
                let received = backend.receive(&mut self.frame);
                let Some(bytes) = received.map_err(Interruption::Host)? else {
                    self.waits = true;
                    return Ok(Served::Full);
                };
                turn.charge(bytes, 0);
                if let Err(reason) = terms.check(self.frame.get(..bytes).unwrap_or_default()) {
                    drops.count(terms.name, reason, bytes.saturating_sub(HEADER_BYTES));
                    continue;
                }
                if !config::offloads(terms.features).contains(Offloads::CHECKSUM) {
                    // That the host has looked at its checksum is told to who asks (virtio 5.1.6.4.1).
                    self.frame[0] = 0;
                }
                self.bytes = bytes;
            }
            let merges = config::merges_buffers(terms.features);
            match self.deliver(queue, memory, merges, &mut turn)? {
                Delivered::Whole => self.forget(),
                Delivered::TooLong => {
                    drops.count(terms.name, Reason::NoRoom, self.bytes - HEADER_BYTES);
                    self.forget();
                }
                Delivered::Waits => return Ok(Served::All),
                Delivered::Interrupted => return Ok(Served::Some),
            }
        }
        Ok(Served::Some)
    }

    /// Writes the frame into buffers of the guest's, on from where it was left.
    fn deliver(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
        merges: bool,
        turn: &mut Turn,
    ) -> Result<Delivered, ServeError> {
        let most = if merges { queue.size() } else { 1 };
        self.frame[BUFFERS_AT..HEADER_BYTES].copy_from_slice(&1_u16.to_le_bytes());
        while self.written < self.bytes {
            let count = u16::try_from(self.used.len()).unwrap_or(most);
            if count >= most {
                queue.set_next_avail(queue.next_avail().wrapping_sub(count));
                return Ok(Delivered::TooLong);
            }
            if turn.is_over() && count != 0 {
                return Ok(Delivered::Interrupted);
            }
            let Some(head) = requests::next_into(queue, memory, &mut self.buffers)? else {
                return Ok(Delivered::Waits);
            };
            turn.charge(0, self.buffers.len());
            let before = self.written;
            self.fill(memory)?;
            if before == 0 && self.written < HEADER_BYTES {
                return Err(ServeError::Request("no room for a frame's header"));
            }
            // MOST_FRAME_BYTES is less than 4 GiB.
            let bytes = u32::try_from(self.written - before).unwrap_or(0);
            self.used.push((head, bytes));
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

    /// Writes what is left of the frame into the buffers that were taken, as far as there is room.
    fn fill(&mut self, memory: &DmaMemory) -> Result<(), ServeError> {
        for buffer in self.buffers.iter().filter(|it| it.is_write_only()) {
            let length = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
            let bytes = length.min(self.bytes - self.written);
            let end = self.written + bytes;
            memory.write_slice(&self.frame[self.written..end], buffer.addr())?;
            // The two bytes may be in two buffers.
            for (byte, place) in (BUFFERS_AT..HEADER_BYTES).zip(&mut self.count_at) {
                if (self.written..end).contains(&byte) {
                    let at = buffer.addr().0.checked_add((byte - self.written) as u64);
                    *place = at.map(GuestAddress);
                }
            }
            self.written = end;
        }
        Ok(())
    }
}

impl Terms<'_> {
    /// Whether a frame behind its header is to reach the guest, or why it is not.
    fn check(&self, frame: &[u8]) -> Result<(), Reason> {
        let parts = frame.split_first_chunk::<HEADER_BYTES>();
        let (header, ethernet) = parts.ok_or(Reason::Length)?;
        let (to, _) = ethernet.split_first_chunk().ok_or(Reason::Length)?;
        if !self.is_up {
            Err(Reason::LinkDown)
        } else if ethernet.len() < ETHERNET_BYTES {
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
