//! Diagnostics on standard error that can never disturb the guest.
//!
//! Lines go through a bounded queue to a thread of its own: a full or closed standard error costs
//! lines, never a wait and never a panic. Lines that were lost are counted and told of as soon as
//! there is room again.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use log::LevelFilter;
use time::OffsetDateTime;

use crate::background_writer::BackgroundWriter;
use crate::console;

/// Bytes that wait for a slow standard error before lines are lost.
const QUEUE_BYTES: usize = 128 << 10;

/// How long the end of the process waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// What every line begins with, beside the program's name.
#[derive(Debug, Default)]
pub struct Prefix {
    /// The time, in UTC.
    pub timestamps: bool,
    /// The guest's name.
    pub guest_name: Option<String>,
}

static PREFIX: OnceLock<Prefix> = OnceLock::new();

impl Prefix {
    /// Has lines begin with this from now on; the first call counts.
    pub fn set(self) {
        let _set_before = PREFIX.set(self);
    }
}

/// The beginning of a line that is written now.
struct Beginning<'a>(Option<&'a Prefix>);

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = self.0 {
            if prefix.timestamps {
                let now = OffsetDateTime::now_utc();
                let (date, time) = (now.date(), now.time());
                let (hour, minute, second, microsecond) = time.as_hms_micro();
                write!(
                    f,
                    "{date}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}Z "
                )?;
            }
            if let Some(name) = &prefix.guest_name {
                write!(f, "{name} ")?;
            }
        }
        f.write_str("spapr-vmm: ")
    }
}

/// Dropping it writes out what waits, for a bounded time.
#[must_use = "lines are lost when the process ends without it"]
pub struct LoggingGuard {
    lines: Option<BackgroundWriter>,
}

/// Sends `log`'s records of `level` and above to standard error. When there is no thread for it, whoever
/// logs writes, as far as there is room at that moment.
///
/// A second call has no effect but to return another guard.
pub fn start(level: LevelFilter) -> LoggingGuard {
    let lines = BackgroundWriter::spawn("log", None, QUEUE_BYTES, io::stderr()).ok();
    let target: Box<dyn Write + Send> = match &lines {
        Some(lines) => Box::new(Lines(lines.clone())),
        None => Box::new(LinesFromHere),
    };
    let installed = env_logger::Builder::new()
        .filter_level(level)
        // It says what a guest's driver does wrong, as often as that does it; this program says so, too, and
        // limits it.
        .filter_module("virtio_queue", LevelFilter::Off)
        .format(|buffer, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            let end = if console::is_raw() { "\r\n" } else { "\n" };
            let beginning = Beginning(PREFIX.get());
            write!(buffer, "{beginning}{level}: {}{end}", record.args())
        })
        .target(env_logger::Target::Pipe(target))
        .try_init();
    // Only a test that starts the logger twice gets here with an error; the first one serves.
    drop(installed);
    LoggingGuard { lines }
}

impl Drop for LoggingGuard {
    fn drop(&mut self) {
        if let Some(lines) = &self.lines {
            lines.drain(PATIENCE);
        }
    }
}

/// The queue as the logger writes to it: one line at a time.
struct Lines(BackgroundWriter);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.push(line).is_err() {
            self.0.count_lost(1);
            return Ok(line.len());
        }
        let lost = self.0.take_lost();
        if lost != 0 {
            let beginning = Beginning(PREFIX.get());
            let note = format!("{beginning}warn: {lost} lines of this log were lost before\n");
            if self.0.push(note.as_bytes()).is_err() {
                self.0.count_lost(lost);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error as the logger writes to it when there is no thread for it.
struct LinesFromHere;

impl Write for LinesFromHere {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_from_here(line, Duration::ZERO);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `message` to standard error whatever the level of logging: what the user has to know,
/// such as why the process ends. Waits a second at most for a reader.
pub fn tell(message: &str) {
    let end = if console::is_raw() { "\r\n" } else { "\n" };
    let line = format!("{}{message}{end}", Beginning(PREFIX.get()));
    match BackgroundWriter::spawn("last words", None, QUEUE_BYTES, io::stderr()) {
        Ok(writer) => {
            let _too_long = writer.push(line.as_bytes());
            writer.drain(PATIENCE);
            if writer.why_broken().is_some() {
                // The thread was refused its filter, or there is no reader.
                write_from_here(line.as_bytes(), Duration::ZERO);
            }
        }
        Err(_no_thread) => write_from_here(line.as_bytes(), PATIENCE),
    }
}

/// Writes to standard error on this thread; each piece as soon as there is room for it, and not at all
/// when that takes longer than `patience`.
fn write_from_here(bytes: &[u8], patience: Duration) {
    let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    for piece in bytes.chunks(libc::PIPE_BUF) {
        let mut stream = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: the pointer is good for one pollfd.
        let ready = unsafe { libc::poll(&raw mut stream, 1, milliseconds) };
        // A pipe that is ready takes this much without a wait.
        if ready != 1 || io::stderr().write_all(piece).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_as_asked_for() {
        assert_eq!(Beginning(None).to_string(), "spapr-vmm: ");
        let prefix = Prefix {
            timestamps: true,
            guest_name: Some("g1".to_owned()),
        };
        let line = Beginning(Some(&prefix)).to_string();
        let (time, rest) = line.split_once(' ').expect("two words");
        assert_eq!(rest, "g1 spapr-vmm: ");
        assert_eq!(time.len(), "2026-11-22T18:03:11.123456Z".len(), "{time}");
    }

    /// Where a file logs without a limit.
    fn unlimited(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                unlimited(&path, found);
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source file");
            for macro_name in ["log::error!", "log::warn!", "log::info!"] {
                if source.contains(macro_name) {
                    found.push(format!("{} has {macro_name}", path.display()));
                }
            }
        }
    }

    #[test]
    fn what_each_life_of_a_machine_says_is_limited_for_a_guest_that_reboots_in_a_loop() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        for folder in ["src/machine", "kvm/src", "src/vcpu", "../devices/src"] {
            unlimited(&root.join(folder), &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}
