//! A vhost-user back end for tests, which answers in the manner that a test says, and serves a queue when it is told to.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use vhost::vhost_user::message::FrontendReq;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{VhostUser, VhostUserError};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As is right.
    Good,
    /// As is right, each answer after most of the time that all together may take.
    Slow,
    /// Not at all.
    Silent,
    /// With what is no message.
    Nonsense,
    /// To what it was not asked.
    Elsewhere,
    /// With half an answer.
    Half,
    /// That it does not do what it is told.
    Refusing,
}

/// Features of virtio, protocol features and queues that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Has {
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    pub(crate) queues: u64,
}

/// With all that virtiofsd has, and more that nobody asks for.
pub(crate) const ALL: Has = Has {
    features: 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32,
    protocol: 0x1_ffff,
    queues: 2,
};

/// What it was told of a queue.
#[derive(Debug, Default)]
pub(crate) struct HeardRing {
    pub(crate) entries: u32,
    pub(crate) base: u32,
    /// Where descriptors, the device's ring and the driver's ring are in the other process.
    addresses: [u64; 3],
    call: Option<File>,
    kick: Option<File>,
    pub(crate) is_on: bool,
}

/// What it was told.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) manner: Manner,
    has: Has,
    pub(crate) requests: Vec<FrontendReq>,
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    /// Guest address, size, address in the other process, and offset, with the descriptor.
    memory: Option<([u64; 4], File)>,
    pub(crate) rings: [HeardRing; 2],
}

/// It, while its thread serves its end of a socket.
pub(crate) struct Fake {
    heard: Arc<Mutex<Heard>>,
    socket: UnixStream,
}

