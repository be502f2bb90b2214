//! The ports of a machine with their sockets. They outlast its lives: a peer stays connected while the guest
//! reboots, and a sandbox has no calls to make a socket anew.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::channel::{Channel, Outlet};

/// The least time between two words on one port: a guest opens and closes it as often as it likes.
const BETWEEN_WORDS: Duration = Duration::from_secs(1);
/// How long a socket is left alone that has a peer and nothing for it, as when there are no descriptors left.
const RETRY_ACCEPT: Duration = Duration::from_millis(500);

/// The timer's mark among those of listeners and peers.
const TIMER: u64 = u64::MAX;

/// A port.
#[derive(Debug)]
pub struct PortOptions {
    /// Its number, up to [`HIGHEST_PORT`](super::HIGHEST_PORT); 0 is for a console.
    pub number: u32,
    /// Its name, by which a guest finds it: a link in /dev/virtio-ports in Linux.
    pub name: String,
    /// Whether it is a console: a terminal (hvc) of the guest's.
    pub is_console: bool,
    /// Who is at the other end.
    pub outlet: Outlet,
}

/// What does not change of a port, and whether the guest has it open.
#[derive(Debug)]
pub(super) struct PortFacts {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) is_console: bool,
    is_open: AtomicBool,
}

/// Who is told that a guest has opened a port or closed it: its place among the ports, and whether it is open.
type Tell = Box<dyn Fn(usize, bool) + Send + Sync>;

/// The ports of a serial device.
pub struct Ports {
    pub(super) facts: Vec<PortFacts>,
    pub(super) epoll: Arc<Epoll>,
    /// Has the device's thread look at all of them.
    pub(super) event: Arc<EventFd>,
    is_taken: AtomicBool,
    sockets: Mutex<Sockets>,
}

/// The sockets of the ports, in their order.
pub(super) struct Sockets {
    pub(super) channels: Vec<Channel>,
    epoll: Arc<Epoll>,
    timer: TimerFd,
    timer_runs: bool,
    /// Sockets that could not be accepted from.
    resting: Vec<bool>,
    told: Vec<(bool, Option<Instant>)>,
    tell: Tell,
}

/// What the kernel tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The timer.
    Timer,
    /// A port's listener.
    Listener(usize),
    /// A port's peer, and what of it.
    Peer(usize, EventSet),
}

fn mark(place: usize, is_peer: bool) -> u64 {
    2 * place as u64 + u64::from(is_peer)
}

impl Ports {
    /// Ports with their sockets. `tell` hears when a guest opens or closes one, by its place among them, at most once
    /// a second of each.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(
        options: Vec<PortOptions>,
        tell: impl Fn(usize, bool) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        let timer = TimerFd::new().map_err(io::Error::from)?;
        let watch = |fd, mark| {
            let event = EpollEvent::new(EventSet::ONE_SHOT, mark);
            epoll.ctl(ControlOperation::Add, fd, event)
        };
        let of_timer = EpollEvent::new(EventSet::IN, TIMER);
        epoll.ctl(ControlOperation::Add, timer.as_raw_fd(), of_timer)?;
        let (mut facts, mut channels) = (Vec::new(), Vec::new());
        for (place, port) in options.into_iter().enumerate() {
            facts.push(PortFacts {
                number: port.number,
                name: port.name,
                is_console: port.is_console,
                is_open: AtomicBool::new(false),
            });
            let channel = Channel::new(port.outlet)?;
            if let Some(fd) = channel.listener() {
                watch(fd, mark(place, false))?;
            }
            if let Some(fd) = channel.peer() {
                watch(fd, mark(place, true))?;
            }
            channels.push(channel);
        }
        let count = channels.len();
        let sockets = Sockets {
            channels,
            epoll: Arc::clone(&epoll),
            timer,
            timer_runs: false,
            resting: vec![false; count],
            told: vec![(false, None); count],
            tell: Box::new(tell),
        };
        Ok(Self {
            facts,
            epoll,
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            is_taken: AtomicBool::new(false),
            sockets: Mutex::new(sockets),
        })
    }

    /// Whether the guest has the port open that is at `place` among them.
    pub fn is_open(&self, place: usize) -> bool {
        let port = self.facts.get(place);
        port.is_some_and(|port| port.is_open.load(Ordering::Acquire))
    }

    pub(super) fn set_open(&self, place: usize, is_open: bool) {
        if let Some(port) = self.facts.get(place) {
            port.is_open.store(is_open, Ordering::Release);
        }
    }

    /// Has one device use them; false if another does.
    pub(super) fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }

    /// No device uses them any more.
    pub(super) fn give_back(&self) {
        for place in 0..self.facts.len() {
            self.set_open(place, false);
        }
        let mut sockets = self.sockets();
        for place in 0..self.facts.len() {
            sockets.say(place, false);
        }
        drop(sockets);
        self.is_taken.store(false, Ordering::Release);
    }

    pub(super) fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock()
    }

    /// Tells of all ports that are not as they were told to be; later of those that were told of just now.
    pub(super) fn tell(&self, sockets: &mut Sockets) -> io::Result<()> {
        let now = Instant::now();
        for place in 0..self.facts.len() {
            let is_open = self.is_open(place);
            let Some(&(told, at)) = sockets.told.get(place) else {
                continue;
            };
            if told == is_open {
                continue;
            }
            match at.map(|at| now.saturating_duration_since(at)) {
                Some(since) if since < BETWEEN_WORDS => {
                    sockets.run_timer(BETWEEN_WORDS.saturating_sub(since))?;
                }
                _ => sockets.say(place, is_open),
            }
        }
        Ok(())
    }
}

