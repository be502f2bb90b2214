//! What the guest writes, on its way out.
//!
//! While the queue is full the guest is told to try again; when the reader has taken nothing for
//! [`STUCK_AFTER`], what the guest writes is dropped, so that a guest's kernel that insists on its
//! message does not hang.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use spapr_devices::vty::{ConsoleSink, SinkStatus};

use crate::background_writer::BackgroundWriter;

/// Bytes that wait for the reader.
const QUEUE_BYTES: usize = 64 << 10;

/// How long the reader may make no progress before output is dropped.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the reader.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How much of what the guest wrote is remembered, to be shown when it fails: a panic with its traces.
const REMEMBERED_BYTES: usize = 16 << 10;

/// The console's output. Clones are the same.
#[derive(Clone, Debug)]
pub struct OutputQueue {
    writer: BackgroundWriter,
    /// The end of what the guest wrote, whether or not anyone has read it.
    remembered: Arc<Mutex<VecDeque<u8>>>,
}

impl OutputQueue {
    /// A queue whose bytes are written to `output`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(output: impl Write + Send + 'static) -> io::Result<Self> {
        let what = Some("what the guest prints");
        Ok(Self {
            writer: BackgroundWriter::spawn("console", what, QUEUE_BYTES, output)?,
            remembered: Arc::default(),
        })
    }

    /// Waits until all is written, or for some seconds when the reader is stuck; says so when
    /// bytes were dropped.
    pub fn drain(&self) {
        self.writer.drain(DRAIN_PATIENCE);
        let dropped = self.writer.take_lost();
        if dropped != 0 {
            log::warn!("{dropped} bytes of console output were dropped: nobody read them");
        }
    }

    /// The end of what the guest wrote.
    pub(super) fn remembered(&self) -> Vec<u8> {
        let remembered = self.remembered.lock();
        remembered.iter().copied().collect()
    }

    fn remember(&self, bytes: &[u8]) {
        let mut remembered = self.remembered.lock();
        remembered.extend(bytes);
        let surplus = remembered.len().saturating_sub(REMEMBERED_BYTES);
        remembered.drain(..surplus);
    }
}

impl ConsoleSink for OutputQueue {
    fn try_write(&self, bytes: &[u8]) -> SinkStatus {
        match self.writer.push(bytes) {
            Ok(()) => {}
            Err(full) if full.stuck_for < STUCK_AFTER => return SinkStatus::Busy,
            Err(_) => self.writer.count_lost(bytes.len() as u64),
        }
        self.remember(bytes);
        SinkStatus::Accepted
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stuck_reader_makes_the_queue_busy_and_later_drops_instead_of_blocking() {
        let (_reader_that_never_reads, writer) = io::pipe().expect("pipe");
        let queue = OutputQueue::spawn(File::from(OwnedFd::from(writer))).expect("thread");
        let begun = Instant::now();
        let (mut busy, mut dropped) = (0, 0);
        while dropped == 0 {
            if queue.try_write(&[b'x'; 4096]) == SinkStatus::Busy {
                busy += 1;
                thread::sleep(Duration::from_millis(10));
            }
            dropped = queue.writer.take_lost();
            assert!(
                begun.elapsed() < 20 * STUCK_AFTER,
                "nothing was ever dropped"
            );
        }
        assert_eq!(dropped, 4096);
        assert!(busy > 0, "the guest was never told to try again");
    }

    #[test]
    fn the_end_of_what_was_written_is_remembered_and_no_more() {
        let queue = OutputQueue::spawn(io::sink()).expect("thread");
        assert_eq!(queue.remembered(), b"");
        for number in 0..20_000 {
            let line = format!("line {number}\n");
            while queue.try_write(line.as_bytes()) == SinkStatus::Busy {
                thread::yield_now();
            }
        }
        let remembered = queue.remembered();
        assert_eq!(remembered.len(), REMEMBERED_BYTES);
        assert!(remembered.ends_with(b"line 19998\nline 19999\n"));
    }
}
