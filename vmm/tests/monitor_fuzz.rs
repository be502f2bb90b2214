//! A monitor under random and mutated input, with file descriptors and without: no panic, no hang, no
//! leak.
//!
//! Plain runs take some seconds, and send the same each time; `MONITOR_FUZZ_SECONDS=600 cargo test --test
//! monitor_fuzz` is a long one, and sends something else each time. Both say with which seed they fail;
//! `MONITOR_FUZZ_SEED`, a number as it is printed, has the same sent again.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Requests that are mutated.
const SEEDS: &[&str] = &[
    r#"{"execute":"qmp_capabilities"}"#,
    r#"{"execute":"query-qmp-schema","id":"libvirt-4"}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"},"id":9}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/machine","property":"type"}}"#,
    r#"{"execute":"device-list-properties","arguments":{"typename":"vfio-pci"},"id":"libvirt-12"}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true}]}}"#,
    r#"{"execute":"query-command-line-options","arguments":{"option":"sandbox"}}"#,
    r#"{"execute":"remove-fd","arguments":{"fdset-id":0,"fd":3}}"#,
    r#"{"execute":"getfd","arguments":{"fdname":"a"}}"#,
    r#"{"execute":"closefd","arguments":{"fdname":"a"}}"#,
    r#"{"execute":"add-fd","arguments":{"fdset-id":2,"opaque":"o"}}"#,
    r#"{"execute":"query-fdsets","id":null}"#,
    r#"{"execute":"cont"}"#,
    r#"{"execute":"stop"}"#,
    r#"{"execute":"system_reset"}"#,
    r#"{"execute":"system_powerdown"}"#,
    "{\"execute\":\"query-status\"}\r\n{\"execute\":\"query-name\"}",
];

/// Names under which descriptors are kept: all that are used, as a monitor does not tell them.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Sets in which descriptors are kept.
const SETS: usize = 4;

/// The most descriptors that are sent at once: more than a monitor takes. qemu-user gets more than it
/// hands on, and does not close the rest: of two it hands on both.
const DESCRIPTORS_MOST: usize = if cfg!(target_arch = "x86_64") { 40 } else { 2 };

/// Rounds after which its memory is as large as such clients make it.
///
/// After ten, a thread may not have made its own heap yet, which is 1 MiB less.
const WARM_UP_ROUNDS: u64 = 30;

/// What the process may have beyond what it had after the first rounds. It is some 400 KiB, whose most
/// part comes within seconds: what the allocator keeps. A leak of one byte for each client would be
/// more in ten minutes. An emulator keeps what it has translated, too.
const GROWTH_BYTES: u64 = if cfg!(target_arch = "x86_64") {
    1 << 20
} else {
    64 << 20
};

/// What plain runs begin with.
const PLAIN_SEED: u64 = 0x5eed;

/// Where random numbers begin. Whoever reads that the test failed reads it, too.
struct Seed(u64);

impl Seed {
    /// The one that was asked for, or else what the clock says for a long run.
    fn choose(is_long: bool) -> Self {
        if let Ok(text) = std::env::var("MONITOR_FUZZ_SEED") {
            return Self(text.parse().expect("MONITOR_FUZZ_SEED is a number"));
        }
        if !is_long {
            return Self(PLAIN_SEED);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = now.expect("a clock that is set").as_nanos();
        Self(u64::try_from(nanoseconds).expect("before the year 2554"))
    }

    fn tell(&self) {
        // Past the capture of a test's output.
        let told = format!("MONITOR_FUZZ_SEED={}\n", self.0);
        let _ = std::io::stderr().write_all(told.as_bytes());
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
    }
}

struct Random(u64);

impl Random {
    /// Sebastiano Vigna's SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let below = self.next() % (end.max(1) as u64);
        usize::try_from(below).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Something to send: random bytes, or requests that were cut, joined, and changed.
    fn input(&mut self) -> Vec<u8> {
        if self.below(8) == 0 {
            let length = self.below(5000);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut bytes = Vec::new();
        for _ in 0..=self.below(4) {
            bytes.extend(SEEDS[self.below(SEEDS.len())].as_bytes());
        }
        for _ in 0..self.below(6) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.byte(),
                1 => bytes[at] = b"{}[]\",:\\\xff\n0-"[self.below(12)],
                2 => bytes.truncate(at + 1),
                3 => {
                    let piece = bytes[at..].to_vec();
                    bytes.extend(piece);
                }
                _ => {
                    let depth = self.below(3000);
                    bytes.splice(at..at, std::iter::repeat_n(b'[', depth));
                }
            }
        }
        bytes
    }
}

