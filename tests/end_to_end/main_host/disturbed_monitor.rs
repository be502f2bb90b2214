//! A monitor whose clients misbehave, while a guest reads from its device.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::finished::printed;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::monitor::Monitor;

/// What the guest prints in front of a digest.
const DIGEST: &str = "LAB-GUEST-SHA256 ";

/// Has the guest print its clock, which stands still while the guest is stopped.
const PRINT_UPTIME: &str = "
echo LAB-GUEST-UPTIME $(cut -d' ' -f1 /proc/uptime)
";

/// What the guest prints in front of it.
const UPTIME: &str = "LAB-GUEST-UPTIME ";

/// Digests before any client does something wrong: from one to the next is what they take.
const UNDISTURBED: usize = 5;

/// How often all that clients do wrong is done.
const ROUNDS: usize = 3;

/// Requests that a client sends without reading a reply: their replies are larger by far than what
/// waits for a client.
const UNREAD_REQUESTS: usize = 200;

/// What each digest took after the one before it, by the guest's clock.
fn times(console: &str) -> Vec<Duration> {
    let uptimes: Vec<Duration> = printed(console, UPTIME)
        .iter()
        .map(|uptime| Duration::from_secs_f64(uptime.parse().expect("seconds")))
        .collect();
    let times = uptimes.windows(2).map(|pair| pair[1] - pair[0]);
    times.collect()
}

/// What a digest may take beside bad clients, by what the slowest took without them. An emulated host has
/// slow moments of its own; a minute is none.
fn limit(undisturbed: &[Duration]) -> Duration {
    let slowest = undisturbed.iter().max().expect("a time");
    (*slowest * 10).clamp(Duration::from_secs(10), Duration::from_secs(50))
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
    let job = [
        WAIT_FOR_NVME,
        "while true; do",
        READ_HEAD,
        PRINT_UPTIME,
        "done\n",
    ];
    let (mut running, path) = FrontEnd::job(&job.concat()).nvme().start_alone();
    let mut monitor = Monitor::connect(&path);
    // The last line may not have ended yet.
    running.wait_for_console(UPTIME, UNDISTURBED + 1);
    let undisturbed = times(&running.console());
    let limit = limit(&undisturbed);
    let mut waiting = Vec::new();
    for _ in 0..ROUNDS {
        let before = printed(&running.console(), DIGEST).len();
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
        for more in 1..=3 {
            let start = Instant::now();
            running.wait_for_console(DIGEST, before + more);
            let took = start.elapsed();
            assert!(took < limit, "{took:?}; {undisturbed:?} undisturbed");
        }
    }
    monitor.ask("quit");
    let finished = running.finish();
    finished.assert_status(0);
    let expected = head_sha256();
    let digests = printed(finished.console(), DIGEST);
    assert!(digests.len() > UNDISTURBED + ROUNDS, "{finished}");
    let wrong = digests.iter().find(|digest| **digest != expected);
    assert_eq!(wrong, None, "{finished}");
    let slow = times(finished.console()).into_iter().max();
    assert!(
        slow.is_some_and(|slow| slow < limit),
        "{slow:?}; {undisturbed:?} undisturbed"
    );
    drop(waiting);
    assert_nothing_is_left();
}
