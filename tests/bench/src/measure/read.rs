//! What runs in a Linux guest: reads of a block device past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::AnyError;
use super::busy_reader::BusyReader;
use super::command_line::ReadArguments;
use super::series::{self, BUSY, LATENCY, SERIES, Series};

/// Known data is at the start of the lab's NVMe.
const DATA_BYTES: u64 = 64 << 20;

/// The series of a device: those of a virtio disk, or else of an NVMe.
fn series_of(device: &Path) -> Vec<Series> {
    let name = device.file_name().unwrap_or_default();
    let is_virtio = name.as_encoded_bytes().starts_with(b"vd");
    let kind = if is_virtio { "virtio-" } else { "nvme-" };
    SERIES
        .into_iter()
        .filter(|series| series.name.starts_with(kind))
        .collect()
}

/// Where read `number` begins.
fn offset(series: Series, number: u64) -> u64 {
    let places = DATA_BYTES / series.bytes;
    let place = if series.is_sequential {
        number % places
    } else {
        // Knuth's multiplicative hash: far from one to the next, and the same every time.
        number.wrapping_mul(2_654_435_761) % places
    };
    place * series.bytes
}

/// The device, and how it is read.
enum Device {
    Waiting(File),
    Busy(Box<BusyReader>),
}

impl Device {
    fn open(arguments: &ReadArguments) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&arguments.device)?;
        if arguments.busy {
            Ok(Self::Busy(Box::new(BusyReader::new(file)?)))
        } else {
            Ok(Self::Waiting(file))
        }
    }

    fn suffix(&self) -> &'static str {
        match self {
            Self::Waiting(_) => LATENCY,
            Self::Busy(_) => BUSY,
        }
    }

    fn read(&mut self, piece: &mut [u8], offset: u64) -> io::Result<Duration> {
        match self {
            Self::Waiting(file) => {
                let before = Instant::now();
                file.read_exact_at(piece, offset)?;
                Ok(before.elapsed())
            }
            Self::Busy(reader) => reader.read(piece, offset),
        }
    }
}

/// Makes all series.
///
/// # Errors
/// When the device cannot be read.
pub(crate) fn run(arguments: &ReadArguments) -> Result<(), AnyError> {
    let mut device = Device::open(arguments)?;
    let suffix = device.suffix();
    series::run(
        &series_of(&arguments.device),
        suffix,
        |series, number, piece| device.read(piece, offset(series, number)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_in_the_known_data_and_random_ones_are_apart() {
        for series in [series_of(Path::new("nvme0n1")), series_of(Path::new("vda"))].concat() {
            let offsets: Vec<u64> = (0..series.reads)
                .map(|number| offset(series, number))
                .collect();
            for offset in &offsets {
                assert!(offset % series.bytes == 0 && offset + series.bytes <= DATA_BYTES);
            }
            let follow = offsets
                .windows(2)
                .all(|pair| pair[0] + series.bytes == pair[1]);
            assert_eq!(follow, series.is_sequential);
        }
    }
}
