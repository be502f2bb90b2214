//! What a process and the host hold, to see whether it grows.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Duration;

use spapr_lab::proc_sizes::{self, resident_without_guest};

/// What a process may hold more of after a long time, in bytes of memory: its allocator's scatter.
const SLACK_BYTES: u64 = 2 << 20;
/// What may be missing on the host: its caches' scatter.
const HOST_SLACK_KIB: u64 = 48 << 10;
/// A mapping as large is the guest's memory, which is no matter of the process' own.
const GUEST_BYTES: u64 = 512 << 20;

/// What a process holds.
#[derive(Debug)]
pub(crate) struct Held {
    own_bytes: u64,
    descriptors: usize,
    threads: usize,
}

impl Held {
    /// By this process, now.
    #[track_caller]
    pub(crate) fn by(id: u32) -> Self {
        let process = Path::new("/proc").join(id.to_string());
        let count = |folder| {
            fs::read_dir(process.join(folder))
                .expect("it has ended")
                .count()
        };
        let smaps = fs::read_to_string(process.join("smaps")).expect("it has ended");
        Self {
            own_bytes: resident_without_guest(&smaps, GUEST_BYTES),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    /// Fails if this is more than it was.
    #[track_caller]
    pub(crate) fn assert_not_more_than(&self, before: &Self) {
        let is_more = self.own_bytes > before.own_bytes + SLACK_BYTES
            || self.descriptors > before.descriptors
            || self.threads > before.threads;
        assert!(!is_more, "{before:?}, and later {self:?}");
    }
}

/// A number of /proc/meminfo.
fn meminfo_kib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let bytes = text.lines().find_map(|line| proc_sizes::bytes(line, name));
    bytes.expect("a size") >> 10
}

/// Memory that the host has left.
#[derive(Debug)]
pub(crate) struct HostMemory {
    free_kib: u64,
}

impl HostMemory {
    /// Now, with nothing in its caches and in the lists that each processor keeps.
    pub(crate) fn now() -> Self {
        for (file, word) in [
            ("drop_caches", "3"),
            ("compact_memory", "1"),
            ("stat_refresh", "1"),
        ] {
            // What a kernel does not have is not in the way.
            let _ = fs::write(Path::new("/proc/sys/vm").join(file), word);
        }
        thread::sleep(Duration::from_secs(1));
        Self {
            free_kib: meminfo_kib("MemFree:"),
        }
    }

    /// Fails if this is less than it was.
    #[track_caller]
    pub(crate) fn assert_not_less_than(&self, before: &Self) {
        let is_less = self.free_kib + HOST_SLACK_KIB < before.free_kib;
        assert!(!is_less, "{before:?}, and later {self:?}");
    }
}

/// Takes nearly all of the host's memory for a moment.
pub(crate) fn fill_memory() {
    const CHUNK: usize = 16 << 20;
    const KEEP_KIB: u64 = 96 << 10;
    let mut held = Vec::new();
    while meminfo_kib("MemAvailable:") > KEEP_KIB + (CHUNK as u64 >> 10) {
        held.push(vec![0xa5_u8; CHUNK]);
    }
    black_box(&held);
}
