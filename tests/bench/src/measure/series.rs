//! What runs in a Linux guest: series of things that are timed one by one.
//!
//! Each series is made in some rounds. Before and after each it says so and waits a little, so that
//! whoever watches from outside can look at the VMM in between. Each series is then made again, for the
//! guest's hypercalls to be counted.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use spapr_lab::benchmark::row::{Row, Unit};

use super::AnyError;

/// A huge page of the radix MMU. Each read then lies in one: it is as many pieces to the device wherever in the
/// guest's memory the page came to lie. Pieces more or less are worth some hundred instructions each.
const ALIGNMENT: usize = 2 << 20;
/// How often each series is made.
const ROUNDS: u32 = 3;
/// The time that whoever watches has to look.
const PAUSE: Duration = Duration::from_millis(40);
/// The time that it has to start counting.
const LONG_PAUSE: Duration = Duration::from_millis(200);

/// What the name of a series' row ends in: for reads that are waited for, and for those of a processor
/// that stays busy.
pub(crate) const LATENCY: &str = "-latency";
pub(super) const BUSY: &str = "-busy";

/// A series of reads, or of exchanges over a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: &'static str,
    /// Bytes of each.
    pub(crate) bytes: u64,
    /// How many there are.
    pub(crate) reads: u64,
    /// Whether they follow each other.
    pub(crate) is_sequential: bool,
}

/// All series.
pub(crate) const SERIES: [Series; 7] = [
    Series {
        name: "nvme-random-4k",
        bytes: 4 << 10,
        reads: 400,
        is_sequential: false,
    },
    Series {
        name: "nvme-sequential-1m",
        bytes: 1 << 20,
        reads: 40,
        is_sequential: true,
    },
    Series {
        name: "virtio-random-4k",
        bytes: 4 << 10,
        reads: 400,
        is_sequential: false,
    },
    Series {
        name: "virtio-sequential-1m",
        bytes: 1 << 20,
        reads: 40,
        is_sequential: true,
    },
    Series {
        name: "network-echo-64",
        bytes: 64,
        reads: 400,
        is_sequential: false,
    },
    Series {
        name: "network-send-64k",
        bytes: 64 << 10,
        reads: 100,
        is_sequential: false,
    },
    Series {
        name: "network-receive-64k",
        bytes: 64 << 10,
        reads: 100,
        is_sequential: false,
    },
];

/// Makes all of `series`, each time by `make`, which is given the number, and memory of the series' bytes.
///
/// # Errors
/// Those of `make`.
pub(super) fn run(
    series: &[Series],
    suffix: &str,
    mut make: impl FnMut(Series, u64, &mut [u8]) -> io::Result<Duration>,
) -> Result<(), AnyError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "BENCH-START ticks=0 hertz=1000000000")?;
    let most = SERIES
        .iter()
        .map(|series| series.bytes * series.reads)
        .max();
    let most = usize::try_from(most.unwrap_or(0))?;
    let mut memory = vec![0u8; most + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = memory
        .get_mut(start..start + most)
        .ok_or("memory cannot be aligned")?;
    make_present(buffer)?;
    for &series in series {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            writeln!(stdout, "BENCH-BEGIN {}", series.name)?;
            thread::sleep(PAUSE);
            times.extend(make_all(&mut make, series, buffer)?);
            writeln!(stdout, "BENCH-END {}", series.name)?;
            thread::sleep(PAUSE);
        }
        let bytes = usize::try_from(series.bytes * series.reads)?;
        let name = format!("{}{}", series.name, suffix);
        print_row(&mut stdout, &name, &times, digest(&buffer[..bytes]))?;
    }
    writeln!(stdout, "BENCH-COUNT")?;
    thread::sleep(LONG_PAUSE);
    for &series in series {
        writeln!(stdout, "BENCH-COUNT-BEGIN {}", series.name)?;
        thread::sleep(PAUSE);
        make_all(&mut make, series, buffer)?;
        writeln!(stdout, "BENCH-COUNT-END {}", series.name)?;
        thread::sleep(PAUSE);
    }
    writeln!(stdout, "BENCH-DONE")?;
    Ok(())
}

/// Makes a buffer present that nothing was written to yet, in huge pages where the kernel has them.
fn make_present(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: it says how memory that is ours is to be backed, and changes nothing in it.
    let advised = unsafe {
        libc::madvise(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MADV_HUGEPAGE,
        )
    };
    if advised != 0 {
        let error = io::Error::last_os_error();
        // A kernel without huge pages.
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    buffer.fill(1);
    Ok(())
}

/// The times of a round, in nanoseconds.
fn make_all(
    make: &mut impl FnMut(Series, u64, &mut [u8]) -> io::Result<Duration>,
    series: Series,
    buffer: &mut [u8],
) -> Result<Vec<u64>, AnyError> {
    let mut times = Vec::new();
    let pieces = buffer.chunks_exact_mut(usize::try_from(series.bytes)?);
    for (number, piece) in (0..series.reads).zip(pieces) {
        let taken = make(series, number, piece)?;
        times.push(u64::try_from(taken.as_nanos())?);
    }
    Ok(times)
}

/// A number that stands for bytes: FNV-1a over doublewords.
fn digest(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x100_0000_01b3)
    })
}

/// As the bare-metal guest prints its rows.
fn print_row(
    stdout: &mut impl Write,
    name: &str,
    times: &[u64],
    digest: u64,
) -> Result<(), AnyError> {
    let row = Row::of_samples(name, 1, Unit::Nanoseconds, times).ok_or("a series without reads")?;
    let quantiles: Vec<String> = row.quantiles.iter().map(u64::to_string).collect();
    writeln!(
        stdout,
        "BENCH row={name} n=1 samples={} failed=0 digest={digest:016x} mean={} ticks={}",
        row.samples,
        row.mean,
        quantiles.join(",")
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_row_reads_back() {
        let mut text = Vec::new();
        print_row(&mut text, "nvme", &[3, 1, 2], 7).unwrap();
        let row = Row::parse(&String::from_utf8(text).unwrap(), 1_000_000_000);
        let row = row.unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.median()), ("nvme", 2));
        assert_eq!((row.samples, row.digest), (3, Some(7)));
    }

    #[test]
    fn a_digest_depends_on_every_byte() {
        let zeros = [0u8; 64];
        for at in 0..64 {
            let mut other = zeros;
            other[at] = 1;
            assert_ne!(digest(&other), digest(&zeros));
        }
    }
}
