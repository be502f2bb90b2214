//! An image of a disk as a fuzzer's bytes have it, and what a guest does with it. All is done in the same thread, so
//! that a run can be repeated.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::operation::{Job, Pieces};
use super::{Backing, Format, Image, ImageOptions, Operation, raw};
use crate::dma::DmaMemory;

/// Clusters are as small as they may be: what refers to what is near.
const CLUSTER_BYTES: u64 = 512;
/// Where the whole image has its parts, each in a cluster of its own, the header in the first.
const REFCOUNT_TABLE: u64 = CLUSTER_BYTES;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER_BYTES;
const L1: u64 = 3 * CLUSTER_BYTES;
const L2: u64 = 4 * CLUSTER_BYTES;
const DATA: u64 = 5 * CLUSTER_BYTES;
const FILE_BYTES: u64 = 6 * CLUSTER_BYTES;
/// Bytes of its disk: what two L2 tables have.
const DISK_BYTES: u64 = 0x1_0000;
/// What the one cluster with data has.
const FILLING: u8 = 0x55;
/// In an entry: nothing else refers to this cluster.
const COPIED: u64 = 1 << 63;

/// The most bytes that a guest reads or writes at a time.
const MOST_BYTES: u64 = 0x1000;
const RAM_BYTES: usize = 0x2000;
/// Changes of an image, and steps of one run, at the most.
const MOST_CHANGES: usize = 8;
const MOST_STEPS: usize = 32;

