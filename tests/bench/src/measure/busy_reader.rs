//! Reads by a processor that stays busy while the device works, so that what they cost can be counted.
//!
//! Where a clock counts instructions, it leaps whenever all processors are idle: how long a read takes
//! that is waited for in idleness is how long the emulator takes to read its disk. Here the processor
//! goes round a loop meanwhile, a fixed number of times, and finds the read done; the loop's own time is
//! taken off. What is left is what the read took: the way to the device, its interrupt, and the way back,
//! of guest and VMM and host.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

/// Rounds of the loop: more than the emulator takes to read 1 MiB.
const ROUNDS: u32 = 150_000;
/// How often the loop alone is timed.
const CALIBRATIONS: usize = 33;

/// Reads a file.
pub(super) struct BusyReader {
    file: File,
    ring: IoUring,
    /// The time of the loop alone.
    idle: Duration,
}

impl BusyReader {
    /// Reads from `file`.
    ///
    /// # Errors
    /// When the kernel has no io_uring.
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file,
            ring: IoUring::new(1)?,
            idle: time_of_going_round(),
        })
    }

    /// Fills `piece` from `offset` on, and returns what that took.
    ///
    /// # Errors
    /// When it cannot be read whole.
    pub(super) fn read(&mut self, piece: &mut [u8], offset: u64) -> io::Result<Duration> {
        let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
        let file = types::Fd(self.file.as_raw_fd());
        let read = opcode::Read::new(file, piece.as_mut_ptr(), length).offset(offset);
        let before = Instant::now();
        // SAFETY: the file stays open, and `piece` is borrowed until the read has ended, which is
        // waited for.
        let pushed = unsafe { self.ring.submission().push(&read.build()) };
        pushed.map_err(io::Error::other)?;
        self.ring.submit()?;
        go_round();
        let done = loop {
            self.ring.submit_and_wait(1)?;
            if let Some(done) = self.ring.completion().next() {
                break done;
            }
        };
        let taken = before.elapsed();
        match u32::try_from(done.result()) {
            Ok(bytes) if bytes == length => Ok(taken.saturating_sub(self.idle)),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-done.result())),
        }
    }
}

/// The time of [`go_round`] alone.
pub(super) fn time_of_going_round() -> Duration {
    let mut times = [Duration::ZERO; CALIBRATIONS];
    for time in &mut times {
        let before = Instant::now();
        go_round();
        *time = before.elapsed();
    }
    times.sort_unstable();
    times[CALIBRATIONS / 2]
}

/// Keeps the processor busy.
pub(super) fn go_round() {
    for round in 0..ROUNDS {
        black_box(round);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_read_is_what_is_there() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(8192).collect();
        file.write_all(&bytes).unwrap();
        // Where the kernel has no io_uring, as under qemu-user, there is nothing to show.
        let Ok(mut reader) = BusyReader::new(file) else {
            return;
        };
        let mut piece = vec![0; 4096];
        reader.read(&mut piece, 256).unwrap();
        assert_eq!(piece, bytes[256..4352]);
        let behind = reader.read(&mut piece, 8000).unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof);
    }
}
