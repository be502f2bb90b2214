//! The monitors' thread: it accepts clients, reads what they say and writes what they are told. No
//! client can make it wait, and it makes no processor wait but for commands that pause them.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};

use log::Level;
use spapr_devices::guest_message;

use super::client::{Client, Connection, Stream};
use crate::qemu::events::{self, EventSource};
use crate::qemu::monitor::Monitor;
use crate::threads;

/// Clients at one time.
const MOST_CLIENTS: usize = 32;
/// How long the end of the process waits for clients to read their last messages.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most before it looks whether it is to end.
const LOOK_UP_MILLISECONDS: i32 = 1000;
/// How long a listener that cannot accept is left alone, as when there are no descriptors left: the
/// client that waits would wake the thread again at once.
const RETRY_ACCEPT: Duration = Duration::from_millis(500);

/// Which of the things that are watched an event is of.
const EVENTS_ARRIVED: u32 = 0;
const CLIENT: u32 = 1;
const FIRST_LISTENER: u32 = 2;

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// In the file system.
    Unix(UnixListener),
    /// Of TCP.
    Tcp(TcpListener),
}

impl Listener {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept()?.0)),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Unix(listener) => listener.as_raw_fd(),
            Self::Tcp(listener) => listener.as_raw_fd(),
        }
    }
}

/// Where monitors are reached.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Sockets that clients connect to.
    pub listeners: Vec<Listener>,
    /// Clients that are connected from the start.
    pub connected: Vec<Stream>,
}

/// The monitors' thread.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    events: events::Events,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the thread, which calls `prepare` first. `source` gives it what is sent by `events`.
    ///
    /// # Errors
    /// When there are no threads or descriptors left.
    pub fn start(
        endpoints: Endpoints,
        monitor: Arc<Monitor>,
        events: events::Events,
        source: EventSource,
        prepare: Option<fn() -> io::Result<()>>,
    ) -> io::Result<Self> {
        for listener in &endpoints.listeners {
            listener.set_nonblocking()?;
        }
        let mut clients = HashMap::new();
        for stream in endpoints.connected {
            stream.set_nonblocking()?;
            clients.insert(stream.as_raw_fd(), Client::new(stream));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let monitors = Monitors {
            listeners: endpoints.listeners,
            clients,
            monitor,
            source,
            resting: Vec::new(),
            failed: None,
        };
        let mut manager = EventManager::new().map_err(other)?;
        let id = manager.add_subscriber(monitors);
        if let Some(error) = manager.subscriber_mut(id).map_err(other)?.failed.take() {
            return Err(other(error));
        }
        let (tell_prepared, prepared) = std::sync::mpsc::channel();
        let stopping = Arc::clone(&stop);
        let thread = threads::spawn("monitor", move || {
            let ready = prepare.map_or(Ok(()), |prepare| prepare());
            let is_ready = ready.is_ok();
            if tell_prepared.send(ready).is_err() || !is_ready {
                return;
            }
            while !stopping.load(Ordering::SeqCst) {
                if let Err(error) = manager.run_with_timeout(LOOK_UP_MILLISECONDS) {
                    log::error!("the monitors' event loop failed: {error}");
                    return;
                }
                rouse(&mut manager, id);
            }
            if let Ok(monitors) = manager.remove_subscriber(id) {
                monitors.say_farewell();
            }
        })?;
        prepared
            .recv()
            .map_err(|_| io::Error::other("the monitors' thread ended at its start"))??;
        Ok(Self {
            stop,
            events,
            thread: Some(thread),
        })
    }

    /// Writes out what clients have still to be told, for a bounded time, and ends the thread.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.events.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the monitors' thread panicked");
        }
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// What the thread works on.
struct Monitors {
    listeners: Vec<Listener>,
    clients: HashMap<RawFd, Client>,
    monitor: Arc<Monitor>,
    source: EventSource,
    /// Listeners that could not accept, by their data, and when to try again.
    resting: Vec<(u32, Instant)>,
    failed: Option<event_manager::Error>,
}

/// Watches listeners again that have rested for long enough.
fn rouse(manager: &mut EventManager<Monitors>, id: SubscriberId) {
    let Ok(monitors) = manager.subscriber_mut(id) else {
        return;
    };
    for (listener, fd) in monitors.take_rested(Instant::now()) {
        let events = Events::with_data_raw(fd, listener, EventSet::IN);
        let watched = manager.event_ops(id).and_then(|mut ops| ops.add(events));
        if let Err(error) = watched {
            guest_message!(
                Level::Error,
                "a monitor's socket cannot be watched: {error}"
            );
        }
    }
}

impl MutEventSubscriber for Monitors {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            EVENTS_ARRIVED => self.tell_events(ops),
            CLIENT => self.serve(events.fd(), events.event_set(), ops),
            listener => self.accept(listener, ops),
        }
        self.go_on(ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let ready = Events::with_data(self.source.ready(), EVENTS_ARRIVED, EventSet::IN);
        self.failed = ops.add(ready).err();
        for (listener, data) in self.listeners.iter().zip(FIRST_LISTENER..) {
            let watched = ops.add(Events::with_data(listener, data, EventSet::IN));
            self.failed = self.failed.take().or(watched.err());
        }
        for client in self.clients.values() {
            let watched = ops.add(Events::with_data(client, CLIENT, interest(client)));
            self.failed = self.failed.take().or(watched.err());
        }
    }
}

