//! The kernel's own count of TCE calls: how its handlers return (arch/powerpc/kvm/book3s_64_vio.c).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// What a handler returns to leave the call to user space: H_TOO_HARD
/// (arch/powerpc/include/asm/hvcall.h).
const H_TOO_HARD: i64 = 9999;

const TRACING: &str = "/sys/kernel/tracing";

/// A handler whose returns are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Handler {
    name: &'static str,
}

/// How often a handler returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Returns {
    /// Calls that the kernel answered.
    pub(crate) answered: u64,
    /// Calls that it left to user space.
    pub(crate) left: u64,
}

impl Handler {
    /// Counts the returns of `kvmppc_h_<name>` from now on.
    pub(crate) fn watch(name: &'static str) -> Self {
        let handler = Self { name };
        // Not there unless an earlier test failed half-way.
        let _ = append("kprobe_events", &format!("-:lab/{name}"));
        append(
            "kprobe_events",
            &format!("r:lab/{name} kvmppc_h_{name} status=$retval:s64"),
        )
        .expect("cannot probe the kernel's handler");
        fs::write(handler.file("trigger"), "hist:keys=status").expect("cannot count");
        handler
    }

    /// How often it has returned so far.
    pub(crate) fn returns(&self) -> Returns {
        let text = fs::read_to_string(self.file("hist")).expect("no histogram");
        let mut returns = Returns::default();
        // Lines of `{ status: VALUE } hitcount: COUNT` (Documentation/trace/histogram.rst).
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let mut numbers = line
                .split_whitespace()
                .filter_map(|word| word.parse::<i64>().ok());
            let (status, count) = numbers
                .next()
                .zip(numbers.next())
                .expect("status and count");
            let count = u64::try_from(count).expect("a count");
            match status == H_TOO_HARD {
                true => returns.left += count,
                false => returns.answered += count,
            }
        }
        returns
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{TRACING}/events/lab/{}/{name}", self.name))
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // What cannot be undone here fails the next count, which says so.
        let _ = fs::write(self.file("trigger"), "!hist:keys=status");
        let _ = append("kprobe_events", &format!("-:lab/{}", self.name));
    }
}

fn append(file: &str, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .open(format!("{TRACING}/{file}"))?;
    file.write_all(format!("{line}\n").as_bytes())
}
