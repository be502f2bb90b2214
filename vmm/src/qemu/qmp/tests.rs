//! Clients over real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::*;
use crate::qemu::dumps::Dumps;
use crate::qemu::events::{self, EventSource};
use crate::qemu::monitor::Monitor;
use crate::qemu::monitor::sample::monitor;
use crate::qemu::state::GuestState;

mod dumps;

struct Fixture {
    folder: tempfile::TempDir,
    server: Option<Server>,
    monitor: Arc<Monitor>,
    tcp: std::net::SocketAddr,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let unix = UnixListener::bind(folder.path().join("qmp")).expect("bind");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = tcp.local_addr().expect("address");
        let (monitor, events, source) = shared_monitor();
        let monitor = Arc::new(monitor);
        let endpoints = Endpoints {
            listeners: vec![Listener::Unix(unix), Listener::Tcp(tcp)],
            connected: Vec::new(),
        };
        let server = Server::start(endpoints, Arc::clone(&monitor), events, source, None);
        Self {
            folder,
            server: Some(server.expect("starts")),
            monitor,
            tcp: address,
        }
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.folder.path().join("qmp")).expect("connect");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("timeout");
        let mut client = Client {
            reader: BufReader::new(stream.try_clone().expect("clone")),
            stream,
        };
        let greeting = client.receive();
        assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], 10);
        client
    }

    fn negotiated(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.ask("qmp_capabilities"), json!({}));
        client
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.finish();
        }
    }
}

/// The monitor of the other tests, with a way to send events to it.
fn shared_monitor() -> (Monitor, events::Events, EventSource) {
    let (mut monitor, _) = monitor();
    let (events, source) = events::channel().expect("eventfd");
    let policy = crate::qemu::state::Policy::default();
    monitor.guest = Arc::new(GuestState::new(policy, true, events.clone()));
    let dumps = Dumps::start(Arc::clone(&monitor.guest), events.clone());
    monitor.dumps = dumps.expect("a thread");
    (monitor, events, source)
}

struct Client {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Client {
    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write");
    }

    /// The next reply, past events, after a command was sent with a descriptor.
    fn pass(&mut self, command: &Value, descriptor: &impl std::os::fd::AsRawFd) -> Value {
        let command = command.to_string();
        let sent = self
            .stream
            .send_with_fd(command.as_bytes(), descriptor.as_raw_fd());
        sent.expect("sent");
        self.reply()
    }