/// A file in memory, which is opened by the path that the kernel has for it.
pub(crate) fn file_in_memory() -> (File, PathBuf) {
    // SAFETY: the name is a string that ends, and the kernel keeps no pointer to it.
    let fd = unsafe { libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: nobody else has the descriptor.
    let file = unsafe { File::from_raw_fd(fd) };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

fn little(number: u64) -> usize {
    usize::try_from(number).expect("little")
}

/// An image of the format, version 3, that is whole: one cluster of its disk has data.
fn whole_image() -> Vec<u8> {
    let mut image = vec![0; little(FILE_BYTES)];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = little(at);
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &CLUSTER_BYTES.ilog2().to_be_bytes());
    put(24, &DISK_BYTES.to_be_bytes());
    put(36, &2u32.to_be_bytes());
    put(40, &L1.to_be_bytes());
    put(48, &REFCOUNT_TABLE.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    // Counts of 16 bits, and the header's length.
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(REFCOUNT_TABLE, &REFCOUNT_BLOCK.to_be_bytes());
    for cluster in 0..FILE_BYTES / CLUSTER_BYTES {
        put(REFCOUNT_BLOCK + 2 * cluster, &1u16.to_be_bytes());
    }
    put(L1, &(L2 | COPIED).to_be_bytes());
    put(L2, &(DATA | COPIED).to_be_bytes());
    put(DATA, &vec![FILLING; little(CLUSTER_BYTES)]);
    image
}

/// Changes an image as the bytes say; whether it is another now.
fn change(input: &mut Unstructured<'_>, image: &mut Vec<u8>) -> Result<bool> {
    let count = input.int_in_range(0..=MOST_CHANGES)?;
    for _ in 0..count {
        let at = match input.int_in_range(0..=2u8)? {
            // A field of the header.
            0 => input.int_in_range(0..=28usize)? * 4,
            // An entry of a table.
            1 => little(REFCOUNT_TABLE) + 8 * input.int_in_range(0..=255usize)?,
            _ => input.int_in_range(0..=image.len() - 8)?,
        };
        let value = match input.int_in_range(0..=3u8)? {
            0 => input.arbitrary()?,
            1 => u64::from(input.arbitrary::<u8>()?),
            // An offset, of a cluster that there is or that there may be, with flags.
            _ => (CLUSTER_BYTES * input.int_in_range(0..=15)?) | (input.int_in_range(0..=3)? << 62),
        };
        let bytes = value.to_be_bytes();
        let width = *input.choose(&[1, 2, 4, 8])?;
        image[at..at + width].copy_from_slice(&bytes[8 - width..]);
    }
    let tail = input.int_in_range(0..=64)?;
    image.extend_from_slice(input.bytes(tail)?);
    Ok(count > 0 || tail > 0)
}

struct Guest {
    image: Image,
    ram: GuestMemoryMmap,
    memory: DmaMemory,
    /// What the disk has, where that is known; nothing for an image that may be broken.
    known: Option<Vec<Option<u8>>>,
}

impl Guest {
    fn perform(&self, operation: Operation, offset: u64, bytes: u64) -> io::Result<()> {
        let mut pieces = Pieces::default();
        if matches!(operation, Operation::Read | Operation::Write { .. }) {
            let bytes = little(bytes);
            let is_read = operation == Operation::Read;
            let added = pieces.add(&self.memory, GuestAddress(0x100), bytes, is_read);
            added.expect("memory of the guest's");
        }
        let mut job = Job {
            operation,
            offset,
            bytes,
            whole: bytes,
            pieces,
            through_cache: false,
            since: Instant::now(),
        };
        raw::perform(&self.image, &mut job)
    }

    /// One operation, at a place of the disk, as a device has checked that it is.
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let size = self.image.bytes();
        let sectors = size / 512;
        let sector = match input.int_in_range(0..=3u8)? {
            0 => input.int_in_range(0..=sectors)?,
            1 => sectors - input.int_in_range(0..=8)?.min(sectors),
            _ => input.int_in_range(0..=255)?.min(sectors),
        };
        let offset = 512 * sector;
        let most = MOST_BYTES.min(size - offset);
        let bytes = 512 * input.int_in_range(0..=most / 512)?;
        let durable = input.ratio(1, 4)?;
        let fill: u8 = input.arbitrary()?;
        let (operation, then) = match input.int_in_range(0..=7u8)? {
            0..=2 => (Operation::Read, None),
            3 | 4 => (Operation::Write { durable }, Some(Some(fill))),
            5 => {
                let unmaps = fill & 1 != 0;
                (Operation::Zero { unmaps, durable }, Some(Some(0)))
            }
            6 => (Operation::Discard, Some(None)),
            _ => (Operation::Flush, None),
        };
        let pattern = vec![fill; little(MOST_BYTES)];
        self.ram
            .write_slice(&pattern, GuestAddress(0x100))
            .expect("memory");
        let result = self.perform(operation, offset, bytes);
        if let Some(known) = &mut self.known {
            result.expect("nothing fails with an image that is whole");
            let range = little(offset)..little(offset + bytes);
            let known = &mut known[range];
            if let Some(then) = then {
                known.fill(then);
            }
            if operation == Operation::Read {
                let mut data = vec![0; known.len()];
                let read = self.ram.read_slice(&mut data, GuestAddress(0x100));
                read.expect("memory");
                assert!(agrees(&data, known), "{bytes} bytes at {offset:#x}");
            }
        }
        Ok(())
    }
}

fn agrees(data: &[u8], known: &[Option<u8>]) -> bool {
    let mut pairs = data.iter().zip(known);
    pairs.all(|(byte, known)| known.is_none_or(|known| known == *byte))
}

/// Opens an image that `bytes` have changed, and reads and writes what they say.
///
/// # Panics
/// When an image that is whole is refused, or does not have what was written to it.
pub fn qcow2(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let _end_of_input = run(&mut input);
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut content = whole_image();
    let read_only = input.ratio(1, 8)?;
    let is_changed = change(input, &mut content)?;
    let (file, path) = file_in_memory();
    file.write_all_at(&content, 0).expect("memory");
    let options = ImageOptions {
        format: Some(Format::Qcow2),
        read_only,
        // What an image stands on is named by its maker: no file of this machine is to be read here.
        backing: Backing::Given(None),
        ..ImageOptions::new(path)
    };
    let image = match Image::open(options) {
        Ok(image) => image,
        Err(error) => {
            assert!(is_changed, "an image that is whole is refused: {error}");
            return Ok(());
        }
    };
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).expect("memory");
    let mut known = vec![Some(0); little(DISK_BYTES)];
    known[..little(CLUSTER_BYTES)].fill(Some(FILLING));
    let mut guest = Guest {
        image,
        memory: DmaMemory::by_guest_address(ram.clone()),
        ram,
        known: (!is_changed && !read_only).then_some(known),
    };
    for _ in 0..MOST_STEPS {
        if input.is_empty() || guest.step(input).is_err() {
            break;
        }
    }
    guest.image.settle().or_else(|error| match guest.known {
        Some(_) => panic!("an image that is whole cannot be written: {error}"),
        None => Ok(()),
    })
}
