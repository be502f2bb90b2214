//! What a run of the VMM left behind.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::vmm::Folder;

/// The end of a console or of the messages that is shown when a test fails.
const SHOWN_BYTES: usize = 3000;

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    status: Option<ExitStatus>,
    took: Duration,
    console: String,
    errors: String,
    stats: Option<Value>,
}

/// In the line that says why, on a host without XIVE for guests.
pub(crate) const WHY_XICS: &str = "warn: the guest's interrupt controller is XICS, not XIVE: ";

impl Finished {
    /// Takes what is needed from the run's folder.
    pub(crate) fn new(
        status: Option<ExitStatus>,
        took: Duration,
        console: String,
        errors: String,
        folder: Folder,
    ) -> Self {
        let stats = std::fs::read_to_string(folder.file("stats.json")).ok();
        drop(folder);
        let stats = stats.and_then(|text| serde_json::from_str(&text).ok());
        Self {
            status,
            took,
            console,
            errors,
            stats,
        }
    }

    /// Fails unless the guest powered off and the VMM ended with status 0.
    #[track_caller]
    pub(crate) fn assert_powered_off(self) -> Self {
        self.assert_status(0);
        let outcome = self.stat("/outcome");
        assert_eq!(outcome, "power-off", "{self}");
        self
    }

    /// Fails unless the guest's job ended with status 0 and the guest powered off.
    #[track_caller]
    pub(crate) fn assert_job_done(self) -> Self {
        let finished = self.assert_powered_off();
        assert_eq!(finished.guest("STATUS"), "0", "{finished}");
        finished
    }

    /// Fails unless the VMM ended with status 2 and one message that has all these parts.
    #[track_caller]
    pub(crate) fn assert_refused(&self, parts: &[&str]) {
        self.assert_status(2);
        for part in parts {
            assert!(
                self.errors.contains(part),
                "no {part:?} in the message\n{self}"
            );
        }
        let is_message = |line: &&str| {
            line.strip_prefix("spapr-vmm: ")
                .unwrap_or(line)
                .starts_with("error: ")
        };
        let messages = self.errors.lines().filter(is_message).count();
        assert_eq!(messages, 1, "not one message\n{self}");
        assert_eq!(self.console, "", "something on standard output\n{self}");
    }

    /// Fails unless the VMM ended with this exit status.
    #[track_caller]
    pub(crate) fn assert_status(&self, status: i32) {
        assert_eq!(
            self.status.and_then(|it| it.code()),
            Some(status),
            "exit status\n{self}"
        );
    }

    /// The signal that killed the VMM, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status?.signal()
    }

    /// How long it took.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// All that came on standard output.
    pub(crate) fn console(&self) -> &str {
        &self.console
    }

    /// All that came on standard error.
    pub(crate) fn errors(&self) -> &str {
        &self.errors
    }

    /// Fails if there is a line on standard error, but that one which says why the guest has XICS.
    #[track_caller]
    pub(crate) fn assert_no_complaint(&self) {
        let mut lines = self.errors.lines();
        let complaint = lines.find(|line| !line.contains(WHY_XICS));
        assert_eq!(complaint, None, "{self}");
    }

    /// What the guest printed after `LAB-GUEST-<key>`.
    #[track_caller]
    pub(crate) fn guest(&self, key: &str) -> &str {
        let start = format!("LAB-GUEST-{key} ");
        let value = self
            .console
            .lines()
            .find_map(|line| line.split_once(&start));
        value
            .unwrap_or_else(|| panic!("the guest printed no {start}\n{self}"))
            .1
            .trim()
    }

    /// All that the guest printed after `LAB-GUEST-<key>`, over its lives.
    pub(crate) fn all(&self, key: &str) -> Vec<&str> {
        printed(&self.console, &format!("LAB-GUEST-{key} "))
    }

    /// A value of the statistics, by JSON pointer.
    #[track_caller]
    pub(crate) fn stat(&self, pointer: &str) -> &Value {
        let stats = self
            .stats
            .as_ref()
            .unwrap_or_else(|| panic!("no statistics\n{self}"));
        stats
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in the statistics\n{self}"))
    }

    /// A number of the statistics, by JSON pointer.
    #[track_caller]
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.stat(pointer)
            .as_u64()
            .unwrap_or_else(|| panic!("{pointer} is no number\n{self}"))
    }

    /// How often a TCE hypercall reached the VMM in the first window.
    #[track_caller]
    pub(crate) fn tce_calls(&self, hypercall: &str) -> u64 {
        self.stat("/windows/0/calls")[hypercall]
            .as_u64()
            .unwrap_or(0)
    }
}

/// What the guest printed behind a name, without a last line that has not ended yet.
pub(crate) fn printed<'a>(console: &'a str, name: &str) -> Vec<&'a str> {
    let ended = console.rsplit_once('\n').map_or("", |(ended, _rest)| ended);
    let values = ended.lines().filter_map(|line| line.split_once(name));
    values.map(|(_, value)| value.trim()).collect()
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} after {:?}", self.status, self.took)?;
        writeln!(f, "--- end of standard output\n{}", end_of(&self.console))?;
        writeln!(f, "--- end of standard error\n{}", end_of(&self.errors))?;
        match &self.stats {
            Some(stats) => writeln!(f, "--- statistics\n{stats:#}"),
            None => writeln!(f, "--- no statistics"),
        }
    }
}