    /// The next reply, past events.
    fn reply(&mut self) -> Value {
        loop {
            let message = self.receive();
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    /// The next event, past replies.
    fn event(&mut self) -> Value {
        loop {
            let message = self.receive();
            if message.get("event").is_some() {
                return message;
            }
        }
    }

    /// The return of a command, past events.
    fn ask(&mut self, command: &str) -> Value {
        self.say(json!({"execute": command}).to_string().as_bytes());
        loop {
            let message = self.receive();
            if message.get("event").is_none() {
                return message["return"].clone();
            }
        }
    }
}

#[test]
fn all_clients_hear_events_and_they_come_before_the_reply() {
    let fixture = Fixture::new();
    let mut deaf = fixture.connect();
    let (mut one, mut other) = (fixture.negotiated(), fixture.negotiated());
    one.say(br#"{"execute":"cont","id":1}"#);
    let event = one.receive();
    assert_eq!(event["event"], "RESUME");
    assert!(event["timestamp"]["seconds"].is_u64());
    assert_eq!(one.receive(), json!({"return": {}, "id": 1}));
    assert_eq!(other.receive()["event"], "RESUME");
    assert_eq!(other.ask("query-status")["status"], "running");
    // One that has not negotiated hears none.
    deaf.say(br#"{"execute":"query-status"}"#);
    assert_eq!(deaf.receive()["error"]["class"], "CommandNotFound");
}

#[test]
fn half_a_command_and_a_client_that_leaves_disturb_no_one() {
    let fixture = Fixture::new();
    let mut slow = fixture.negotiated();
    slow.say(b"{\"execute\":\"query-");
    let mut gone = fixture.negotiated();
    gone.say(b"{\"execute\":");
    drop(gone);
    let mut other = fixture.negotiated();
    assert_eq!(other.ask("query-status")["running"], false);
    slow.say(b"name\"}\n");
    assert_eq!(slow.receive()["return"]["name"], "g1");
}

#[test]
fn junk_is_answered_by_errors_and_the_client_can_go_on() {
    let fixture = Fixture::new();
    let mut client = fixture.negotiated();
    client.say(b"not json at all\n{\"execute\":}\n");
    assert_eq!(client.receive()["error"]["class"], "GenericError");
    assert_eq!(client.receive()["error"]["class"], "GenericError");
    let mut junk = b"{\"a\":\"".to_vec();
    junk.resize(3 << 20, b'x');
    client.say(&junk);
    client.say(b"\"}\n");
    assert_eq!(
        client.receive()["error"]["desc"],
        "JSON token size limit exceeded"
    );
    assert_eq!(client.ask("query-status")["running"], false);
    client.say(&vec![0xff; 1 << 20]);
    client.say(&vec![b'['; 1 << 16]);
    client.say(b"\xff");
    assert!(client.receive()["error"].is_object());
    assert_eq!(client.ask("query-status")["running"], false);
}

#[test]
fn a_client_that_never_reads_is_disconnected_and_disturbs_no_one() {
    let fixture = Fixture::new();
    let mut stuck = fixture.negotiated();
    stuck.stream.set_nonblocking(true).expect("nonblocking");
    // As many requests as the connection takes: their replies fill it the other way.
    let request = br#"{"execute":"query-qmp-schema"}"#.repeat(100);
    let started = Instant::now();
    while stuck.stream.write(&request).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "takes all");
    }
    let mut other = fixture.negotiated();
    while started.elapsed() < Duration::from_secs(60) {
        other.ask("cont");
        other.ask("stop");
        let mut byte = [0];
        let state = match stuck.stream.write(b" ") {
            Err(error) => error.kind(),
            Ok(_) => std::io::ErrorKind::WouldBlock,
        };
        if state == std::io::ErrorKind::BrokenPipe {
            // What was sent before it was disconnected can still be read.
            stuck.stream.set_nonblocking(false).expect("blocking");
            while stuck.stream.read(&mut byte).is_ok_and(|length| length == 1) {}
            assert_eq!(other.ask("query-status")["status"], "paused");
            return;
        }
    }
    panic!("it was never disconnected");
}

#[test]
fn requests_that_come_all_at_once_are_all_answered() {
    const REQUESTS: usize = 8192;
    let fixture = Fixture::new();
    // Over TCP a connection takes more at once than may wait to be sent.
    let mut stream = TcpStream::connect(fixture.tcp).expect("connect");
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("timeout");
    let mut replies = BufReader::new(stream.try_clone().expect("clone")).lines();
    replies.next().expect("a greeting").expect("read");
    let negotiation = br#"{"execute":"qmp_capabilities"}"#;
    stream.write_all(negotiation).expect("written");
    replies.next().expect("a reply").expect("read");
    stream.write_all(&b"{}".repeat(REQUESTS)).expect("written");
    for number in 0..REQUESTS {
        let reply = replies.next().expect("a reply").expect("read");
        assert!(reply.contains("error"), "{number}: {reply}");
    }
}

#[test]
fn a_descriptor_is_for_the_request_that_it_comes_with() {
    let fixture = Fixture::new();
    let mut client = fixture.negotiated();
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let request = br#"{"execute":"query-status"}"#;
    let sent = client
        .stream
        .send_with_fd(&request[..], std::os::fd::AsRawFd::as_raw_fd(&reader));
    sent.expect("sent");
    assert!(client.receive()["return"].is_object());
    client.say(br#"{"execute":"getfd","arguments":{"fdname":"late"}}"#);
    assert!(client.receive()["error"].is_object());
}

#[test]
fn a_descriptor_can_be_passed_and_is_kept() {
    let fixture = Fixture::new();
    let mut client = fixture.negotiated();
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let request = br#"{"execute":"add-fd","arguments":{"fdset-id":9,"opaque":"log"}}"#;
    let sent = client
        .stream
        .send_with_fd(&request[..], std::os::fd::AsRawFd::as_raw_fd(&reader));
    sent.expect("sent");
    assert_eq!(client.receive()["return"]["fdset-id"], 9);
    let sets = client.ask("query-fdsets");
    assert_eq!(sets[1]["fds"][0]["opaque"], "log");
}

#[test]
fn clients_come_over_tcp_and_only_so_many() {
    let fixture = Fixture::new();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let stream = TcpStream::connect(fixture.tcp).expect("connect");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("timeout");
        clients.push(BufReader::new(stream));
    }
    let mut greeted = 0;
    for client in &mut clients {
        let mut line = String::new();
        if client.read_line(&mut line).is_ok_and(|length| length > 0) {
            greeted += 1;
        }
    }
    assert_eq!(greeted, 32);
    drop(clients);
    // Places are free again.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let mut stream = TcpStream::connect(fixture.tcp).expect("connect");
        let mut byte = [0];
        if stream.read(&mut byte).is_ok_and(|length| length == 1) {
            return;
        }
    }
    panic!("no place became free");
}

#[test]
fn the_last_event_is_told_before_the_end() {
    let mut fixture = Fixture::new();
    let mut client = fixture.negotiated();
    fixture
        .monitor
        .guest
        .ended(&crate::lifecycle::End::Asked("SIGTERM"));
    fixture.server.take().expect("runs").finish();
    let event = client.receive();
    assert_eq!(event["event"], "SHUTDOWN");
    assert_eq!(
        event["data"],
        json!({"guest": false, "reason": "host-signal"})
    );
    let mut rest = String::new();
    assert_eq!(client.reader.read_line(&mut rest).expect("the end"), 0);
}