impl Random {
    /// A request about descriptors, or another.
    fn request_about_descriptors(&mut self) -> String {
        let name = NAMES[self.below(NAMES.len())];
        let set = self.below(SETS);
        let (command, arguments) = match self.below(9) {
            0 | 1 => ("getfd", json!({"fdname": name})),
            2 => ("closefd", json!({"fdname": name})),
            3 => ("add-fd", json!({})),
            4 => ("add-fd", json!({"fdset-id": set, "opaque": "o"})),
            5 => ("remove-fd", json!({"fdset-id": set})),
            6 => (
                "remove-fd",
                json!({"fdset-id": set, "fd": self.below(DESCRIPTORS_MOST)}),
            ),
            7 => ("query-fdsets", json!({})),
            _ => return SEEDS[self.below(SEEDS.len())].to_owned(),
        };
        json!({"execute": command, "arguments": arguments}).to_string()
    }
}

struct Vmm {
    child: Child,
    socket: PathBuf,
}

impl Vmm {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("monitor");
        let child = program::command(env!("CARGO_BIN_EXE_spapr-vmm-qemu"))
            .args(["-S", "-machine", "none", "-nodefaults", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .spawn()
            .expect("works on any Linux");
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "no monitor");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, socket }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).expect("the monitor is gone")
    }

    /// A client that behaves: it gets its answer, within seconds.
    fn assert_alive(&self) {
        let mut client = Client::connect(self);
        let reply = client.ask(&json!({"execute": "query-status"}));
        assert!(reply.get("return").is_some(), "{reply}");
    }

    /// Has it close all descriptors that were passed to it.
    fn let_go(&self) {
        let mut client = Client::connect(self);
        let reply = client.ask(&json!({"execute": "query-fdsets"}));
        for set in reply["return"].as_array().expect("a list") {
            let set = json!({"fdset-id": set["fdset-id"]});
            client.ask(&json!({"execute": "remove-fd", "arguments": set}));
        }
        for name in NAMES {
            // That it is not there is told, and no mistake.
            client.ask(&json!({"execute": "closefd", "arguments": {"fdname": name}}));
        }
    }

    /// Waits until it has as many descriptors as before its clients came: those that are gone are
    /// forgotten, and what they passed is closed.
    fn assert_nothing_is_left(&self, descriptors: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // What a client that is gone has sent may be carried out after this.
            self.let_go();
            for _ in 0..10 {
                if self.descriptors() == descriptors {
                    return;
                }
                thread::sleep(Duration::from_millis(2));
            }
            let now = self.descriptors();
            let open = Instant::now() < deadline;
            assert!(open, "{now} descriptors, {descriptors} before");
        }
    }

    /// Descriptors when none come or go.
    fn settled_descriptors(&self) -> usize {
        loop {
            let before = self.descriptors();
            let changes = (0..20).any(|_| {
                thread::sleep(Duration::from_millis(50));
                self.descriptors() != before
            });
            if !changes {
                return before;
            }
        }
    }

    /// Memory of its own: what it has of files comes with the code that runs.
    fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("works on any Linux");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("works on any Linux");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("works on any Linux")
            << 10
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("works on any Linux")
            .count()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself, which a test has told of then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that behaves.
struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    fn connect(vmm: &Vmm) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let stream = vmm.connect();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("works on any Linux");
            let mut reader = BufReader::new(stream.try_clone().expect("works on any Linux"));
            let mut line = String::new();
            if reader.read_line(&mut line).expect("a greeting in time") > 0 {
                assert!(line.contains("QMP"), "{line}");
                let mut client = Self { stream, reader };
                client.ask(&json!({"execute": "qmp_capabilities"}));
                return client;
            }
            // All places are taken: clients that were dropped are seen in a moment.
            assert!(Instant::now() < deadline, "no place is ever free");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The reply to a request.
    fn ask(&mut self, request: &Value) -> Value {
        self.stream
            .write_all(request.to_string().as_bytes())
            .expect("works on any Linux");
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.reader.read_line(&mut line).expect("in time");
            assert!(length > 0, "closed");
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message.get("event").is_none() {
                return message;
            }
        }
    }
}