/// Whether accept(2) failed because the client is gone again, or there was none.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// What is to be waited for.
fn interest(client: &Client) -> EventSet {
    let mut set = EventSet::empty();
    if client.wants_to_read() {
        set |= EventSet::IN;
    }
    if client.wants_to_write() {
        set |= EventSet::OUT;
    }
    set
}

impl Monitors {
    fn listener(&self, data: u32) -> Option<&Listener> {
        let place = usize::try_from(data.checked_sub(FIRST_LISTENER)?).ok()?;
        self.listeners.get(place)
    }

    fn accept(&mut self, data: u32, ops: &mut EventOps) {
        let Some(listener) = self.listener(data) else {
            return;
        };
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) if is_the_clients(&error) => return,
            Err(error) => {
                guest_message!(Level::Warn, "a monitor's client has to wait: {error}");
                if ops.remove(Events::empty(listener)).is_ok() {
                    self.resting.push((data, Instant::now() + RETRY_ACCEPT));
                }
                return;
            }
        };
        if self.clients.len() >= MOST_CLIENTS {
            guest_message!(
                Level::Warn,
                "a monitor's client was refused: there are {MOST_CLIENTS} already"
            );
            return;
        }
        if stream.set_nonblocking().is_err() {
            return;
        }
        let client = Client::new(stream);
        let watched = Events::with_data(&client, CLIENT, interest(&client));
        match ops.add(watched) {
            Ok(()) => drop(self.clients.insert(client.as_raw_fd(), client)),
            Err(error) => guest_message!(
                Level::Error,
                "a monitor's client cannot be watched: {error}"
            ),
        }
    }

    /// Listeners whose rest is over `now`: their data and their descriptors.
    fn take_rested(&mut self, now: Instant) -> Vec<(u32, RawFd)> {
        let rested = self.resting.extract_if(.., |&mut (_, until)| until <= now);
        let rested: Vec<u32> = rested.map(|(data, _)| data).collect();
        let with_descriptor = |data| Some((data, self.listener(data)?.as_raw_fd()));
        rested.into_iter().filter_map(with_descriptor).collect()
    }

    fn serve(&mut self, fd: RawFd, set: EventSet, ops: &mut EventOps) {
        let Some(client) = self.clients.get_mut(&fd) else {
            return;
        };
        let mut state = Connection::Open;
        if set.contains(EventSet::OUT) {
            state = client.send();
        }
        // A hang-up is seen by reading to the end, or failing to.
        let is_gone = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if state == Connection::Open && (is_gone || set.contains(EventSet::IN)) {
            state = client.receive();
        }
        if is_gone && !set.contains(EventSet::IN) {
            state = Connection::Closed;
        }
        if state == Connection::Closed {
            self.forget(fd, ops);
            return;
        }
        self.carry_out(fd, ops);
    }

    /// Carries out a client's requests, and has events come before the replies.
    fn carry_out(&mut self, fd: RawFd, ops: &mut EventOps) {
        loop {
            let Some(client) = self.clients.get_mut(&fd) else {
                return;
            };
            let Some(reply) = client.reply_to_next(&self.monitor) else {
                break;
            };
            self.tell_events(ops);
            if let Some(client) = self.clients.get_mut(&fd) {
                client.answer(&reply);
            }
        }
        self.flush(fd, ops);
    }

    /// Serves clients whose last command has ended meanwhile.
    fn go_on(&mut self, ops: &mut EventOps) {
        let waiting = self
            .clients
            .iter()
            .filter(|(_, client)| client.has_late_reply());
        let fds: Vec<RawFd> = waiting.map(|(fd, _)| *fd).collect();
        for fd in fds {
            self.carry_out(fd, ops);
        }
    }

    fn tell_events(&mut self, ops: &mut EventOps) {
        for event in self.source.take() {
            let fds: Vec<RawFd> = self.clients.keys().copied().collect();
            for fd in fds {
                let told = self.clients.get_mut(&fd).map(|client| client.tell(&event));
                match told {
                    Some(Connection::Closed) => self.forget(fd, ops),
                    _ => self.flush(fd, ops),
                }
            }
        }
    }

    /// Writes what a client takes, and waits for what it can do next.
    fn flush(&mut self, fd: RawFd, ops: &mut EventOps) {
        let Some(client) = self.clients.get_mut(&fd) else {
            return;
        };
        if client.send() == Connection::Closed {
            self.forget(fd, ops);
            return;
        }
        let watched = Events::with_data(&*client, CLIENT, interest(client));
        if let Err(error) = ops.modify(watched) {
            guest_message!(
                Level::Error,
                "a monitor's client cannot be watched: {error}"
            );
            self.forget(fd, ops);
        }
    }

    fn forget(&mut self, fd: RawFd, ops: &mut EventOps) {
        if let Some(client) = self.clients.remove(&fd) {
            // Before it is closed: its number may be another's then.
            let removed = ops.remove(Events::empty(&client));
            if let Err(error) = removed {
                log::debug!("a monitor's client was not watched: {error}");
            }
        }
    }

    /// Tells clients the last events, as far as they read within a bounded time.
    fn say_farewell(mut self) {
        for event in self.source.take() {
            self.clients
                .retain(|_, client| client.tell(&event) == Connection::Open);
        }
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.clients
                .retain(|_, client| client.send() == Connection::Open && client.wants_to_write());
            if self.clients.is_empty() || Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
