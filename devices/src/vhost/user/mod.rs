//! Virtio queues that another program serves (vhost-user, docs/interop/vhost-user.rst in QEMU): it has guest memory, doorbells
//! and vectors by their descriptors, and is told over a Unix socket where rings are.
//!
//! | file | what it holds |
//! |---|---|
//! | `channel` | requests and answers |
//! | `rings` | queues that it is told of |
//!
//! It reads and writes all of guest memory, as the guest itself does, and can signal the vectors it was given. What it
//! answers is looked at here, and waited for so long and no longer.

mod channel;
#[cfg(test)]
pub(crate) mod fake;
mod rings;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserProtocolFeatures, VhostUserU64, VhostUserVirtioFeatures,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::ByteValued;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use channel::Channel;
pub(crate) use rings::UserBackEnd;

/// How long a back end may take for its first answers: it may be starting.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take for others, which are asked for in one turn. A guest's processor may wait for that.
const PATIENCE: Duration = Duration::from_secs(10);
/// What drivers are offered whoever serves them.
const NEEDED: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// How many queues a back end has that does not say how many.
const USUAL_QUEUES: u64 = 2;

/// Why there is no back end.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Nobody listens there.
    #[error("cannot connect to {}, where its back end is to listen", path.display())]
    Connect {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Who listens there does not speak vhost-user, or has ended.
    #[error("the back end at {} does not answer as vhost-user has it", path.display())]
    Greeting {
        /// Where it listens.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It knows less of virtio than drivers are offered.
    #[error("the back end at {} lacks features of virtio: it has {has:#x}, and {needed:#x} are needed", path.display())]
    Features {
        /// Where it listens.
        path: PathBuf,
        /// What it has.
        has: u64,
        /// What is needed.
        needed: u64,
    },
    /// It has too few queues.
    #[error("the back end at {} serves {has} queues, and {needed} are needed", path.display())]
    Queues {
        /// Where it listens.
        path: PathBuf,
        /// How many it has.
        has: u64,
        /// How many are needed.
        needed: u64,
    },
}

/// A back end that listens to this process alone. It outlasts a machine's life: most end with their connection.
pub struct VhostUser {
    channel: Mutex<Channel>,
    /// Features of virtio that it has.
    features: u64,
    /// Queues are on and off by requests of their own (VHOST_USER_F_PROTOCOL_FEATURES).
    has_switches: bool,
    /// Has input once when its end of the socket is closed.
    end: Arc<Epoll>,
    /// It did not say that it has stopped.
    has_not_stopped: AtomicBool,
}

impl VhostUser {
    /// Connects to the one that listens at `path`, which is to serve so many queues.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn connect(path: &Path, queues: u64) -> Result<Self, VhostUserError> {
        let socket = UnixStream::connect(path).map_err(|source| VhostUserError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Self::greet(socket, path, queues, (FIRST_PATIENCE, PATIENCE))
    }

    /// The same for an open socket; its first answers, and later ones, may take so long.
    pub(crate) fn greet(
        socket: UnixStream,
        path: &Path,
        queues: u64,
        (first, later): (Duration, Duration),
    ) -> Result<Self, VhostUserError> {
        let greeted = Self::try_greet(socket, first, later);
        let (back_end, has_queues) = greeted.map_err(|source| VhostUserError::Greeting {
            path: path.to_owned(),
            source,
        })?;
        let has = back_end.features;
        if has & NEEDED != NEEDED {
            return Err(VhostUserError::Features {
                path: path.to_owned(),
                has,
                needed: NEEDED,
            });
        }
        if has_queues < queues {
            return Err(VhostUserError::Queues {
                path: path.to_owned(),
                has: has_queues,
                needed: queues,
            });
        }
        Ok(back_end)
    }

    /// The back end, and how many queues it has.
    fn try_greet(socket: UnixStream, first: Duration, later: Duration) -> io::Result<(Self, u64)> {
        type Protocol = VhostUserProtocolFeatures;
        let mut channel = Channel::new(socket, first)?;
        channel.say(FrontendReq::SET_OWNER, &[])?;
        let features: VhostUserU64 = channel.ask(FrontendReq::GET_FEATURES, &[])?;
        let features = features.value;
        let has_switches = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        let (mut has_queues, mut acknowledges) = (USUAL_QUEUES, false);
        if has_switches {
            let known: VhostUserU64 = channel.ask(FrontendReq::GET_PROTOCOL_FEATURES, &[])?;
            let used =
                Protocol::from_bits_truncate(known.value) & (Protocol::MQ | Protocol::REPLY_ACK);
            let chosen = VhostUserU64::new(used.bits());
            channel.say(FrontendReq::SET_PROTOCOL_FEATURES, chosen.as_slice())?;
            acknowledges = used.contains(Protocol::REPLY_ACK);
            if used.contains(Protocol::MQ) {
                let queues: VhostUserU64 = channel.ask(FrontendReq::GET_QUEUE_NUM, &[])?;
                has_queues = queues.value;
            }
        }
        channel.settle(later, acknowledges);
        let end = Epoll::new()?;
        // Told once: nobody can have it open again.
        let hung_up = EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(hung_up, 0);
        end.ctl(ControlOperation::Add, channel.as_raw_fd(), event)?;
        let back_end = Self {
            channel: Mutex::new(channel),
            features,
            has_switches,
            end: Arc::new(end),
            has_not_stopped: AtomicBool::new(false),
        };
        Ok((back_end, has_queues))
    }

    /// Whether it may touch guest memory although it was told to serve nothing: it has not said that it has heard, and has
    /// not ended.
    pub(crate) fn may_touch_memory(&self) -> bool {
        self.has_not_stopped.load(Ordering::Acquire) && self.channel.lock().is_open()
    }

    /// Notes that it does not say that it has stopped, if that is what came of asking, and has it end.
    fn note_stop<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.is_err() {
            self.has_not_stopped.store(true, Ordering::Release);
            self.channel.lock().end();
        }
        outcome
    }

    /// Whether it has ended since this was last asked.
    fn has_ended(&self) -> bool {
        let mut events = [EpollEvent::default()];
        self.end.wait(0, &mut events).is_ok_and(|count| count != 0)
    }
}
