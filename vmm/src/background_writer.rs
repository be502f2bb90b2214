//! Bytes on their way out, written by a thread of their own, so that a slow, stuck or broken reader
//! never holds who wrote them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sandbox::{self, Role};
use crate::threads;
use spapr_devices::error_chain::chain;

/// The most that is given to the reader in one piece; one that takes it makes progress.
const PIECE_BYTES: usize = 4 << 10;

/// How often the thread looks whether anyone still holds the queue.
const LOOK_UP: Duration = Duration::from_millis(500);

/// There is no room for that many bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How long the reader has taken nothing.
    pub stuck_for: Duration,
}

/// A bounded queue of bytes and the thread that writes them. Clones share the queue.
#[derive(Clone, Debug)]
pub struct BackgroundWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    writing: bool,
    /// Why the last piece could not be written.
    broken: Option<String>,
    last_progress: Instant,
    lost: u64,
}

impl State {
    /// Whether there is something that a reader may still take.
    fn is_busy(&self) -> bool {
        self.broken.is_none() && (self.writing || !self.bytes.is_empty())
    }
}

impl BackgroundWriter {
    /// A queue of at most `most_bytes` whose bytes are written to `output` by a thread called
    /// `name`. The first time that they cannot be, the log has it, with `what` as what is written; when
    /// there is no `what`, it is the caller who tells.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(
        name: &str,
        what: Option<&'static str>,
        most_bytes: usize,
        mut output: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            most_bytes,
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                writing: false,
                broken: None,
                last_progress: Instant::now(),
                lost: 0,
            }),
            changed: Condvar::new(),
        });
        let writer = Arc::downgrade(&shared);
        threads::spawn(name, move || {
            if let Err(error) = sandbox::enter(Role::Writer) {
                log::error!("{}", chain(&error));
                if let Some(shared) = writer.upgrade() {
                    shared.wrote(Err(error));
                }
                return;
            }
            let mut untold = what;
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            while let Some(shared) = writer.upgrade() {
                if !shared.next_piece(&mut piece) {
                    continue;
                }
                let written = output.write_all(&piece).and_then(|()| output.flush());
                if let Err(error) = &written
                    && let Some(what) = untold.take()
                {
                    log::warn!("{what} is lost from here on, while it cannot be written: {error}");
                }
                shared.wrote(written);
            }
        })?;
        Ok(Self { shared })
    }

    /// Queues all of `bytes`, or none of them. When the reader is gone they go nowhere.
    ///
    /// # Errors
    /// [`Full`]; the caller decides whether to come again or to lose them.
    pub fn push(&self, bytes: &[u8]) -> Result<(), Full> {
        let mut state = self.shared.state.lock();
        if state.bytes.len().saturating_add(bytes.len()) > self.shared.most_bytes {
            let stuck_for = state.last_progress.elapsed();
            return Err(Full { stuck_for });
        }
        if !state.writing && state.bytes.is_empty() {
            // There was nothing to take before.
            state.last_progress = Instant::now();
        }
        state.bytes.extend(bytes);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Counts `count` things that were given up because the queue was full.
    pub fn count_lost(&self, count: u64) {
        self.shared.state.lock().lost += count;
    }

    /// What was counted as lost since the last call.
    pub fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.shared.state.lock().lost)
    }

    /// Waits until all is written or the reader is gone, for `patience` at most.
    pub fn drain(&self, patience: Duration) {
        let mut state = self.shared.state.lock();
        let is_busy = |state: &mut State| state.is_busy();
        let changed = &self.shared.changed;
        changed.wait_while_for(&mut state, is_busy, patience);
    }

    /// Waits until all is written or the reader is gone, or has taken nothing for `patience`.
    pub fn drain_unless_stuck(&self, patience: Duration) {
        let mut state = self.shared.state.lock();
        while state.is_busy() {
            let left = patience.saturating_sub(state.last_progress.elapsed());
            if left.is_zero() {
                return;
            }
            self.shared.changed.wait_for(&mut state, left);
        }
    }

    /// Why the last piece could not be written, if it could not: the reader is gone, the disk is
    /// full, the file must not grow.
    pub fn why_broken(&self) -> Option<String> {
        self.shared.state.lock().broken.clone()
    }
}

impl Shared {
    /// Takes what is to be written next; false when nothing came for a while.
    fn next_piece(&self, piece: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock();
        let is_empty = |state: &mut State| state.bytes.is_empty();
        self.changed.wait_while_for(&mut state, is_empty, LOOK_UP);
        piece.clear();
        let length = state.bytes.len().min(PIECE_BYTES);
        piece.extend(state.bytes.drain(..length));
        if !state.writing {
            state.last_progress = Instant::now();
        }
        state.writing = !piece.is_empty();
        state.writing
    }

    fn wrote(&self, result: io::Result<()>) {
        let mut state = self.state.lock();
        state.writing = false;
        state.broken = result.err().map(|error| chain(&error));
        state.last_progress = Instant::now();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    fn into_pipe(most_bytes: usize) -> (BackgroundWriter, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("pipe");
        let writer = BackgroundWriter::spawn("test", None, most_bytes, writer).expect("thread");
        (writer, reader)
    }

    #[test]
    fn what_is_queued_comes_out_in_order() {
        let (writer, mut reader) = into_pipe(1 << 16);
        let text: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
        let expected = text.clone();
        let reading = thread::spawn(move || {
            let mut seen = vec![0; expected.len()];
            reader.read_exact(&mut seen).expect("read");
            assert_eq!(seen, expected);
        });
        for piece in text.chunks(1000) {
            while writer.push(piece).is_err() {
                thread::yield_now();
            }
        }
        writer.drain(Duration::from_secs(10));
        reading.join().expect("all came");
    }

    #[test]
    fn a_reader_that_takes_nothing_is_stuck_until_it_takes_something() {
        let (writer, mut reader) = into_pipe(1 << 16);
        let begun = Instant::now();
        let push = || {
            thread::sleep(Duration::from_millis(1));
            assert!(begun.elapsed() < Duration::from_secs(60), "waits in vain");
            writer.push(&[b'x'; 4096])
        };
        while !push().is_err_and(|full| full.stuck_for >= Duration::from_millis(100)) {}
        let waiting = Instant::now();
        writer.drain_unless_stuck(Duration::from_millis(100));
        assert!(waiting.elapsed() < Duration::from_millis(90), "it is stuck");
        reader.read_exact(&mut [0; 16 << 10]).expect("read");
        while push().is_err() {}
    }

    #[test]
    fn a_reader_that_is_gone_costs_the_bytes_and_nothing_else() {
        let (writer, reader) = into_pipe(1 << 16);
        drop(reader);
        for _ in 0..1000 {
            let _full = writer.push(&[b'x'; 64]);
        }
        writer.drain(Duration::from_secs(10));
        let why = writer.why_broken().expect("broken");
        assert!(why.contains("Broken pipe"), "{why}");
        writer.count_lost(3);
        assert_eq!(writer.take_lost(), 3);
        assert_eq!(writer.take_lost(), 0);
    }
}