impl Fake {
    /// Starts it, with the socket's other end.
    pub(crate) fn start(has: Has) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let heard = Arc::new(Mutex::new(Heard {
            manner: Manner::Good,
            has,
            requests: Vec::new(),
            features: 0,
            protocol: 0,
            memory: None,
            rings: Default::default(),
        }));
        let fake = || Self {
            heard: Arc::clone(&heard),
            socket: theirs.try_clone().expect("a descriptor"),
        };
        let listening = fake();
        thread::spawn(move || listening.listen());
        (fake(), ours)
    }

    /// What it was told.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock()
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.socket
            .shutdown(Shutdown::Both)
            .expect("an open socket");
    }

    /// The same, connected, with little patience for its answers.
    pub(crate) fn connected(has: Has) -> (Self, Result<VhostUser, VhostUserError>) {
        let (fake, socket) = Self::start(has);
        let patience = (Duration::from_secs(20), Duration::from_millis(200));
        let greeted = VhostUser::greet(socket, Path::new("/fake"), 2, patience);
        (fake, greeted)
    }

    fn listen(&self) {
        let mut socket = &self.socket;
        loop {
            let mut header = [0; 12];
            let Ok((12, descriptor)) = socket.recv_with_fd(&mut header) else {
                return;
            };
            let (fields, _) = header.as_chunks::<4>();
            let [number, flags, bytes] = [0, 1, 2].map(|at: usize| u32::from_ne_bytes(fields[at]));
            let mut body = vec![0; bytes as usize];
            if socket.read_exact(&mut body).is_err() {
                return;
            }
            let (words, _) = body.as_chunks::<8>();
            let words: Vec<_> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
            let request = FrontendReq::try_from(number).expect("a request");
            let manner = {
                let mut heard = self.heard();
                heard.requests.push(request);
                heard.manner
            };
            let mut answer = self.hear(request, &words, descriptor);
            if answer.is_none() && flags & 8 != 0 {
                answer = Some(u64::from(manner == Manner::Refusing));
            }
            let Some(answer) = answer else { continue };
            let number = match manner {
                Manner::Elsewhere => number + 1,
                _ => number,
            };
            let mut message = [number, 5, 8].map(u32::to_ne_bytes).as_flattened().to_vec();
            message.extend(answer.to_ne_bytes());
            match manner {
                Manner::Slow => thread::sleep(Duration::from_millis(150)),
                Manner::Silent => message.clear(),
                Manner::Nonsense => message.fill(0xa5),
                Manner::Half => message.truncate(15),
                _ => {}
            }
            if socket.write_all(&message).is_err() {
                return;
            }
        }
    }

    /// Heeds a request; what there is to answer, if that is part of it.
    fn hear(&self, request: FrontendReq, words: &[u64], descriptor: Option<File>) -> Option<u64> {
        let mut heard = self.heard();
        let word = words.first().copied().unwrap_or(0);
        // A queue's number, and another one, of 32 bits each.
        let (low, high) = (word & 0xffff_ffff, word >> 32);
        let index = usize::try_from(low).expect("a number");
        match request {
            FrontendReq::GET_FEATURES => return Some(heard.has.features),
            FrontendReq::GET_PROTOCOL_FEATURES => return Some(heard.has.protocol),
            FrontendReq::GET_QUEUE_NUM => return Some(heard.has.queues),
            FrontendReq::SET_FEATURES => heard.features = word,
            FrontendReq::SET_PROTOCOL_FEATURES => heard.protocol = word,
            FrontendReq::SET_MEM_TABLE => {
                assert_eq!(word, 1, "one piece of memory");
                let region = words[1..].try_into().expect("a region");
                heard.memory = Some((region, descriptor.expect("its descriptor")));
            }
            FrontendReq::SET_OWNER => {}
            _ => {
                let ring = heard.rings.get_mut(index).expect("a queue");
                let number = u32::try_from(high).expect("32 bits");
                match request {
                    FrontendReq::SET_VRING_NUM => ring.entries = number,
                    FrontendReq::SET_VRING_BASE => ring.base = number,
                    FrontendReq::SET_VRING_ADDR => ring.addresses = [words[1], words[2], words[3]],
                    FrontendReq::SET_VRING_CALL => ring.call = descriptor,
                    FrontendReq::SET_VRING_KICK => ring.kick = descriptor,
                    FrontendReq::SET_VRING_ERR => {}
                    FrontendReq::SET_VRING_ENABLE => ring.is_on = number != 0,
                    FrontendReq::GET_VRING_BASE => {
                        ring.is_on = false;
                        return Some(low | u64::from(ring.base) << 32);
                    }
                    other => panic!("{other:?} was not agreed on"),
                }
            }
        }
        None
    }

    /// Whether its queue was rung for.
    pub(crate) fn was_rung_for(&self, index: usize) -> bool {
        let heard = self.heard();
        let mut kick = heard.rings[index].kick.as_ref().expect("a descriptor");
        kick.read(&mut [0; 8]).is_ok()
    }

    /// Signals the queue's driver.
    pub(crate) fn signal(&self, index: usize) {
        let heard = self.heard();
        let mut call = heard.rings[index].call.as_ref().expect("a descriptor");
        call.write_all(&1_u64.to_ne_bytes()).expect("an eventfd");
    }

    /// Serves one request of a queue by the memory that it was given: its buffer gets `bytes`.
    pub(crate) fn serve(&self, index: usize, bytes: &[u8]) {
        let mut heard = self.heard();
        let Heard { memory, rings, .. } = &mut *heard;
        let ([start, size, address, offset], file) = memory.as_ref().expect("memory");
        let file = FileOffset::new(file.try_clone().expect("a descriptor"), *offset);
        let size = usize::try_from(*size).expect("a size");
        let ranges = [(GuestAddress(*start), size, Some(file))];
        let ram = GuestMemoryMmap::<()>::from_ranges_with_files(ranges).expect("memory");
        let ring = &mut rings[index];
        let [descriptors, used, avail] =
            ring.addresses.map(|at| GuestAddress(at - address + start));
        let mut queue = Queue::new(u16::try_from(ring.entries).expect("entries")).expect("a queue");
        queue
            .try_set_desc_table_address(descriptors)
            .expect("a place");
        queue.try_set_avail_ring_address(avail).expect("a place");
        queue.try_set_used_ring_address(used).expect("a place");
        queue.set_next_avail(u16::try_from(ring.base).expect("a number"));
        queue.set_next_used(u16::try_from(ring.base).expect("a number"));
        queue.set_ready(true);
        let chain = queue.iter(&ram).expect("a ring").next().expect("a request");
        let head = chain.head_index();
        let buffer = chain.writable().next().expect("a buffer");
        ram.write_slice(bytes, buffer.addr()).expect("a buffer");
        let written = u32::try_from(bytes.len()).expect("few");
        queue.add_used(&ram, head, written).expect("a ring");
        ring.base += 1;
        drop(heard);
        self.signal(index);
    }
}
