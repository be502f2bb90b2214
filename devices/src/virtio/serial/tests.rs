//! A driver of a serial device, and peers at its sockets.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Outlet, PortOptions, Ports, Serial};
use crate::dma::DmaMemory;
use crate::pci::{FunctionBackend, InterruptKind};
use crate::virtio::{VirtioFunction, VirtioOptions};

/// Each queue has so much of memory: a page for descriptors, one for each ring, and the rest for buffers.
pub(super) const QUEUE_BYTES: u64 = 0x4_0000;
pub(super) const QUEUES: usize = 6;
pub(super) const RAM_BYTES: u64 = QUEUES as u64 * QUEUE_BYTES;
const BUFFERS: u64 = 0x4000;
const QUEUE_SIZE: u16 = 8;

pub(super) const TO_DRIVER: usize = 2;
pub(super) const FROM_DRIVER: usize = 3;
/// Those of port 1.
pub(super) const RECEIVE: usize = 4;
const TRANSMIT: usize = 5;

const WRITE: u16 = 2;
const STATUS: u64 = 0x14;
const NEEDS_RESET: u8 = 0x40;
const VERSION_1: u64 = 1 << 32;
const MULTIPORT: u64 = 2;

pub(super) struct Guest {
    pub(super) ram: GuestMemoryMmap,
    pub(super) function: VirtioFunction,
    folder: tempfile::TempDir,
    told: Arc<Mutex<Vec<(usize, bool)>>>,
    /// What was offered to each queue.
    offered: [u16; QUEUES],
    seen: [u16; QUEUES],
}

impl Guest {
    /// A guest with a port of number 1.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("port")).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let port = PortOptions {
            number: 1,
            name: "org.example.0".to_owned(),
            is_console: false,
            outlet: Outlet::Listener(listener.into()),
        };
        let ports = Ports::new(vec![port], move |place, is_open| {
            telling.lock().push((place, is_open));
        });
        let serial = Serial::new(Arc::new(ports.unwrap())).unwrap();
        let bytes = usize::try_from(RAM_BYTES).unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let options = VirtioOptions {
            name: "serial0".to_owned(),
            by_bus_address: false,
            memory: DmaMemory::by_guest_address(ram.clone()),
            prepare_thread: || Ok(()),
        };
        let function = VirtioFunction::new(Box::new(serial), options).unwrap();
        let events: Vec<_> = (0..=QUEUES)
            .map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()).into())
            .collect();
        function
            .set_interrupts(InterruptKind::MsiX, &events)
            .unwrap();
        Self {
            ram,
            function,
            folder,
            told,
            offered: [0; QUEUES],
            seen: [0; QUEUES],
        }
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.function.write_bar(0, offset, data).unwrap();
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_bar(0, offset, &mut data).unwrap();
        data
    }

    fn status(&self) -> u8 {
        self.read::<1>(STATUS)[0]
    }

    /// Sets the device up anew.
    pub(super) fn start(&mut self) {
        self.write(STATUS, &[0]);
        self.function.write_config(4, &[6, 0]).unwrap();
        self.write(STATUS, &[3]);
        for (select, features) in [(0_u32, MULTIPORT), (1, VERSION_1 >> 32)] {
            self.write(8, &select.to_le_bytes());
            self.write(0xc, &features.to_le_bytes()[..4]);
        }
        self.write(STATUS, &[0xb]);
        assert_eq!(self.status(), 0xb);
        for queue in 0..QUEUES {
            let start = queue as u64 * QUEUE_BYTES;
            self.ram
                .write_slice(&[0; 0x3000], GuestAddress(start))
                .unwrap();
            self.write(0x16, &queue.to_le_bytes()[..2]);
            self.write(0x18, &QUEUE_SIZE.to_le_bytes());
            for (offset, at) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
                self.write(offset, &(start + at).to_le_bytes());
            }
            self.write(0x1c, &[1, 0]);
        }
        self.offered = [0; QUEUES];
        self.seen = [0; QUEUES];
        self.write(STATUS, &[0xf]);
    }

    /// Where the buffer of a queue's next request is.
    fn next_buffer(&self, queue: usize) -> u64 {
        let slot = u64::from(self.offered[queue] % QUEUE_SIZE);
        queue as u64 * QUEUE_BYTES + BUFFERS + slot * 0x4000
    }

    pub(super) fn offer_at(&mut self, queue: usize, address: u64, bytes: u32, flags: u16) {
        let start = queue as u64 * QUEUE_BYTES;
        let count = &mut self.offered[queue];
        let slot = u64::from(*count % QUEUE_SIZE);
        let mut entry = address.to_le_bytes().to_vec();
        entry.extend(bytes.to_le_bytes());
        entry.extend(flags.to_le_bytes());
        entry.extend([0, 0]);
        self.ram
            .write_slice(&entry, GuestAddress(start + 16 * slot))
            .unwrap();
        let head = GuestAddress(start + 0x1004 + 2 * slot);
        self.ram
            .write_slice(&slot.to_le_bytes()[..2], head)
            .unwrap();
        *count = count.wrapping_add(1);
        let index = count.to_le_bytes();
        self.ram
            .write_slice(&index, GuestAddress(start + 0x1002))
            .unwrap();
        self.write(0x3000 + 4 * queue as u64, &queue.to_le_bytes()[..2]);
    }

    /// Offers a buffer to be filled.
    pub(super) fn offer(&mut self, queue: usize, bytes: u32) {
        self.offer_at(queue, self.next_buffer(queue), bytes, WRITE);
    }

    /// Sends bytes.
    pub(super) fn send(&mut self, queue: usize, bytes: &[u8]) {
        let at = self.next_buffer(queue);
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
        self.offer_at(queue, at, u32::try_from(bytes.len()).unwrap(), 0);
    }

    fn used(&self, queue: usize) -> u16 {
        let at = GuestAddress(queue as u64 * QUEUE_BYTES + 0x2002);
        u16::from_le(self.ram.read_obj(at).unwrap())
    }

    /// The next request of a queue that comes back, with what is in it.
    #[track_caller]
    pub(super) fn take(&mut self, queue: usize) -> Vec<u8> {
        let seen = self.seen[queue];
        wait("a request that is done", || self.used(queue) != seen);
        let entry = queue as u64 * QUEUE_BYTES + 0x2004 + 8 * u64::from(seen % QUEUE_SIZE);
        let [slot, bytes]: [u32; 2] =
            [0, 4].map(|at| u32::from_le(self.ram.read_obj(GuestAddress(entry + at)).unwrap()));
        self.seen[queue] = seen.wrapping_add(1);
        let mut data = vec![0; usize::try_from(bytes).unwrap()];
        let at = queue as u64 * QUEUE_BYTES + BUFFERS + u64::from(slot) * 0x4000;
        self.ram.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    /// The next message about ports.
    #[track_caller]
    pub(super) fn message(&mut self) -> Vec<u8> {
        self.offer(TO_DRIVER, 64);
        self.take(TO_DRIVER)
    }

    pub(super) fn say(&mut self, port: u8, event: u8, value: u8) {
        self.send(FROM_DRIVER, &[port, 0, 0, 0, event, 0, value, 0]);
        self.take(FROM_DRIVER);
    }

    /// Makes a port of what it is told of, and opens it.
    #[track_caller]
    fn open(&mut self) {
        self.start();
        self.say(0, 0, 1);
        assert_eq!(self.message(), [1, 0, 0, 0, 1, 0, 1, 0]);
        self.say(1, 3, 1);
        let name = self.message();
        assert_eq!(name[..8], [1, 0, 0, 0, 7, 0, 1, 0]);
        assert_eq!(&name[8..], b"org.example.0\0");
        self.say(1, 6, 1);
    }

    pub(super) fn connect(&self) -> UnixStream {
        let peer = UnixStream::connect(self.folder.path().join("port")).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        peer
    }
}