impl Sockets {
    fn say(&mut self, place: usize, is_open: bool) {
        if let Some(told) = self.told.get_mut(place)
            && told.0 != is_open
        {
            *told = (is_open, Some(Instant::now()));
            (self.tell)(place, is_open);
        }
    }

    /// Has the timer ring after `time`, or earlier if it runs already: whoever is late then runs it anew.
    fn run_timer(&mut self, time: Duration) -> io::Result<()> {
        if !self.timer_runs {
            // A time of 0 would stop it.
            let time = time.max(Duration::from_millis(1));
            self.timer.reset(time, None).map_err(io::Error::from)?;
            self.timer_runs = true;
        }
        Ok(())
    }

    /// What there is to be heard, without waiting, as much as `heard` holds.
    pub(super) fn hear(&mut self, heard: &mut Vec<Told>) -> io::Result<()> {
        let mut events = [EpollEvent::default(); 16];
        let count = match self.epoll.wait(0, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            outcome => outcome?,
        };
        for event in events.iter().take(count) {
            if event.data() == TIMER {
                // It has rung, so this does not wait.
                self.timer.wait().map_err(io::Error::from)?;
                self.timer_runs = false;
                self.resting.fill(false);
                heard.push(Told::Timer);
                continue;
            }
            let place = usize::try_from(event.data() / 2).unwrap_or(usize::MAX);
            let Some(channel) = self.channels.get_mut(place) else {
                continue;
            };
            if event.data() % 2 == 0 {
                channel.of_listener = None;
                heard.push(Told::Listener(place));
            } else {
                channel.of_peer = None;
                heard.push(Told::Peer(place, event.event_set()));
            }
        }
        Ok(())
    }

    /// Takes a peer for a port if one waits; true if one has come.
    pub(super) fn accept(&mut self, place: usize) -> io::Result<bool> {
        let Some(channel) = self.channels.get_mut(place) else {
            return Ok(false);
        };
        match channel.accept() {
            Ok(false) => Ok(false),
            Ok(true) => {
                if let Some(fd) = channel.peer() {
                    let event = EpollEvent::new(EventSet::ONE_SHOT, mark(place, true));
                    self.epoll.ctl(ControlOperation::Add, fd, event)?;
                }
                Ok(true)
            }
            Err(error) => {
                log::debug!("a serial port's peer has to wait: {error}");
                self.resting[place] = true;
                self.run_timer(RETRY_ACCEPT)?;
                Ok(false)
            }
        }
    }

    /// Has the kernel tell of a port's next peer, or of what of its peer is `wanted`; of nothing without.
    pub(super) fn watch(&mut self, place: usize, wanted: Option<EventSet>) -> io::Result<()> {
        let Some(channel) = self.channels.get_mut(place) else {
            return Ok(());
        };
        if let Some(fd) = channel.peer() {
            if let Some(wanted) = wanted
                && channel.of_peer != Some(wanted)
            {
                let event = EpollEvent::new(wanted | EventSet::ONE_SHOT, mark(place, true));
                self.epoll.ctl(ControlOperation::Modify, fd, event)?;
                channel.of_peer = Some(wanted);
            }
        } else if let Some(fd) = channel.listener()
            && channel.of_listener.is_none()
            && !self.resting[place]
        {
            let wanted = EventSet::IN;
            let event = EpollEvent::new(wanted | EventSet::ONE_SHOT, mark(place, false));
            self.epoll.ctl(ControlOperation::Modify, fd, event)?;
            channel.of_listener = Some(wanted);
        }
        Ok(())
    }
}
