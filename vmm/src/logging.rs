//! Diagnostics on standard error that can never disturb the guest.
//!
//! Lines go through a bounded queue to a thread of its own: a full or closed standard error costs
//! lines, which are counted, never a wait and never a panic.

use std::io::{self, Write};
use std::time::Duration;

use log::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

/// Lines that wait for a slow standard error before more are dropped.
const QUEUED_LINES: usize = 1024;

/// Keeps the logger's thread; dropping it writes out what waits, for a bounded time.
#[must_use = "lines are lost when the guard is dropped early"]
pub struct LoggingGuard {
    _worker: WorkerGuard,
}

/// Sends `log`'s records of `level` and above to standard error.
///
/// A second call has no effect but to return another guard.
pub fn start(level: LevelFilter) -> LoggingGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("log")
        .finish(StandardError);
    let installed = env_logger::Builder::new()
        .filter_level(level)
        .format(|buffer, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(buffer, "spapr-vmm: {level}: {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(writer)))
        .try_init();
    // Only a test that starts the logger twice gets here with an error; the first one serves.
    drop(installed);
    LoggingGuard { _worker: worker }
}

/// Standard error without the standard library's buffering, whose failures are swallowed: a line
/// that cannot be written is lost.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _lost = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `message` to standard error whatever the level of logging: what the user has to know, such
/// as why the process ends. Waits at most `patience` for a reader.
pub fn tell(message: &str, patience: Duration) {
    let text = format!("spapr-vmm: {message}\n");
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _lost = io::stderr().write_all(text.as_bytes());
        let _nobody_waits = done.send(());
    });
    let _timed_out = finished.recv_timeout(patience);
}
