//! A driver of a disk, and one that says what it likes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Block;
use crate::dma::DmaMemory;
use crate::image::{Image, ImageOptions, Kind};
use crate::virtio::device::{Device, ServeError, Served};
use crate::virtio::disk::{Disk, DiskFailures, DiskHost, DiskOptions, ErrorPolicy};

const RAM_BYTES: usize = 0x2_0000;
const DESCRIPTORS: u64 = 0x1000;
const DRIVER_RING: u64 = 0x2000;
const DEVICE_RING: u64 = 0x3000;
/// Header, data, status of the driver that goes by the book.
pub(super) const HEADER: u64 = 0x4000;
pub(super) const STATUS: u64 = 0x4800;
pub(super) const DATA: u64 = 0x5000;
/// What nobody is given.
const WATCHED: u64 = 0x1_0000;
pub(super) const QUEUE_SIZE: u16 = 8;
pub(super) const DISK_BYTES: u64 = 64 << 10;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

pub(super) const OK: u8 = 0;
pub(super) const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

pub(super) struct Driver {
    pub(super) folder: tempfile::TempDir,
    pub(super) ram: GuestMemoryMmap,
    pub(super) memory: DmaMemory,
    pub(super) disk: Arc<Disk>,
    pub(super) block: Block,
    queue: Queue,
    offered: u16,
}

fn disk(path: PathBuf, ram: &GuestMemoryMmap, read_only: bool, on_error: ErrorPolicy) -> Disk {
    let mut options = ImageOptions::new(path);
    options.read_only = read_only;
    let image = Image::open(options).unwrap();
    let options = DiskOptions {
        serial: "a-serial-number-too-long-for-it".to_owned(),
        queue_size: QUEUE_SIZE,
        on_error,
        ..DiskOptions::default()
    };
    let memory = DmaMemory::by_guest_address(ram.clone());
    let host = DiskHost::new(true, || Ok(())).unwrap();
    Disk::new(image, options, memory, host).unwrap()
}

impl Driver {
    fn new(read_only: bool) -> Self {
        Self::of(|path, ram| disk(path, ram, read_only, ErrorPolicy::default()))
    }

    /// One whose disk tells `failures` and does that about them.
    pub(super) fn telling(failures: &Arc<DiskFailures>, on_error: ErrorPolicy) -> Self {
        Self::of(|path, ram| disk(path, ram, false, on_error).telling(Arc::clone(failures), 3))
    }

