//! A driver of a card and the other end of its network, for tests and fuzzers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{Epoll, EpollEvent};

#[cfg(test)]
use super::CONTROL;
use super::{Net, Nic, NicOptions, RECEIVE, TRANSMIT};
use crate::dma::DmaMemory;
use crate::net::{Backend, HEADER_BYTES, Mac, Stream, Tap};
use crate::virtio::device::{Device, ServeError, Served, which_own};

pub(super) const RAM_BYTES: usize = 0x8_0000;
/// What nobody is given.
#[cfg(test)]
pub(super) const WATCHED: u64 = 0x7_0000;
pub(super) const QUEUE_SIZE: u16 = 8;
pub(super) const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

/// Where the parts of queue `index` are: descriptors, the driver's ring, the device's ring.
const fn descriptors(index: usize) -> u64 {
    0x1000 + 0x3000 * index as u64
}
const fn driver_ring(index: usize) -> u64 {
    descriptors(index) + 0x1000
}
pub(super) const fn device_ring(index: usize) -> u64 {
    descriptors(index) + 0x2000
}
/// Where the buffers of queue `index` are.
pub(super) const fn buffers(index: usize) -> u64 {
    0x1_0000 * (1 + index as u64)
}

/// The other end.
pub(super) enum Peer {
    /// Of an interface: headers are before frames.
    Interface(File),
    /// Of a stream.
    Stream(UnixStream),
}

pub(super) struct Driver {
    pub(super) ram: GuestMemoryMmap,
    memory: DmaMemory,
    pub(super) nic: Arc<Nic>,
    pub(super) net: Net,
    /// With which its thread waits, were there one.
    epoll: Arc<Epoll>,
    pub(super) queues: Vec<Queue>,
    offered: Vec<u16>,
    pub(super) peer: Peer,
    /// Those of the other pairs of queues.
    pub(super) more: Vec<File>,
    /// It has sent bytes that need be no frame of its protocol.
    is_raw: bool,
}

/// Two sockets that keep frames apart.
pub(super) fn packet_sockets() -> [OwnedFd; 2] {
    let mut sockets = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the pointer is to room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, sockets.as_mut_ptr()) };
    assert_eq!(made, 0, "no sockets");
    // SAFETY: the kernel has just made them, and nobody else has them.
    sockets.map(|socket| unsafe { OwnedFd::from_raw_fd(socket) })
}

impl Driver {
    /// Of a card that is in an interface.
    pub(super) fn of_interface() -> Self {
        let [own, peer] = packet_sockets();
        let backend = Backend::Tap(Tap::of_socket(own));
        Self::of(backend, Vec::new(), Peer::Interface(File::from(peer)))
    }

    /// Of a card that is in an interface with two queues.
    pub(super) fn of_two_pairs() -> Self {
        let [[own, peer], [second, its]] = [packet_sockets(), packet_sockets()];
        let [first, second] = [own, second].map(|own| Backend::Tap(Tap::of_socket(own)));
        let mut driver = Self::of(first, vec![second], Peer::Interface(File::from(peer)));
        driver.more.push(File::from(its));
        driver
    }

    /// Of a card that has a stream.
    pub(super) fn of_stream() -> Self {
        let (own, peer) = UnixStream::pair().expect("sockets");
        peer.set_nonblocking(true).expect("a socket");
        let stream = Stream::over(own.into()).expect("a socket");
        Self::of(Backend::Stream(stream), Vec::new(), Peer::Stream(peer))
    }

