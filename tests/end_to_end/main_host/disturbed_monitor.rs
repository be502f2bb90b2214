//! A monitor whose clients misbehave, while a guest reads from its device.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::json;

use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::monitor::Monitor;

/// What the guest prints in front of a digest.
const DIGEST: &str = "LAB-GUEST-SHA256 ";

/// How often all that clients do wrong is done.
const ROUNDS: usize = 3;

/// Requests that a client sends without reading a reply: their replies are larger by far than what
/// waits for a client.
const UNREAD_REQUESTS: usize = 200;

/// The digests that a console shows, without a last line that has not ended yet.
fn digests(console: &str) -> Vec<&str> {
    let ended = console.rsplit_once('\n').map_or("", |(ended, _rest)| ended);
    let digests = ended.lines().filter_map(|line| line.split_once(DIGEST));
    digests.map(|(_, digest)| digest.trim()).collect()
}

/// A client that asks for more than it will ever read, and for events.
fn never_reads(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.set_nonblocking(true).expect("non-blocking");
    let schema = json!({"execute": "query-qmp-schema"}).to_string();
    let requests = [r#"{"execute":"qmp_capabilities"}"#].into_iter();
    for request in requests.chain(std::iter::repeat_n(&*schema, UNREAD_REQUESTS)) {
        match stream.write_all(request.as_bytes()) {
            Ok(()) => {}
            // The monitor has stopped reading from it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream
}

/// Clients that send what is not to be understood, and then something that is.
fn talk_nonsense(path: &Path) {
    let long = format!("{}\n", "x".repeat(1 << 20));
    let too_long = format!("{{\"execute\":\"{}\"}}\n", "x".repeat(1 << 20));
    for (nonsense, expected) in [
        ("{\"execute\":}\n", "JSON parse error"),
        ("}{]\u{0}[\n", "JSON parse error"),
        (&long, "JSON parse error"),
        (&too_long, "JSON token size limit exceeded"),
        ("[]", "QMP input must be a JSON object"),
    ] {
        let mut monitor = Monitor::connect(path);
        let mut reply = monitor.reply_to(nonsense.as_bytes());
        let told = reply["error"]["desc"].as_str().unwrap_or_default();
        assert!(told.contains(expected), "{nonsense:.40}: {reply}");
        // A byte that is no text ends what has no end.
        monitor.send(b"\xff");
        monitor.send(br#"{"execute":"query-status","id":"sense"}"#);
        while reply["id"] != "sense" {
            reply = monitor.reply_to(b"");
        }
        assert_eq!(reply["return"]["status"], "running", "{reply}");
    }
}

/// A client that has sent half a request, and stays.
fn sends_half(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream
        .write_all(br#"{"execute":"qmp_capabilities"}{"execute":"query-st"#)
        .expect("write");
    stream
}

#[test]
fn a_guest_reads_on_whatever_its_monitors_clients_do() {
    let job = [WAIT_FOR_NVME, "while true; do", READ_HEAD, "done\n"].concat();
    let (mut running, path) = FrontEnd::job(&job).nvme().start_alone();
    let mut monitor = Monitor::connect(&path);
    running.wait_for_console(DIGEST, 1);
    let mut waiting = Vec::new();
    for _ in 0..ROUNDS {
        let before = digests(&running.console()).len();
        waiting.push(never_reads(&path));
        waiting.push(sends_half(&path));
        talk_nonsense(&path);
        drop(sends_half(&path));
        drop(never_reads(&path));
        // What those that do not read are told of, too.
        monitor.ask("stop");
        monitor.wait_for("STOP");
        monitor.ask("cont");
        monitor.wait_for("RESUME");
        assert_eq!(monitor.status(), "running");
        // One may have been under way.
        running.wait_for_console(DIGEST, before + 3);
    }
    monitor.ask("quit");
    let finished = running.finish();
    finished.assert_status(0);
    let expected = head_sha256();
    let digests = digests(finished.console());
    assert!(digests.len() > ROUNDS, "{finished}");
    let wrong = digests.iter().find(|digest| **digest != expected);
    assert_eq!(wrong, None, "{finished}");
    drop(waiting);
    assert_nothing_is_left();
}