    fn of(make: impl FnOnce(PathBuf, &GuestMemoryMmap) -> Disk) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let content: Vec<u8> = (0..DISK_BYTES).map(|at| at.to_le_bytes()[1]).collect();
        fs::write(&path, content).unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let disk = Arc::new(make(path, &ram));
        let memory = DmaMemory::by_guest_address(ram.clone());
        let block = Block::new(Arc::clone(&disk), memory.clone()).unwrap();
        let mut driver = Self {
            folder,
            ram,
            memory,
            disk,
            block,
            queue: Queue::new(QUEUE_SIZE).unwrap(),
            offered: 0,
        };
        driver.start();
        driver
    }

    /// A queue anew, with empty rings.
    pub(super) fn start(&mut self) {
        self.block.reset();
        self.block.start(self.block.features());
        self.ram
            .write_slice(&[0; 0x3000], GuestAddress(DESCRIPTORS))
            .unwrap();
        self.queue.reset();
        self.queue.set_size(QUEUE_SIZE);
        self.queue
            .try_set_desc_table_address(GuestAddress(DESCRIPTORS))
            .unwrap();
        self.queue
            .try_set_avail_ring_address(GuestAddress(DRIVER_RING))
            .unwrap();
        self.queue
            .try_set_used_ring_address(GuestAddress(DEVICE_RING))
            .unwrap();
        self.queue.set_ready(true);
        self.offered = 0;
    }

    pub(super) fn descriptor(
        &self,
        index: u64,
        (address, bytes, flags, next): (u64, u32, u16, u16),
    ) {
        let mut all = Vec::new();
        all.extend(address.to_le_bytes());
        all.extend(bytes.to_le_bytes());
        all.extend(flags.to_le_bytes());
        all.extend(next.to_le_bytes());
        let at = GuestAddress(DESCRIPTORS + 16 * index);
        self.ram.write_slice(&all, at).unwrap();
    }

    pub(super) fn offer(&mut self, head: u16) {
        let entry = DRIVER_RING + 4 + 2 * u64::from(self.offered % QUEUE_SIZE);
        self.ram
            .write_obj(head.to_le(), GuestAddress(entry))
            .unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.ram
            .write_obj(self.offered.to_le(), GuestAddress(DRIVER_RING + 2))
            .unwrap();
    }

    /// Waits until the host works on nothing.
    pub(super) fn drain(&mut self) {
        let start = Instant::now();
        loop {
            self.block.collect().unwrap();
            if self.block.in_flight() == 0 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it hangs");
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// What the function does with a device when a doorbell rings, until all is done.
    pub(super) fn serve(&mut self) -> Result<(), ServeError> {
        for _ in 0..16 {
            let served = self.block.serve(0, &mut self.queue, &self.memory);
            self.drain();
            let served = served?;
            while let Some(done) = self.block.next_done(&self.memory)? {
                self.queue.add_used(&self.memory, done.head, done.written)?;
            }
            if served == Served::All {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A request by the book, with data of that many bytes that the device reads or writes.
    pub(super) fn request(&mut self, kind: u32, sector: u64, bytes: u32, writes: bool) -> u8 {
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.ram.write_slice(&header, GuestAddress(HEADER)).unwrap();
        self.ram.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        let data_flags = NEXT | if writes { WRITE } else { 0 };
        if bytes == 0 {
            self.descriptor(0, (HEADER, 16, NEXT, 2));
        } else {
            self.descriptor(0, (HEADER, 16, NEXT, 1));
        }
        self.descriptor(1, (DATA, bytes, data_flags, 2));
        self.descriptor(2, (STATUS, 1, WRITE, 0));
        self.offer(0);
        self.serve().unwrap();
        self.ram.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = Vec::new();
        range.extend(sector.to_le_bytes());
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        self.ram.write_slice(&range, GuestAddress(DATA)).unwrap();
        self.request(kind, 0, 16, false)
    }

    pub(super) fn data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.ram.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    pub(super) fn on_disk(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let file = File::open(self.folder.path().join("image")).unwrap();
        file.read_exact_at(&mut data, offset).unwrap();
        data
    }
}

#[test]
fn a_driver_reads_writes_and_flushes() {
    let mut driver = Driver::new(false);
    assert_eq!(driver.request(IN, 3, 1024, true), OK);
    assert_eq!(driver.data(1024), driver.on_disk(3 * 512, 1024));
    driver
        .ram
        .write_slice(&[0xa5; 1536], GuestAddress(DATA))
        .unwrap();
    assert_eq!(driver.request(OUT, 125, 1536, false), OK);
    assert_eq!(driver.on_disk(125 * 512, 1536), [0xa5; 1536]);
    assert_eq!(driver.request(FLUSH, 0, 0, false), OK);
    let image = driver.disk.image();
    let counted = [Kind::Read, Kind::Write, Kind::Flush].map(|kind| {
        let tally = image.counters().tally(kind);
        (tally.operations, tally.bytes)
    });
    assert_eq!(counted, [(1, 1024), (1, 1536), (1, 0)]);
}

#[test]
fn a_serial_number_is_as_long_as_there_is_room() {
    let mut driver = Driver::new(false);
    assert_eq!(driver.request(GET_ID, 0, 20, true), OK);
    assert_eq!(driver.data(20), b"a-serial-number-too-");
    driver
        .ram
        .write_slice(&[0xff; 64], GuestAddress(DATA))
        .unwrap();
    assert_eq!(driver.request(GET_ID, 0, 64, true), OK);
    assert_eq!(driver.data(21)[19..], [b'-', 0xff]);
    assert_eq!(driver.request(GET_ID, 0, 0, true), OK);
}

#[test]
fn what_cannot_be_fails_and_the_disk_stays_as_it_is() {
    let sectors = DISK_BYTES / 512;
    let mut driver = Driver::new(false);
    let before = driver.on_disk(0, 64 << 10);
    for (kind, sector, bytes) in [
        (IN, sectors, 512),
        (IN, sectors - 1, 1024),
        (OUT, sectors, 512),
        (OUT, u64::MAX / 512, 1024),
        (OUT, u64::MAX, 512),
        (IN, 0, 100),
        (OUT, 0, 1000),
    ] {
        let status = driver.request(kind, sector, bytes, kind == IN);
        assert_eq!(status, FAILED, "{kind} {sector} {bytes}");
    }
    for kind in [2, 3, 5, 99, u32::MAX] {
        assert_eq!(driver.request(kind, 0, 512, true), UNSUPPORTED);
    }
    assert_eq!(driver.request(DISCARD, 0, 8, false), FAILED);
    assert_eq!(driver.range(DISCARD, sectors, 1, 0), FAILED);
    assert_eq!(driver.range(DISCARD, 0, u32::MAX, 0), FAILED);
    assert_eq!(driver.range(DISCARD, 0, 1, 1), UNSUPPORTED);
    assert_eq!(driver.range(WRITE_ZEROES, 1, 1, 2), UNSUPPORTED);
    assert_eq!(driver.range(WRITE_ZEROES, u64::MAX, 1, 0), FAILED);
    assert_eq!(driver.on_disk(0, 64 << 10), before);
    let writes = driver.disk.image().counters().tally(Kind::Write);
    assert_eq!((writes.operations, writes.invalid), (0, 4));
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let mut driver = Driver::new(false);
    assert_eq!(driver.range(WRITE_ZEROES, 2, 4, 0), OK);
    assert_eq!(driver.on_disk(1024, 2048), [0; 2048]);
    assert_eq!(driver.range(WRITE_ZEROES, 32, 4, 1), OK);
    assert_eq!(driver.on_disk(32 * 512, 2048), [0; 2048]);
    assert_eq!(driver.range(DISCARD, 64, 16, 0), OK);
    assert_eq!(driver.on_disk(80 * 512, 2), [80 * 2, 80 * 2]);
}

#[test]
fn a_read_only_disk_is_not_written_to() {
    let mut driver = Driver::new(true);
    let before = driver.on_disk(0, 64 << 10);
    assert_eq!(driver.request(OUT, 0, 512, false), FAILED);
    assert_eq!(driver.range(DISCARD, 0, 8, 0), FAILED);
    assert_eq!(driver.range(WRITE_ZEROES, 0, 8, 1), FAILED);
    assert_eq!(driver.request(IN, 0, 512, true), OK);
    assert_eq!(driver.request(FLUSH, 0, 0, false), OK);
    assert_eq!(driver.on_disk(0, 64 << 10), before);
}

#[test]
fn a_request_without_header_or_status_stops_the_device() {
    let broken: [&[(u64, u32, u16, u16)]; 4] = [
        &[(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)],
        &[(HEADER, 16, 0, 0)],
        &[(HEADER, 16, NEXT, 1), (STATUS, 0, WRITE, 0)],
        &[(STATUS, 1, WRITE | NEXT, 1), (HEADER, 16, 0, 0)],
    ];
    for chain in broken {
        let mut driver = Driver::new(false);
        for (index, &descriptor) in (0..).zip(chain) {
            driver.descriptor(index, descriptor);
        }
        driver.offer(0);
        assert!(matches!(driver.serve(), Err(ServeError::Request(_))));
        driver.start();
        assert_eq!(driver.request(IN, 0, 512, true), OK);
    }
}

#[test]
fn a_disk_has_one_device_at_a_time_and_keeps_its_image() {
    let driver = Driver::new(false);
    let memory = driver.memory.clone();
    assert!(Block::new(Arc::clone(&driver.disk), memory.clone()).is_none());
    let disk = Arc::clone(&driver.disk);
    drop(driver.block);
    assert!(Block::new(disk, memory).is_some());
}

#[test]
fn a_resized_disk_says_so() {
    let mut driver = Driver::new(false);
    let sectors = |block: &Block| {
        let mut data = [0; 8];
        block.read_config(0, &mut data);
        u64::from_le_bytes(data)
    };
    assert_eq!(sectors(&driver.block), DISK_BYTES / 512);
    assert!(!driver.block.config_has_changed());
    driver.disk.resize(2 * DISK_BYTES).unwrap();
    assert!(driver.block.config_has_changed());
    assert!(!driver.block.config_has_changed());
    assert_eq!(sectors(&driver.block), 2 * DISK_BYTES / 512);
    assert_eq!(driver.request(OUT, 3 * DISK_BYTES / 1024, 512, false), OK);
    assert!(driver.disk.resize(1000).is_err());
}

/// A descriptor as a hostile driver may have it.
fn any_descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        8 => HEADER..WATCHED,
        1 => (RAM_BYTES as u64 - 64)..(RAM_BYTES as u64 + 64),
        1 => any::<u64>(),
    ];
    let bytes = prop_oneof![
        3 => Just(16_u32),
        3 => Just(1_u32),
        4 => (0_u32..5).prop_map(|sectors| sectors * 512),
        3 => 0_u32..3000,
        1 => any::<u32>(),
    ];
    let flags = prop_oneof![
        3 => Just(NEXT),
        3 => Just(WRITE | NEXT),
        3 => Just(WRITE),
        1 => Just(0),
        1 => any::<u16>().prop_map(|flags| flags & !4),
    ];
    (address, bytes, flags, 0..QUEUE_SIZE + 1)
}

fn any_header() -> impl Strategy<Value = (u32, u64)> {
    let kind = prop_oneof![
        8 => prop::sample::select(vec![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]),
        1 => any::<u32>(),
    ];
    let sector = prop_oneof![4 => 0_u64..130, 1 => any::<u64>()];
    (kind, sector)
}

/// Descriptors that a hostile driver writes, and their chains' heads.
type Nonsense = (Vec<(u64, u32, u16, u16)>, Vec<u16>, Vec<(u64, (u32, u64))>);

fn any_nonsense() -> impl Strategy<Value = Nonsense> {
    let headers = prop::collection::vec((HEADER..WATCHED - 16, any_header()), 16);
    let heads = prop::collection::vec(0..QUEUE_SIZE, 1..8);
    let descriptors = prop::collection::vec(any_descriptor(), usize::from(QUEUE_SIZE));
    (descriptors, heads, headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_a_driver_asks_for_nothing_else_is_touched(rounds in prop::collection::vec(any_nonsense(), 1..6)) {
        let mut driver = Driver::new(false);
        for (mut descriptors, heads, headers) in rounds {
            driver.start();
            for (at, (kind, sector)) in headers {
                driver.ram.write_obj(kind.to_le(), GuestAddress(at)).unwrap();
                driver.ram.write_obj(sector.to_le(), GuestAddress(at + 8)).unwrap();
            }
            // A buffer that reaches what is watched would make it the driver's own.
            for (address, bytes, _, _) in &mut descriptors {
                if (HEADER..WATCHED).contains(address) {
                    let most = u32::try_from(WATCHED - *address).unwrap();
                    *bytes = (*bytes).min(most);
                }
            }
            for (index, &descriptor) in (0..).zip(&descriptors) {
                driver.descriptor(index, descriptor);
            }
            let watched: Vec<u8> = (0..0x1000_u32).map(|at| at.to_le_bytes()[0] ^ 0x3c).collect();
            driver.ram.write_slice(&watched, GuestAddress(WATCHED)).unwrap();
            let all: BTreeSet<u16> = heads.iter().copied().collect();
            for head in all {
                driver.offer(head);
            }
            let _whatever = driver.serve();
            driver.drain();
            let mut after = vec![0; 0x1000];
            driver.ram.read_slice(&mut after, GuestAddress(WATCHED)).unwrap();
            prop_assert_eq!(after, watched);
        }
        let length = fs::metadata(driver.folder.path().join("image")).unwrap().len();
        prop_assert_eq!(length, DISK_BYTES);
        driver.start();
        prop_assert_eq!(driver.request(IN, 0, 512, true), OK);
        prop_assert_eq!(driver.data(512), driver.on_disk(0, 512));
    }
}
