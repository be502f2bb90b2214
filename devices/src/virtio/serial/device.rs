//! The device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::HIGHEST_PORT;
use super::control::{self, Message, Said};
use super::port::Port;
use super::ports::{Ports, Sockets, Told};
use crate::dma::DmaMemory;
use crate::virtio::device::{Device, Identity, ServeError, Served, read_config};
use crate::virtio::requests::{self, Request};

/// VIRTIO_CONSOLE_F_MULTIPORT, which virtio-bindings has not.
const F_MULTIPORT: u64 = 1 << 1;
/// Where the number of ports is in the configuration (`struct virtio_console_config`).
const MAX_NR_PORTS: usize = 4;

/// Entries of a queue: a guest with pages of 64 KiB fills a port's with 2 MiB of buffers.
const QUEUE_SIZE: u16 = 32;
/// The queues for messages about ports.
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;

/// The most that is moved of a port in one turn: whoever waits for the device waits for one turn at most.
const MOST_BYTES: usize = 64 << 10;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Buffers for what the peer sends to the port at this place.
    Receive(usize),
    /// What the guest sends to it.
    Transmit(usize),
    /// Buffers for messages about ports.
    ToDriver,
    /// Messages about ports.
    FromDriver,
    /// There is no such port.
    Nothing,
}

/// A serial device.
pub struct Serial {
    ports: Arc<Ports>,
    /// In the order of the ports.
    states: Vec<Port>,
    queue_sizes: Vec<u16>,
    has_messages: bool,
    /// Queues that are to be served though nobody rang, by their bits: there are 64 at most.
    due: u64,
    heard: Vec<Told>,
}

/// The first of a port's two queues.
const fn first_queue(number: u32) -> usize {
    match number {
        0 => 0,
        _ => 2 * number as usize + 2,
    }
}

impl Serial {
    /// The device of `ports`; `None` if another has them.
    pub fn new(ports: Arc<Ports>) -> Option<Self> {
        if !ports.take() {
            return None;
        }
        let numbers = ports.facts.iter().map(|port| port.number.min(HIGHEST_PORT));
        let highest = numbers.max().unwrap_or(0);
        let states = ports.facts.iter().map(|_| Port::new()).collect();
        Some(Self {
            // Also those of port 0, which come first, and of messages.
            queue_sizes: vec![QUEUE_SIZE; (first_queue(highest) + 2).max(FROM_DRIVER + 1)],
            states,
            ports,
            has_messages: false,
            due: 0,
            heard: Vec::new(),
        })
    }

    fn purpose(&self, queue: usize) -> Purpose {
        match queue {
            TO_DRIVER if self.has_messages => return Purpose::ToDriver,
            FROM_DRIVER if self.has_messages => return Purpose::FromDriver,
            TO_DRIVER | FROM_DRIVER => return Purpose::Nothing,
            _ => {}
        }
        let first = queue & !1;
        let mut ports = self.ports.facts.iter();
        match ports.position(|port| first_queue(port.number) == first) {
            Some(place) if queue == first => Purpose::Receive(place),
            Some(place) => Purpose::Transmit(place),
            None => Purpose::Nothing,
        }
    }

    const fn set_due(&mut self, queue: usize) {
        if queue < u64::BITS as usize {
            self.due |= 1 << queue;
        }
    }

    fn set_port_due(&mut self, place: usize) {
        if let Some(port) = self.ports.facts.get(place) {
            let first = first_queue(port.number);
            self.set_due(first);
            self.set_due(first + 1);
        }
    }

    /// Fills the guest's buffers with what a port's peer has sent.
    fn receive(
        &mut self,
        place: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
        sockets: &mut Sockets,
    ) -> Result<Served, ServeError> {
        let mut left = MOST_BYTES;
        for _ in 0..queue.size() {
            let (port, channel) = (&mut self.states[place], &mut sockets.channels[place]);
            if channel.peer().is_none() || !port.may_receive() {
                return Ok(Served::Full);
            }
            if left == 0 {
                return Ok(Served::Some);
            }
            let request = match port.empty.take() {
                Some(request) => request,
                None => match requests::next(queue, memory)? {
                    Some(request) => request,
                    None => return Ok(Served::All),
                },
            };
            let filled = port.fill(&request, channel, memory, left)?;
            let has_room = request
                .buffers
                .iter()
                .any(|it| it.is_write_only() && it.len() != 0);
            if filled.bytes == 0 && has_room {
                port.empty = Some(request);
            } else {
                left -= filled.bytes;
                // MOST_BYTES is less than 4 GiB.
                let bytes = u32::try_from(filled.bytes).unwrap_or(0);
                queue.add_used(memory, request.head, bytes)?;
            }
            if filled.is_over {
                self.let_go(place, sockets);
            }
        }
        Ok(Served::Some)
    }

