//! A terminal with a log beside it, neither of which waits for the other.
//!
//! A pseudo-terminal has no reader most of the time. The log is, under libvirt, a pipe to a daemon,
//! which may stop reading, or end. What is stuck or gone misses bytes; the other one has them all,
//! and so the guest goes on.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use log::Level;
use spapr_devices::guest_message;

use crate::background_writer::BackgroundWriter;

/// Bytes that wait for a reader before they are lost.
const QUEUE_BYTES: usize = 64 << 10;

/// How long one reader that takes nothing is waited for. Both of them are given up before the guest's
/// output is.
const PATIENCE: Duration = Duration::from_millis(900);

/// The terminal, with its log if there is one.
///
/// # Errors
/// When there are no threads left.
pub(super) fn with_log(
    terminal: impl Write + Send + 'static,
    log: Option<File>,
) -> io::Result<Box<dyn Write + Send>> {
    Ok(match log {
        Some(log) => Box::new(Logged::new(terminal, log)?),
        None => Box::new(terminal),
    })
}

/// What is written goes to both.
struct Logged {
    terminal: BackgroundWriter,
    log: Option<BackgroundWriter>,
}

impl Logged {
    fn new(terminal: impl Write + Send + 'static, log: File) -> io::Result<Self> {
        Ok(Self {
            terminal: BackgroundWriter::spawn(
                "terminal",
                Some("what the guest prints"),
                QUEUE_BYTES,
                terminal,
            )?,
            log: Some(BackgroundWriter::spawn(
                "console log",
                None,
                QUEUE_BYTES,
                log,
            )?),
        })
    }

    fn write_log(&mut self, bytes: &[u8]) {
        let Some(log) = &self.log else {
            return;
        };
        if let Some(why) = log.why_broken() {
            guest_message!(
                Level::Warn,
                "the terminal's log ends here, it cannot be written: {why}"
            );
            self.log = None;
            return;
        }
        if log.push(bytes).is_err() {
            log.count_lost(bytes.len() as u64);
            return;
        }
        let lost = log.take_lost();
        if lost != 0 {
            guest_message!(
                Level::Warn,
                "{lost} bytes are missing in the terminal's log: nobody read it"
            );
        }
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without a reader there is nobody to tell what was lost.
        let _full = self.terminal.push(bytes);
        self.write_log(bytes);
        Ok(bytes.len())
    }

    /// Waits until both have all that was written, unless they are stuck.
    fn flush(&mut self) -> io::Result<()> {
        self.terminal.drain_unless_stuck(PATIENCE);
        if let Some(log) = &self.log {
            log.drain_unless_stuck(PATIENCE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    /// Terminal and log on pipes.
    fn on_pipes() -> (Logged, PipeReader, PipeReader) {
        let (terminal_reader, terminal) = io::pipe().expect("pipe");
        let (log_reader, log) = io::pipe().expect("pipe");
        let log = File::from(OwnedFd::from(log));
        let logged = Logged::new(terminal, log).expect("threads");
        (logged, terminal_reader, log_reader)
    }

    const BYTES: usize = 1_000_000;

    /// Writes more than queues and pipes hold, as the console's thread does.
    fn write_much(mut logged: Logged) {
        let begun = Instant::now();
        for piece in [b'x'; BYTES].chunks(1000) {
            logged.write_all(piece).expect("nothing fails");
            logged.flush().expect("nothing fails");
        }
        assert!(begun.elapsed() < 20 * PATIENCE, "{:?}", begun.elapsed());
    }

    fn count(mut reader: PipeReader) -> std::thread::JoinHandle<usize> {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("read")
        })
    }

    #[test]
    fn both_have_all_once_it_is_flushed() {
        let (mut logged, mut terminal, mut log) = on_pipes();
        for round in 0..1000u32 {
            logged.write_all(&round.to_le_bytes()).expect("write");
            logged.flush().expect("flush");
            for reader in [&mut terminal, &mut log] {
                let mut seen = [0; 4];
                reader.read_exact(&mut seen).expect("read");
                assert_eq!(u32::from_le_bytes(seen), round);
            }
        }
    }

    #[test]
    fn a_log_that_nobody_reads_costs_the_terminal_nothing() {
        let (logged, terminal, _log) = on_pipes();
        let terminal = count(terminal);
        write_much(logged);
        assert_eq!(terminal.join().expect("no panic"), BYTES);
    }

    #[test]
    fn a_terminal_that_nobody_reads_costs_the_log_nothing() {
        let (logged, _terminal, log) = on_pipes();
        let log = count(log);
        write_much(logged);
        assert_eq!(log.join().expect("no panic"), BYTES);
    }

    #[test]
    fn a_log_whose_reader_is_gone_costs_the_terminal_nothing() {
        let (logged, terminal, log) = on_pipes();
        drop(log);
        let terminal = count(terminal);
        write_much(logged);
        assert_eq!(terminal.join().expect("no panic"), BYTES);
    }

    #[test]
    fn a_log_that_is_read_again_goes_on() {
        let (mut logged, terminal, mut log) = on_pipes();
        let terminal = count(terminal);
        for _ in 0..300 {
            logged.write_all(&[b'x'; 1000]).expect("nothing fails");
            logged.flush().expect("nothing fails");
        }
        let mut chunk = [0; 4096];
        let mut seen = 0;
        while seen < 100_000 {
            seen += log.read(&mut chunk).expect("read");
        }
        let log = count(log);
        for _ in 0..10 {
            logged.flush().expect("nothing fails");
        }
        logged.write_all(b"last").expect("nothing fails");
        logged.flush().expect("nothing fails");
        drop(logged);
        let all = terminal.join().expect("no panic");
        assert_eq!(all, 300_004);
        let logged = seen + log.join().expect("no panic");
        assert!((100_004..all).contains(&logged), "{logged}");
    }
}