#[track_caller]
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "no {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

const OPEN: [u8; 8] = [1, 0, 0, 0, 6, 0, 1, 0];
const CLOSED: [u8; 8] = [1, 0, 0, 0, 6, 0, 0, 0];

#[test]
fn bytes_go_both_ways_between_a_guest_and_peers_that_come_one_after_the_other() {
    let mut guest = Guest::new();
    guest.open();
    wait("word that it is open", || *guest.told.lock() == [(0, true)]);
    for round in 0..3_u8 {
        // Nobody hears this.
        guest.send(TRANSMIT, b"lost");
        guest.take(TRANSMIT);
        let mut peer = guest.connect();
        assert_eq!(guest.message(), OPEN);
        // The next one waits for its turn.
        let mut next = guest.connect();
        next.write_all(b"next").unwrap();
        peer.write_all(&[round; 300]).unwrap();
        guest.offer(RECEIVE, 100);
        assert_eq!(guest.take(RECEIVE), [round; 100]);
        guest.offer(RECEIVE, 0x4000);
        assert_eq!(guest.take(RECEIVE), [round; 200]);
        guest.send(TRANSMIT, b"hello");
        let mut heard = [0; 5];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        guest.take(TRANSMIT);
        // What it had sent comes before its end.
        peer.write_all(b"bye").unwrap();
        drop(peer);
        guest.offer(RECEIVE, 0x4000);
        assert_eq!(guest.take(RECEIVE), b"bye");
        guest.offer(RECEIVE, 0x4000);
        assert_eq!(guest.message(), CLOSED);
        assert_eq!(guest.message(), OPEN);
        assert_eq!(guest.take(RECEIVE), b"next");
        drop(next);
        assert_eq!(guest.message(), CLOSED);
    }
}

