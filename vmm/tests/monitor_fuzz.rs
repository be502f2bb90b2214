//! A monitor under random and mutated input: no panic, no hang, no leak.
//!
//! Plain runs take some seconds; `MONITOR_FUZZ_SECONDS=600 cargo test --test monitor_fuzz` is the
//! long one.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
    r#"{"execute":"getfd","arguments":{"fdname":"x"}}"#,
    r#"{"execute":"cont"}"#,
    r#"{"execute":"stop"}"#,
    r#"{"execute":"system_reset"}"#,
    r#"{"execute":"system_powerdown"}"#,
    "{\"execute\":\"query-status\"}\r\n{\"execute\":\"query-name\"}",
];

/// What the process may have beyond what it had after the first rounds.
const GROWTH_BYTES: u64 = 64 << 20;

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
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let stream = self.connect();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("works on any Linux");
            let mut reader = BufReader::new(stream.try_clone().expect("works on any Linux"));
            let mut line = String::new();
            if reader.read_line(&mut line).expect("a greeting in time") == 0 {
                // All places are taken: clients that were dropped are seen in a moment.
                assert!(Instant::now() < deadline, "no place is ever free");
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            assert!(line.contains("QMP"), "{line}");
            let mut writer = &stream;
            for command in ["qmp_capabilities", "query-status"] {
                writer
                    .write_all(json!({"execute": command}).to_string().as_bytes())
                    .expect("works on any Linux");
                loop {
                    line.clear();
                    assert!(reader.read_line(&mut line).expect("in time") > 0, "closed");
                    let message: Value = serde_json::from_str(&line).expect("JSON");
                    if message.get("event").is_none() {
                        assert!(message.get("return").is_some(), "{message}");
                        break;
                    }
                }
            }
            return;
        }
    }

    fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("works on any Linux");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
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
            let mut chunk = [0; 65536];
            while stream.read(&mut chunk).is_ok_and(|length| length > 0) {}
        }
    }
}

#[test]
fn whatever_clients_send_others_are_served_and_nothing_grows() {
    let seconds = std::env::var("MONITOR_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(4, |text| text.parse().expect("a number of seconds"));
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path());
    let mut random = Random(0x5eed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut after_warm_up) = (0u64, 0);
    while Instant::now() < end {
        for _ in 0..20 {
            disturb(&vmm, &mut random);
        }
        vmm.assert_alive();
        rounds += 1;
        if rounds == 10 {
            after_warm_up = vmm.resident_bytes();
        }
        assert_eq!(vmm.child.try_wait().unwrap(), None, "it ended");
    }
    assert!(rounds > 10, "{rounds} rounds");
    vmm.assert_alive();
    let resident = vmm.resident_bytes();
    assert!(
        resident < after_warm_up + GROWTH_BYTES,
        "{resident} bytes after {rounds} rounds, {after_warm_up} at first"
    );
    // Clients that are gone are forgotten.
    let deadline = Instant::now() + Duration::from_secs(20);
    while vmm.descriptors() > 20 {
        assert!(
            Instant::now() < deadline,
            "{} descriptors",
            vmm.descriptors()
        );
        thread::sleep(Duration::from_millis(50));
    }
}