/// Sends input in pieces, and reads now and then, or never.
fn disturb(vmm: &Vmm, random: &mut Random) {
    let mut stream = vmm.connect();
    stream.set_nonblocking(true).expect("works on any Linux");
    let reads = random.below(4) != 0;
    if random.below(2) == 0 {
        let _ = stream.write_all(SEEDS[0].as_bytes());
    }
    for _ in 0..random.below(30) {
        let input = random.input();
        let piece = 1 + random.below(input.len().max(1));
        for piece in input.chunks(piece) {
            match stream.write_all(piece) {
                Ok(()) => {}
                // Full, or disconnected: both may be.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        if reads {
            read_all(&stream);
        }
    }
}

fn read_all(mut stream: &UnixStream) {
    let mut chunk = [0; 65536];
    while stream.read(&mut chunk).is_ok_and(|length| length > 0) {}
}

/// Sends requests with descriptors: none, one, or more, with those that take one and those that do
/// not, with their first bytes or their last, whole or cut.
fn pass_descriptors(vmm: &Vmm, random: &mut Random) {
    let mut stream = vmm.connect();
    stream.set_nonblocking(true).expect("works on any Linux");
    let (reader, writer) = std::io::pipe().expect("works on any Linux");
    let file = fs::File::open("/dev/null").expect("works on any Linux");
    let descriptors = [reader.as_raw_fd(), writer.as_raw_fd(), file.as_raw_fd()];
    if random.below(8) != 0 {
        let _ = stream.write_all(SEEDS[0].as_bytes());
    }
    for _ in 0..random.below(30) {
        let mut bytes = random.request_about_descriptors().into_bytes();
        if random.below(8) == 0 {
            bytes.truncate(1 + random.below(bytes.len()));
        }
        let count = match random.below(8) {
            0 | 1 => 0,
            2 => random.below(DESCRIPTORS_MOST + 1),
            _ => 1,
        };
        let sent: Vec<_> = descriptors.into_iter().cycle().take(count).collect();
        let (first, rest) = bytes.split_at(random.below(bytes.len()));
        for (piece, has_them) in [(first, random.below(2) == 0), (rest, true)] {
            // A stream has no place for descriptors but with bytes.
            let sent = if has_them { &sent[..] } else { &[] };
            if !piece.is_empty() && stream.send_with_fds(&[piece], sent).is_err() {
                return;
            }
        }
        if random.below(2) == 0 {
            read_all(&stream);
        }
    }
}

#[test]
fn whatever_clients_send_others_are_served_and_nothing_grows() {
    let seconds = std::env::var("MONITOR_FUZZ_SECONDS").ok();
    let seed = Seed::choose(seconds.is_some());
    if seconds.is_some() {
        seed.tell();
    }
    let seconds = seconds.map_or(4, |text| text.parse().expect("a number of seconds"));
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path());
    vmm.assert_alive();
    let descriptors = vmm.settled_descriptors();
    let mut random = Random(seed.0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut after_warm_up) = (0u64, 0);
    while Instant::now() < end {
        for _ in 0..10 {
            // Numbers of its own for each: one that is disconnected early does not change the next one's.
            disturb(&vmm, &mut Random(random.next()));
            pass_descriptors(&vmm, &mut Random(random.next()));
        }
        vmm.assert_alive();
        vmm.assert_nothing_is_left(descriptors);
        rounds += 1;
        if rounds == WARM_UP_ROUNDS {
            after_warm_up = vmm.resident_bytes();
        }
        assert_eq!(vmm.child.try_wait().unwrap(), None, "it ended");
    }
    assert!(rounds > WARM_UP_ROUNDS, "{rounds} rounds");
    let resident = vmm.resident_bytes();
    let told = format!(
        "{rounds} rounds, {descriptors} descriptors, {after_warm_up} bytes at first, {resident} at last\n"
    );
    std::io::stdout().write_all(told.as_bytes()).unwrap();
    assert!(resident < after_warm_up + GROWTH_BYTES, "{told}");
}