    fn of(backend: Backend, more: Vec<Backend>, peer: Peer) -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).expect("memory");
        let options = NicOptions {
            name: "net0".to_owned(),
            mac: MAC,
            mtu: Some(1400),
            receive_entries: QUEUE_SIZE,
            transmit_entries: QUEUE_SIZE,
        };
        let count = 3 + 2 * more.len();
        let nic = Nic::new(backend, options).expect("an eventfd");
        let nic = Arc::new(nic.with_pairs(more));
        let mut driver = Self {
            memory: DmaMemory::by_guest_address(ram.clone()),
            net: Net::new(Arc::clone(&nic)).expect("it has none yet"),
            epoll: Arc::new(Epoll::new().expect("an epoll instance")),
            queues: (0..count)
                .map(|_| Queue::new(QUEUE_SIZE).expect("a size"))
                .collect(),
            offered: vec![0; count],
            more: Vec::new(),
            ram,
            nic,
            peer,
            is_raw: false,
        };
        driver.net.wait_with(&driver.epoll).expect("a descriptor");
        driver.start(driver.net.features());
        driver
    }

    /// Resets the device and comes to terms with it about `features`; rings are empty.
    pub(super) fn start(&mut self, features: u64) {
        self.net.reset();
        self.net.start(features);
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let start = GuestAddress(descriptors(index));
            self.ram.write_slice(&[0; 0x3000], start).expect("RAM");
            queue.reset();
            queue.try_set_desc_table_address(start).expect("aligned");
            let ring = GuestAddress(driver_ring(index));
            queue.try_set_avail_ring_address(ring).expect("aligned");
            let ring = GuestAddress(device_ring(index));
            queue.try_set_used_ring_address(ring).expect("aligned");
            queue.set_ready(true);
        }
        self.offered.fill(0);
    }

    pub(super) fn descriptor(
        &self,
        queue: usize,
        index: u16,
        (address, bytes, flags, next): (u64, u32, u16, u16),
    ) {
        let mut all = Vec::new();
        all.extend(address.to_le_bytes());
        all.extend(bytes.to_le_bytes());
        all.extend(flags.to_le_bytes());
        all.extend(next.to_le_bytes());
        let at = GuestAddress(descriptors(queue) + 16 * u64::from(index));
        self.ram.write_slice(&all, at).expect("RAM");
    }

    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let offered = &mut self.offered[queue];
        let entry = driver_ring(queue) + 4 + 2 * u64::from(*offered % QUEUE_SIZE);
        self.ram
            .write_obj(head.to_le(), GuestAddress(entry))
            .expect("RAM");
        *offered = offered.wrapping_add(1);
        let index = GuestAddress(driver_ring(queue) + 2);
        self.ram.write_obj(offered.to_le(), index).expect("RAM");
    }

    /// Has the device serve a queue as its thread does, until it waits for something.
    pub(super) fn serve(&mut self, queue: usize) -> Result<Served, ServeError> {
        for _ in 0..1000 {
            let served = self.turn(queue)?;
            if served == Served::Full {
                // A frame may be left where it is, which is told.
                self.hear();
            }
            if served != Served::Some && !self.net.take_due(queue) {
                return Ok(served);
            }
        }
        panic!("it hangs");
    }

    /// Has a queue served once.
    pub(super) fn turn(&mut self, queue: usize) -> Result<Served, ServeError> {
        self.net.serve(queue, &mut self.queues[queue], &self.memory)
    }

    /// Has the device learn of what it waits for; how much that was.
    pub(super) fn hear(&mut self) -> usize {
        let mut events = [EpollEvent::default(); 2];
        let count = self.epoll.wait(0, &mut events).expect("events");
        for event in &events[..count] {
            let which = which_own(event.data()).expect("the device's own");
            self.net
                .heard(which, event.event_set())
                .expect("a descriptor");
        }
        count
    }

    /// Has the device learn of what it waits for, and serve what is due then, as its thread does.
    pub(super) fn wake(&mut self) -> Result<(), ServeError> {
        self.hear();
        while let Some(queue) = self.net.next_due() {
            self.serve(queue)?;
        }
        Ok(())
    }

    /// How many buffers of a queue were given back.
    pub(super) fn used(&self, queue: usize) -> u16 {
        let index = GuestAddress(device_ring(queue) + 2);
        u16::from_le(self.ram.read_obj(index).expect("RAM"))
    }

    /// Bytes of the buffer that was given back as number `count`.
    pub(super) fn written(&self, queue: usize, count: u16) -> u32 {
        let entry = device_ring(queue) + 4 + 8 * u64::from(count % QUEUE_SIZE);
        u32::from_le(self.ram.read_obj(GuestAddress(entry + 4)).expect("RAM"))
    }

    /// Offers a buffer for a frame at `at`.
    pub(super) fn room(&mut self, index: u16, at: u64, bytes: u32) {
        self.room_in(RECEIVE, index, at, bytes);
    }

    /// The same in that queue.
    pub(super) fn room_in(&mut self, queue: usize, index: u16, at: u64, bytes: u32) {
        self.descriptor(queue, index, (at, bytes, WRITE, 0));
        self.offer(queue, index);
    }

    /// Offers a frame in two pieces, a header that asks for nothing before it.
    pub(super) fn offer_frame(&mut self, frame: &[u8]) {
        self.offer_frame_in(TRANSMIT, frame);
    }

    /// The same in that queue.
    pub(super) fn offer_frame_in(&mut self, queue: usize, frame: &[u8]) {
        let start = buffers(queue);
        self.ram
            .write_slice(&[0; HEADER_BYTES], GuestAddress(start))
            .expect("RAM");
        let at = start + HEADER_BYTES as u64;
        self.ram.write_slice(frame, GuestAddress(at)).expect("RAM");
        let length = u32::try_from(frame.len()).expect("short");
        self.descriptor(queue, 0, (start, 16, NEXT, 1));
        self.descriptor(queue, 1, (at + 4, length.saturating_sub(4), 0, 0));
        self.offer(queue, 0);
    }

    /// Has a command done; whether it was.
    #[cfg(test)]
    pub(super) fn command(&mut self, command: &[u8]) -> bool {
        self.command_in(CONTROL, command)
    }

    /// The same in that queue.
    #[cfg(test)]
    pub(super) fn command_in(&mut self, queue: usize, command: &[u8]) -> bool {
        let start = buffers(queue);
        self.ram
            .write_slice(command, GuestAddress(start))
            .expect("RAM");
        let length = u32::try_from(command.len()).expect("short");
        self.descriptor(queue, 0, (start, length, NEXT, 1));
        self.descriptor(queue, 1, (start + 0x8000, 1, WRITE, 0));
        self.ram
            .write_obj(0xff_u8, GuestAddress(start + 0x8000))
            .expect("RAM");
        self.offer(queue, 0);
        self.serve(queue).expect("a command");
        let done: u8 = self
            .ram
            .read_obj(GuestAddress(start + 0x8000))
            .expect("RAM");
        done == 0
    }

    /// Sends a frame from the other end.
    pub(super) fn send(&mut self, header: [u8; HEADER_BYTES], frame: &[u8]) {
        match &mut self.peer {
            Peer::Interface(socket) => {
                let all = [&header[..], frame].concat();
                socket.write_all(&all).expect("room");
            }
            Peer::Stream(socket) => {
                let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
                let all = [&length[..], frame].concat();
                socket.write_all(&all).expect("room");
            }
        }
    }

    /// Sends bytes from the other end, if there is room for them.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        let _there_may_be_no_room = match &mut self.peer {
            Peer::Interface(socket) => socket.write(bytes),
            Peer::Stream(socket) => {
                self.is_raw = true;
                socket.write(bytes)
            }
        };
    }

    /// Whether the other end may have begun a frame and not ended it.
    #[cfg(feature = "fuzz")]
    pub(super) const fn is_amid_a_frame(&self) -> bool {
        self.is_raw
    }

    /// What came to the other end: a frame behind its header, or some of a stream.
    pub(super) fn received(&mut self) -> Vec<u8> {
        let mut all = vec![0; 0x2_0000];
        let count = match &mut self.peer {
            Peer::Interface(socket) => socket.read(&mut all),
            Peer::Stream(socket) => socket.read(&mut all),
        };
        all.truncate(count.unwrap_or(0));
        all
    }

    pub(super) fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.ram
            .read_slice(&mut data, GuestAddress(at))
            .expect("RAM");
        data
    }
}

/// A frame to `to` of that many bytes, no two of which are alike for long.
pub(super) fn frame(to: Mac, bytes: usize) -> Vec<u8> {
    let rest = (to.0.len()..bytes).map(|at| (at ^ (at >> 8)).to_le_bytes()[0]);
    to.0.into_iter().chain(rest).collect()
}
