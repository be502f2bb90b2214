//! The kernel's own count of TCE calls: how its handlers return (arch/powerpc/kvm/book3s_64_vio.c).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use spapr_lab::tce_returns::TceReturns;

const TRACING: &str = "/sys/kernel/tracing";

/// A handler whose returns are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Handler {
    name: &'static str,
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
    pub(crate) fn returns(&self) -> TceReturns {
        let text = fs::read_to_string(self.file("hist")).expect("no histogram");
        TceReturns::of_histogram(&text).expect("a histogram")
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
