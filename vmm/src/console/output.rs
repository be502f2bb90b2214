//! What the guest writes, on its way out.
//!
//! A thread of its own writes it, so that a slow or stuck reader never holds a virtual processor.
//! While the queue is full the guest is told to try again; when nothing has moved for
//! [`STUCK_AFTER`], what it writes is dropped, so that a guest's kernel that insists on its
//! message does not hang.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use spapr_devices::vty::{ConsoleSink, SinkStatus};

/// Bytes that wait for the reader.
const QUEUE_BYTES: usize = 64 << 10;

/// How long the reader may make no progress before output is dropped.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the reader.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// A bounded queue of bytes and the thread that writes them out. Clones share the queue.
#[derive(Clone, Debug)]
pub struct OutputQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    writing: bool,
    broken: bool,
    last_progress: Instant,
    dropped_bytes: u64,
}

impl OutputQueue {
    /// A queue whose bytes are written to `output`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(output: File) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                bytes: VecDeque::with_capacity(QUEUE_BYTES),
                writing: false,
                broken: false,
                last_progress: Instant::now(),
                dropped_bytes: 0,
            }),
            changed: Condvar::new(),
        });
        let writer = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let mut output = output;
                let mut chunk = Vec::new();
                // Looks up now and then whether anyone still holds the queue.
                while let Some(shared) = writer.upgrade() {
                    if shared.next_chunk(&mut chunk) {
                        let written = output.write_all(&chunk).and_then(|()| output.flush());
                        shared.wrote(written.is_ok());
                    }
                }
            })?;
        Ok(Self { shared })
    }

    /// Waits until all is written, or for some seconds when the reader is stuck.
    pub fn drain(&self) {
        let state = self.shared.lock();
        let _timed_out = self
            .shared
            .changed
            .wait_timeout_while(state, DRAIN_PATIENCE, |state| {
                !state.broken && (state.writing || !state.bytes.is_empty())
            });
    }

    /// Bytes that were dropped because nobody read them.
    pub fn dropped_bytes(&self) -> u64 {
        self.shared.lock().dropped_bytes
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what waits; false when nothing came for a while.
    fn next_chunk(&self, chunk: &mut Vec<u8>) -> bool {
        let (mut state, _timeout) = self
            .changed
            .wait_timeout_while(self.lock(), Duration::from_millis(500), |s| {
                s.bytes.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        chunk.clear();
        chunk.extend(state.bytes.drain(..));
        state.writing = !chunk.is_empty();
        state.last_progress = Instant::now();
        state.writing
    }

    fn wrote(&self, well: bool) {
        let mut state = self.lock();
        state.writing = false;
        state.broken = !well;
        state.last_progress = Instant::now();
        self.changed.notify_all();
    }
}

impl ConsoleSink for OutputQueue {
    fn try_write(&self, bytes: &[u8]) -> SinkStatus {
        let mut state = self.shared.lock();
        if state.bytes.len() + bytes.len() > QUEUE_BYTES {
            if state.last_progress.elapsed() < STUCK_AFTER {
                return SinkStatus::Busy;
            }
            state.dropped_bytes += bytes.len() as u64;
            return SinkStatus::Accepted;
        }
        state.bytes.extend(bytes);
        self.shared.changed.notify_all();
        SinkStatus::Accepted
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn queue_into_pipe() -> (OutputQueue, std::io::PipeReader) {
        let (reader, writer) = std::io::pipe().expect("pipe");
        (
            OutputQueue::spawn(File::from(OwnedFd::from(writer))).expect("thread"),
            reader,
        )
    }

    #[test]
    fn what_is_written_comes_out_in_order() {
        let (queue, mut reader) = queue_into_pipe();
        assert_eq!(queue.try_write(b"hello "), SinkStatus::Accepted);
        assert_eq!(queue.try_write(b"world"), SinkStatus::Accepted);
        queue.drain();
        let mut text = [0; 11];
        reader.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"hello world");
    }

    #[test]
    fn a_stuck_reader_makes_the_queue_busy_and_later_drops_instead_of_blocking() {
        let (queue, _reader_that_never_reads) = queue_into_pipe();
        let begun = Instant::now();
        let mut busy = 0;
        while queue.dropped_bytes() == 0 {
            if queue.try_write(&[b'x'; 4096]) == SinkStatus::Busy {
                busy += 1;
                thread::sleep(Duration::from_millis(10));
            }
            assert!(
                begun.elapsed() < 20 * STUCK_AFTER,
                "nothing was ever dropped"
            );
        }
        assert!(busy > 0, "the guest was never told to try again");
    }

    #[test]
    fn a_closed_reader_costs_the_bytes_and_nothing_else() {
        let (queue, reader) = queue_into_pipe();
        drop(reader);
        for _ in 0..1000 {
            queue.try_write(&[b'x'; 64]);
        }
        queue.drain();
    }
}