    /// Writes what the guest sends to a port's peer.
    fn transmit(
        &mut self,
        place: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
        sockets: &mut Sockets,
    ) -> Result<Served, ServeError> {
        let mut left = MOST_BYTES;
        let (port, channel) = (&mut self.states[place], &mut sockets.channels[place]);
        for _ in 0..queue.size() {
            if left == 0 {
                return Ok(Served::Some);
            }
            let (request, start) = match port.unwritten.take() {
                Some(unwritten) => unwritten,
                None => match requests::next(queue, memory)? {
                    Some(request) => (request, 0),
                    None => return Ok(Served::All),
                },
            };
            let had_hung_up = port.hung_up;
            let sent = port.send(&request, start, channel, memory, left)?;
            left = left.saturating_sub(usize::try_from(sent.written - start).unwrap_or(left));
            // A kernel that writes to its console waits for the end of that and for nothing else meanwhile, so what
            // the peer does not take goes nowhere.
            let is_dropped = self.ports.facts[place].is_console && !port.may_write;
            if !sent.is_done && !is_dropped {
                port.unwritten = Some((request, sent.written));
                return Ok(match port.may_write {
                    true => Served::Some,
                    false => Served::Full,
                });
            }
            port.may_write |= is_dropped;
            queue.add_used(memory, request.head, 0)?;
            if port.hung_up && !had_hung_up {
                let number = self.ports.facts[place].number;
                self.due |= 1 << first_queue(number);
            }
        }
        Ok(Served::Some)
    }

    /// Lets a port's peer go, and the next one come.
    fn let_go(&mut self, place: usize, sockets: &mut Sockets) {
        sockets.channels[place].close();
        self.states[place].disconnect();
        self.states[place].may_write = true;
        // What waits to be written goes nowhere.
        self.set_port_due(place);
        self.set_due(TO_DRIVER);
    }

    fn next_message(&self, sockets: &Sockets) -> Option<(usize, Message)> {
        let ports = self.states.iter().zip(&sockets.channels).enumerate();
        let mut messages = ports.filter_map(|(place, (port, channel))| {
            Some((place, port.next_message(channel.peer().is_some())?))
        });
        messages.next()
    }

    /// Tells the driver what is to be told of ports.
    fn tell_driver(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
        sockets: &Sockets,
    ) -> Result<Served, ServeError> {
        for _ in 0..queue.size() {
            let Some((place, message)) = self.next_message(sockets) else {
                return Ok(Served::Full);
            };
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let port = &self.ports.facts[place];
            let bytes = message.bytes(port.number, &port.name);
            write(&request, &bytes, memory)?;
            let length = u32::try_from(bytes.len()).unwrap_or(0);
            queue.add_used(memory, request.head, length)?;
            self.states[place].said(message);
        }
        Ok(Served::Some)
    }

    /// Hears what the driver says of ports.
    fn hear_driver(&mut self, queue: &mut Queue, memory: &DmaMemory) -> Result<Served, ServeError> {
        for _ in 0..queue.size() {
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let said = Said::read(read(&request, memory)?);
            queue.add_used(memory, request.head, 0)?;
            self.act_on(said);
        }
        Ok(Served::Some)
    }

    fn act_on(&mut self, said: Said) {
        let facts = &self.ports.facts;
        let place = |number| facts.iter().position(|port| port.number == number);
        match said {
            Said::DeviceReady => self.states.iter_mut().for_each(Port::announce),
            Said::PortReady(number) => {
                if let Some(place) = place(number) {
                    let port = &facts[place];
                    self.states[place].introduce(port.is_console, !port.name.is_empty());
                }
            }
            Said::Open(number, is_open) => {
                if let Some(place) = place(number) {
                    self.states[place].is_open = is_open;
                    self.ports.set_open(place, is_open);
                    self.set_port_due(place);
                    // That is told, and what is to be heard of the peer is another thing now.
                    let _ = self.ports.event.write(1);
                }
            }
            Said::Other => {}
        }
        self.set_due(TO_DRIVER);
    }

    fn heard(&mut self, told: Told, sockets: &mut Sockets) -> io::Result<()> {
        match told {
            Told::Timer => {}
            Told::Listener(place) => {
                if sockets.accept(place)? {
                    self.states[place].connect();
                    self.set_port_due(place);
                    self.set_due(TO_DRIVER);
                }
            }
            Told::Peer(place, events) => {
                let port = &mut self.states[place];
                let is_over = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
                port.hung_up |= events.intersects(is_over);
                port.may_read |= events.intersects(EventSet::IN | is_over);
                port.may_write |= events.intersects(EventSet::OUT | is_over);
                self.set_port_due(place);
            }
        }
        Ok(())
    }

