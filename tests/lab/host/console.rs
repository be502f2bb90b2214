//! What a host's firmware and kernel say: kept in a log, and watched for signs of trouble.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use super::channels::Lines;

/// What skiboot and SLOF say when they hand over to the kernel.
const KERNEL_STARTS: [&str; 2] = ["INIT: Starting kernel", "Booting from memory..."];

/// What a kernel says when it cannot go on, or should not be trusted to.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "Oops: ",
    "kernel BUG at ",
    "BUG: Unable to handle kernel",
    "Machine check interrupt unrecoverable",
];

/// The host's console.
#[derive(Debug)]
pub(super) struct Console {
    log: File,
    lines: Lines,
    number: usize,
    kernel_started: bool,
    last_output: Instant,
    trouble: Option<Trouble>,
}

/// A line that says that the host's kernel is in trouble.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// Its number in the log, from 1.
    pub(super) number: usize,
    pub(super) text: String,
}

impl Console {
    /// A console whose output goes to `log`.
    pub(super) fn new(log: File) -> Self {
        Self {
            log,
            lines: Lines::default(),
            number: 0,
            kernel_started: false,
            last_output: Instant::now(),
            trouble: None,
        }
    }

    /// Takes what the host has printed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // A full disk must not stop the host; the end of the run says enough.
        let _ = self.log.write_all(bytes);
        self.last_output = Instant::now();
        let Self {
            lines,
            number,
            kernel_started,
            trouble,
            ..
        } = self;
        lines.push(bytes, |line| {
            *number += 1;
            *kernel_started |= KERNEL_STARTS.iter().any(|sign| line.contains(sign));
            if trouble.is_none() && FATAL.iter().any(|sign| line.contains(sign)) {
                *trouble = Some(Trouble {
                    number: *number,
                    text: line.trim().to_owned(),
                });
            }
        });
    }

    /// Whether the firmware has started the kernel.
    pub(super) fn kernel_started(&self) -> bool {
        self.kernel_started
    }

    /// When something was printed last.
    pub(super) fn last_output(&self) -> Instant {
        self.last_output
    }

    /// The first line that says that the kernel is in trouble.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> Console {
        Console::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn the_firmwares_hand_over_is_seen() {
        let mut console = console();
        console.push(b"[ 0.1,5] HWPROBE: Begin loop\r\n");
        assert!(!console.kernel_started());
        console.push(b"[ 0.2,5] INIT: Starting ");
        console.push(b"kernel at 0x20000000\r\n");
        assert!(console.kernel_started());
        assert!(console.trouble().is_none());
        let mut of_lpar = self::console();
        of_lpar.push(b"Detected RAM kernel at 400000\r\n  Booting from memory...\r\n");
        assert!(of_lpar.kernel_started());
    }

    #[test]
    fn a_panic_is_reported_with_its_line() {
        let mut console = console();
        console.push(b"one\ntwo\n[    2.1] Kernel panic - not syncing: No working init\nfour\n");
        let trouble = console.trouble().unwrap();
        assert_eq!(trouble.number, 3);
        assert!(trouble.text.contains("No working init"));
    }
}
