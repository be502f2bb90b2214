//! A client of a running machine's monitor (QMP).

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// The most time that a reply or an event takes on an emulated host.
const LIMIT: Duration = Duration::from_secs(100);

/// A connected client, past the negotiation of capabilities.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// Events that came while something else was waited for.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects as soon as the socket is there.
    pub(crate) fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => panic!("no monitor: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        let reader = BufReader::new(stream.try_clone().expect("clone"));
        let mut monitor = Self {
            stream,
            reader,
            events: Vec::new(),
        };
        let greeting = monitor.receive();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        monitor.ask("qmp_capabilities");
        monitor
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the monitor is gone");
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        let length = self
            .reader
            .read_line(&mut line)
            .expect("no word of the monitor");
        assert!(length > 0, "the monitor closed the connection");
        serde_json::from_str(&line).expect("no JSON")
    }

    /// The reply to a command, an error or a return.
    pub(crate) fn reply(&mut self, command: &str, arguments: &Value) -> Value {
        let message = json!({"execute": command, "arguments": arguments});
        self.reply_to(message.to_string().as_bytes())
    }

    /// Passes a descriptor, to be used by a name.
    #[track_caller]
    pub(crate) fn pass(&mut self, name: &str, descriptor: impl AsFd) {
        let message = json!({"execute": "getfd", "arguments": {"fdname": name}}).to_string();
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        assert!(rights.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [IoSlice::new(message.as_bytes())];
        let sent = sendmsg(&self.stream, &bytes, &mut rights, SendFlags::empty());
        assert_eq!(sent, Ok(message.len()));
        let reply = self.reply_to(b"");
        assert!(reply.get("return").is_some(), "{reply}");
    }

    /// Has the guest dumped to a descriptor, and returns what the dump's end tells.
    #[track_caller]
    pub(crate) fn dump_to(&mut self, descriptor: impl AsFd) -> Value {
        self.pass("dump", descriptor);
        let arguments = json!({"paging": false, "protocol": "fd:dump", "detach": true});
        let reply = self.reply("dump-guest-memory", &arguments);
        assert!(reply.get("return").is_some(), "{reply}");
        self.wait_for("DUMP_COMPLETED")["data"].take()
    }

    /// The next reply after these bytes were sent.
    pub(crate) fn reply_to(&mut self, bytes: &[u8]) -> Value {
        self.send(bytes);
        loop {
            let message = self.receive();
            if message.get("event").is_some() {
                self.events.push(message);
            } else {
                return message;
            }
        }
    }

    /// What a command without arguments returns.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        let mut reply = self.reply(command, &json!({}));
        assert!(reply.get("return").is_some(), "{command}: {reply}");
        reply["return"].take()
    }

    /// The status that `query-status` tells.
    pub(crate) fn status(&mut self) -> String {
        let status = self.ask("query-status");
        status["status"].as_str().expect("a word").to_owned()
    }

    /// Waits for an event, and forgets those before it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let known = self.events.iter().position(|event| event["event"] == name);
            if let Some(place) = known {
                return self.events.drain(..=place).next_back().expect("not empty");
            }
            assert!(Instant::now() < deadline, "no {name}");
            let message = self.receive();
            assert!(message.get("event").is_some(), "{message}");
            self.events.push(message);
        }
    }
}