    /// Has the kernel tell of what a port waits for. A peer that has hung up is let go when the guest has what it
    /// sent, or has the port closed and so will never read it.
    fn watch(&mut self, place: usize, sockets: &mut Sockets) -> io::Result<()> {
        let port = &self.states[place];
        if port.hung_up && (!port.is_open || sockets.channels[place].is_drained()) {
            self.let_go(place, sockets);
        }
        sockets.watch(place, self.states[place].wanted())
    }
}

/// Writes a message into a buffer of the driver's.
fn write(request: &Request, message: &[u8], memory: &DmaMemory) -> Result<(), ServeError> {
    let mut left = message;
    for buffer in request.buffers.iter().filter(|it| it.is_write_only()) {
        let room = usize::try_from(buffer.len()).unwrap_or(left.len());
        let (piece, rest) = left.split_at(room.min(left.len()));
        memory.write_slice(piece, buffer.addr())?;
        left = rest;
    }
    if !left.is_empty() {
        return Err(ServeError::Request("no room for a message about a port"));
    }
    Ok(())
}

/// Reads a message of the driver's.
fn read(request: &Request, memory: &DmaMemory) -> Result<[u8; control::BYTES], ServeError> {
    let mut message = [0; control::BYTES];
    let mut left = &mut message[..];
    for buffer in request.buffers.iter().filter(|it| !it.is_write_only()) {
        let length = usize::try_from(buffer.len()).unwrap_or(left.len());
        let (piece, rest) = left.split_at_mut(length.min(left.len()));
        memory.read_slice(piece, GuestAddress(buffer.addr().0))?;
        left = rest;
    }
    if !left.is_empty() {
        return Err(ServeError::Request(
            "a message about a port that is too short",
        ));
    }
    Ok(message)
}

impl Device for Serial {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-serial",
            device_id: 3,
            // Another communication controller, as QEMU's.
            class_code: 0x07_8000,
        }
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let ports = u32::try_from(self.queue_sizes.len() / 2 - 1).unwrap_or(0);
        let mut config = [0; MAX_NR_PORTS + 4];
        config[MAX_NR_PORTS..].copy_from_slice(&ports.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn start(&mut self, features: u64) {
        self.has_messages = features & F_MULTIPORT != 0;
        if self.has_messages {
            return;
        }
        // A driver that knows of one port has that, and has it open.
        let mut ports = self.ports.facts.iter();
        if let Some(place) = ports.position(|port| port.number == 0) {
            self.states[place].is_open = true;
            self.ports.set_open(place, true);
        }
        let _ = self.ports.event.write(1);
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        let ports = Arc::clone(&self.ports);
        let mut sockets = ports.sockets();
        match self.purpose(index) {
            Purpose::Receive(place) => {
                let served = self.receive(place, queue, memory, &mut sockets)?;
                self.watch(place, &mut sockets)?;
                Ok(served)
            }
            Purpose::Transmit(place) => {
                let served = self.transmit(place, queue, memory, &mut sockets)?;
                self.watch(place, &mut sockets)?;
                Ok(served)
            }
            Purpose::ToDriver => self.tell_driver(queue, memory, &sockets),
            Purpose::FromDriver => self.hear_driver(queue, memory),
            Purpose::Nothing => Ok(Served::Full),
        }
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.ports.event))
    }

    fn watched(&self) -> Option<Arc<dyn AsRawFd + Send + Sync>> {
        Some(Arc::clone(&self.ports.epoll) as Arc<_>)
    }

    fn next_due(&mut self) -> Option<usize> {
        if self.due == 0 {
            return None;
        }
        let queue = self.due.trailing_zeros();
        self.due &= self.due - 1;
        usize::try_from(queue).ok()
    }

    fn collect(&mut self) -> io::Result<()> {
        let ports = Arc::clone(&self.ports);
        let mut sockets = ports.sockets();
        let mut heard = std::mem::take(&mut self.heard);
        sockets.hear(&mut heard)?;
        for told in heard.drain(..) {
            self.heard(told, &mut sockets)?;
        }
        self.heard = heard;
        for place in 0..self.states.len() {
            self.watch(place, &mut sockets)?;
        }
        ports.tell(&mut sockets)
    }

    fn reset(&mut self) {
        for (place, port) in self.states.iter_mut().enumerate() {
            *port = Port::new();
            self.ports.set_open(place, false);
        }
        self.has_messages = false;
        self.due = 0;
        // The caller may be a processor's thread, which has no calls for the rest.
        let _ = self.ports.event.write(1);
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.ports.give_back();
    }
}
