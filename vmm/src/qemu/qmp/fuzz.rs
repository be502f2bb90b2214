//! What a monitor's client sends, as a fuzzer's bytes have it.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::client::{Client, Connection, Stream};
use super::commands::{CAPABILITIES, COMMANDS, Command};
use super::framing::{Found, Splitter};
use super::session::Session;
use super::types::{Member, Type};
use crate::qemu::monitor::Monitor;
use crate::qemu::monitor::sample::monitor;

/// Requests of one run at the most.
const MOST_REQUESTS: usize = 32;

/// Texts that mean something to one command or another.
const TEXTS: [&str; 12] = [
    "",
    "a",
    "/machine",
    "/machine/peripheral/serial0",
    "type",
    "vfio-pci",
    "pseries-10.0-machine",
    "sandbox",
    "events",
    "elf",
    "fd:a",
    "fd:b",
];

/// Sends `bytes` to a session, whose requests must be the same in whatever pieces they come.
///
/// # Panics
/// When they are not, or a reply is neither an answer nor an error.
pub fn bytes(bytes: &[u8]) {
    let (&piece, stream) = bytes.split_first().unwrap_or((&0, &[]));
    let found = split(stream, usize::from(piece) + 1);
    assert_eq!(found, split(stream, 1));
    let (monitor, _events) = monitor();
    let mut session = Session::default();
    for found in &found {
        let reply = session.reply(found, &monitor, || None);
        assert_is_reply(&reply.expect("nothing has to be waited for"));
    }
}

fn split(stream: &[u8], piece: usize) -> Vec<Found> {
    let (mut splitter, mut found) = (Splitter::default(), Vec::new());
    for piece in stream.chunks(piece) {
        splitter.feed(piece, |end| found.push(end));
    }
    found
}

fn assert_is_reply(reply: &Value) {
    let members = reply.as_object().expect("an object");
    let is_reply = members.contains_key("return") != members.contains_key("error");
    assert!(is_reply, "{reply}");
}

/// Sends requests about a machine that is about to start, with descriptors and without, over a socket.
///
/// # Panics
/// When an answer is not of the type that the schema has, a request is not replied to, or the connection ends.
pub fn requests(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (monitor, _events) = monitor();
    let (stream, ours) = UnixStream::pair().expect("descriptors");
    for stream in [&stream, &ours] {
        stream.set_nonblocking(true).expect("works on any Linux");
    }
    let mut live = Live {
        client: Client::new(Stream::Unix(ours)),
        stream,
        monitor,
    };
    assert!(live.replies().is_empty(), "but for the greeting");
    live.ask(&json!({"execute": CAPABILITIES.name}), 0);
    for _ in 0..MOST_REQUESTS {
        if input.is_empty() || request(&mut input, &mut live).is_err() {
            break;
        }
    }
}

struct Live {
    client: Client,
    stream: UnixStream,
    monitor: Monitor,
}

impl Live {
    /// The reply to a request that comes with so many descriptors.
    fn ask(&mut self, request: &Value, descriptors: usize) -> Value {
        let text = request.to_string();
        let own = vec![self.stream.as_raw_fd(); descriptors];
        let sent = self.stream.send_with_fds(&[text.as_bytes()], &own);
        assert_eq!(sent, Ok(text.len()), "a request fits into the socket");
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{request}");
        let reply = replies.remove(0);
        assert_is_reply(&reply);
        assert_eq!(reply.get("id"), request.get("id"), "{reply}");
        reply
    }

    /// What the client is told, without the greeting, once it has been listened to.
    fn replies(&mut self) -> Vec<Value> {
        assert_eq!(self.client.receive(), Connection::Open);
        let mut replies = Vec::new();
        while let Some(reply) = self.client.reply_to_next(&self.monitor) {
            self.client.answer(&reply);
            replies.push(reply);
        }
        assert_eq!(self.client.send(), Connection::Open);
        let mut told = [0; 1 << 16];
        while self.stream.read(&mut told).is_ok_and(|length| length > 0) {
            let _ = self.client.send();
        }
        replies
    }
}

fn request(input: &mut Unstructured<'_>, live: &mut Live) -> Result<()> {
    let command = &COMMANDS[input.choose_index(COMMANDS.len())?];
    let mut request = json!({
        "execute": command.name,
        "arguments": arguments(input, command.arguments)?,
    });
    if input.ratio(1, 4)? {
        request["id"] = value(input, &Type::Any)?;
    }
    if input.ratio(1, 32)? {
        request[text(input)?] = value(input, &Type::Any)?;
    }
    // With more a client is disconnected.
    let descriptors = input.int_in_range(0..=1)?;
    let reply = live.ask(&request, descriptors);
    assert_as_the_schema_has_it(command, &reply);
    Ok(())
}

fn assert_as_the_schema_has_it(command: &Command, reply: &Value) {
    if let Some(answer) = reply.get("return") {
        let wrong = command.returns.mismatch("return", answer);
        assert_eq!(wrong, None, "{}: {answer}", command.name);
    }
}

fn arguments(input: &mut Unstructured<'_>, members: &[Member]) -> Result<Value> {
    let mut arguments = Map::new();
    for member in members {
        if !member.optional && !input.ratio(1, 16)? || input.arbitrary()? {
            arguments.insert(member.name.to_owned(), value(input, &member.kind)?);
        }
    }
    if input.ratio(1, 32)? {
        arguments.insert(text(input)?, value(input, &Type::Any)?);
    }
    Ok(Value::Object(arguments))
}

/// A value, mostly of the type `kind`.
fn value(input: &mut Unstructured<'_>, kind: &Type) -> Result<Value> {
    let others = [&Type::Str, &Type::Int, &Type::Bool, &Type::List(&Type::Str)];
    let kind = match input.ratio(1, 16)? || matches!(kind, Type::Any) {
        true => *input.choose(&others)?,
        false => kind,
    };
    Ok(match kind {
        Type::Str | Type::Any => text(input)?.into(),
        Type::Int => match input.arbitrary()? {
            true => input.int_in_range(-1..=8i64)?.into(),
            false => input.arbitrary::<i64>()?.into(),
        },
        Type::Bool => input.arbitrary::<bool>()?.into(),
        Type::Enum(words) => (*input.choose(words)?).into(),
        Type::Object(members) => arguments(input, members)?,
        Type::List(element) => {
            let count = input.int_in_range(0..=3)?;
            let values = (0..count).map(|_| value(input, element));
            Value::Array(values.collect::<Result<_>>()?)
        }
    })
}

/// Text, but none that has a command open a file of this machine's.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    if input.arbitrary()? {
        return Ok((*input.choose(&TEXTS)?).to_owned());
    }
    let length = input.int_in_range(0..=24)?;
    let text = String::from_utf8_lossy(input.bytes(length)?).into_owned();
    Ok(text.replace("file:", "fd:"))
}