#[test]
fn a_peer_that_does_not_read_keeps_the_guests_requests_waiting_and_loses_nothing() {
    let mut guest = Guest::new();
    guest.open();
    let mut peer = guest.connect();
    assert_eq!(guest.message(), OPEN);
    let (mut sent, mut count) = (Vec::new(), 0_u32);
    // A socket's buffer takes some of it.
    loop {
        let bytes: Vec<u8> = (0..0x1000_u32)
            .flat_map(|at| (at ^ count).to_le_bytes())
            .collect();
        guest.send(TRANSMIT, &bytes);
        sent.extend(bytes);
        count += 1;
        let begun = Instant::now();
        let is_full = || guest.offered[5].wrapping_sub(guest.used(TRANSMIT)) >= QUEUE_SIZE;
        while is_full() && begun.elapsed() < Duration::from_millis(200) {
            thread::sleep(Duration::from_millis(1));
        }
        if is_full() {
            break;
        }
        assert!(count < 10_000, "a socket takes all of it");
    }
    let mut heard = vec![0; sent.len()];
    peer.read_exact(&mut heard).unwrap();
    assert!(heard == sent);
    wait("the end of all requests", || {
        guest.used(TRANSMIT) == guest.offered[5]
    });
    assert_eq!(guest.status() & NEEDS_RESET, 0);
}

#[test]
fn what_a_guest_does_not_take_waits_in_the_socket() {
    let mut guest = Guest::new();
    guest.open();
    let mut peer = guest.connect();
    assert_eq!(guest.message(), OPEN);
    peer.set_nonblocking(true).unwrap();
    let mut sent = Vec::new();
    loop {
        let bytes: Vec<u8> = (0..0x400_u32)
            .flat_map(|at| (at ^ 0x55).to_le_bytes())
            .collect();
        match peer.write(&bytes) {
            Ok(length) => sent.extend(&bytes[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(sent.len() < 64 << 20, "the device takes all of it");
    }
    // A guest that has closed it takes none.
    guest.say(1, 6, 0);
    guest.offer(RECEIVE, 0x4000);
    thread::sleep(Duration::from_millis(30));
    assert_eq!(guest.used(RECEIVE), 0);
    guest.say(1, 6, 1);
    let mut got = guest.take(RECEIVE);
    while got.len() < sent.len() {
        guest.offer(RECEIVE, 0x4000);
        got.extend(guest.take(RECEIVE));
    }
    assert!(got == sent);
}

#[test]
fn a_peer_that_goes_while_the_guest_has_the_port_closed_makes_room_for_the_next() {
    let mut guest = Guest::new();
    guest.open();
    guest.say(1, 6, 0);
    let mut peer = guest.connect();
    assert_eq!(guest.message(), OPEN);
    peer.write_all(b"stale").unwrap();
    drop(peer);
    assert_eq!(guest.message(), CLOSED);
    let mut next = guest.connect();
    assert_eq!(guest.message(), OPEN);
    next.write_all(b"fresh").unwrap();
    guest.say(1, 6, 1);
    guest.offer(RECEIVE, 64);
    assert_eq!(guest.take(RECEIVE), b"fresh");
}

#[test]
fn a_guest_that_opens_and_closes_all_the_time_is_told_of_once_a_second() {
    let mut guest = Guest::new();
    guest.open();
    let begun = Instant::now();
    for round in 0..200_u16 {
        guest.say(1, 6, u8::from(round % 2 == 1));
    }
    guest.say(1, 6, 0);
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 3;
    wait("word of the last", || {
        guest.told.lock().last() == Some(&(0, false))
    });
    let told = guest.told.lock().clone();
    assert!(told.len() <= most, "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");
}

#[test]
fn a_reset_closes_the_port_and_keeps_its_peer() {
    let mut guest = Guest::new();
    guest.open();
    let mut peer = guest.connect();
    assert_eq!(guest.message(), OPEN);
    guest.offer(RECEIVE, 64);
    guest.function.reset().unwrap();
    wait("word that it is closed", || {
        guest.told.lock().last() == Some(&(0, false))
    });
    peer.write_all(b"over it").unwrap();
    guest.open();
    assert_eq!(guest.message(), OPEN);
    guest.offer(RECEIVE, 64);
    assert_eq!(guest.take(RECEIVE), b"over it");
}

#[test]
fn messages_that_make_no_sense_stop_the_device_or_change_nothing() {
    let mut guest = Guest::new();
    guest.open();
    for [port, event, value] in [[9, 3, 1], [9, 6, 1], [1, 1, 1], [0, 99, 7], [1, 3, 0]] {
        guest.say(port, event, value);
    }
    assert_eq!(guest.status() & NEEDS_RESET, 0);
    guest.send(FROM_DRIVER, &[1, 0, 0, 0, 6, 0, 1]);
    wait("stop", || guest.status() & NEEDS_RESET != 0);
    guest.open();
    // There is no room for a message.
    let peer = guest.connect();
    guest.offer(TO_DRIVER, 7);
    wait("stop", || guest.status() & NEEDS_RESET != 0);
    drop(peer);
    for (queue, flags) in [(TRANSMIT, 0), (RECEIVE, WRITE)] {
        guest.open();
        let mut peer = guest.connect();
        assert_eq!(guest.message(), OPEN);
        peer.write_all(b"to nowhere").unwrap();
        guest.offer_at(queue, RAM_BYTES - 4, 64, flags);
        wait("stop", || guest.status() & NEEDS_RESET != 0);
    }
}
