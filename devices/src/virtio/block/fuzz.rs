//! A driver of a disk as a fuzzer's bytes have it. The disk's file is in memory, and what a thread would do of its
//! work is done in the same one after each step, so that a run can be repeated.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Block;
use crate::dma::DmaMemory;
use crate::image::fuzz::file_in_memory;
use crate::image::{Format, Image, ImageOptions};
use crate::virtio::device::{Device, ServeError};
use crate::virtio::disk::{Disk, DiskHost, DiskOptions, SECTOR_BYTES};
use crate::virtio::queues::{QUEUE_SIZE, Queues, WRITE};

const RAM_BYTES: u64 = 0x1_0000;
const DISK_BYTES: u64 = 64 * SECTOR_BYTES;
/// What the disk has at first, sector by sector.
const FILLING: [u8; 512] = [0x55; 512];
/// What a driver may have the device do (VIRTIO_BLK_T_*), and one that there is not.
const KINDS: &[u32] = &[0, 1, 4, 8, 11, 13, 0xffff];
const OUT: u32 = 1;
const IN: u32 = 0;
const NEXT: u16 = 1;
/// Steps of one run at the most.
const MOST_STEPS: usize = 32;
/// How often an operation goes on where it stopped, at the most.
const MOST_TIMES: usize = 64;

struct Driver {
    queues: Queues<Block>,
}

impl Driver {
    fn new(read_only: bool) -> Self {
        let (file, path) = file_in_memory();
        for at in (0..DISK_BYTES).step_by(FILLING.len()) {
            file.write_all_at(&FILLING, at).expect("memory");
        }
        let options = ImageOptions {
            format: Some(Format::Raw),
            read_only,
            ..ImageOptions::new(path)
        };
        let image = Image::open(options).expect("a file");
        let bytes = usize::try_from(RAM_BYTES).expect("little");
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
        let memory = DmaMemory::by_guest_address(ram.clone());
        let options = DiskOptions {
            queue_size: QUEUE_SIZE,
            ..DiskOptions::default()
        };
        let host = DiskHost::new(false, || Ok(())).expect("a descriptor");
        let disk = Disk::without_thread(image, options, memory.clone(), host);
        let disk = Arc::new(disk.expect("descriptors"));
        let block = Block::new(disk, memory).expect("its engine");
        let mut queues = Queues::new(block, ram);
        queues.start();
        Self { queues }
    }

    /// Until nothing is under way.
    fn settle(&mut self) -> std::result::Result<(), ServeError> {
        for _ in 0..MOST_TIMES {
            if self.queues.device.in_flight() == 0 {
                break;
            }
            self.queues.device.work();
            self.queues.collect()?;
        }
        let left = self.queues.device.in_flight();
        assert_eq!(left, 0, "operations do not end");
        self.queues.collect()
    }

    fn start(&mut self) {
        // What is under way is for memory that the driver has back then.
        let _whatever = self.settle();
        self.queues.start();
    }

    fn ring(&mut self) -> std::result::Result<(), ServeError> {
        let served = self.queues.ring(0);
        self.settle()?;
        served
    }

    fn put(&self, at: u64, data: &[u8]) {
        let written = self.queues.ram.write_slice(data, GuestAddress(at));
        written.expect("memory");
    }

    fn header(&self, kind: u32, sector: u64) {
        let at = Queues::<Block>::buffers(0);
        self.put(at, &kind.to_le_bytes());
        self.put(at + 8, &sector.to_le_bytes());
    }

    /// A request by the book, of one sector; its status.
    fn request(&mut self, kind: u32, sector: u64, data: u64) -> u8 {
        let at = Queues::<Block>::buffers(0);
        self.header(kind, sector);
        self.put(at + 16, &[0xee]);
        let writes = if kind == IN { WRITE } else { 0 };
        self.queues.descriptor((0, 0), at, 16, NEXT, 1);
        let bytes = u32::try_from(SECTOR_BYTES).expect("little");
        self.queues
            .descriptor((0, 1), data, bytes, NEXT | writes, 2);
        self.queues.descriptor((0, 2), at + 16, 1, WRITE, 0);
        self.queues.offer((0, 0));
        self.ring().expect("a request that makes sense");
        self.queues
            .ram
            .read_obj(GuestAddress(at + 16))
            .expect("memory")
    }
}

/// Has a driver offer requests, broken ones too, as `bytes` say.
///
/// # Panics
/// When an operation does not end, or the disk does not work after a reset.
pub fn disk(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let read_only = input.ratio(1, 8).unwrap_or_default();
    let mut driver = Driver::new(read_only);
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &mut driver).is_err() {
            break;
        }
    }
    driver.start();
    let data = 2 * Queues::<Block>::buffers(0);
    driver.put(data, &[0xa5; FILLING.len()]);
    let written = driver.request(OUT, 3, data);
    assert_eq!(written, u8::from(read_only));
    assert_eq!(driver.request(IN, 3, data), 0);
    let mut read = [0; FILLING.len()];
    let got = driver.queues.ram.read_slice(&mut read, GuestAddress(data));
    got.expect("memory");
    assert!(read_only || read == [0xa5; FILLING.len()]);
}

fn step(input: &mut Unstructured<'_>, driver: &mut Driver) -> Result<()> {
    let buffers = Queues::<Block>::buffers(0);
    match input.int_in_range(0..=7u8)? {
        0 | 1 => {
            let kind = *input.choose(KINDS)?;
            let sector = match input.ratio(1, 8)? {
                true => input.arbitrary()?,
                false => input.int_in_range(0..=DISK_BYTES / SECTOR_BYTES)?,
            };
            driver.header(kind, sector);
        }
        // What is discarded: sector, number, flags.
        2 => {
            let sector: u64 = input.int_in_range(0..=DISK_BYTES / SECTOR_BYTES)?;
            driver.put(buffers + 0x100, &sector.to_le_bytes());
            let data: [u8; 8] = input.arbitrary()?;
            driver.put(buffers + 0x108, &data);
        }
        3..=5 => {
            // Header, data in some descriptors, status; or something like that.
            let count = input.int_in_range(1..=QUEUE_SIZE - 1)?;
            for index in 0..=count {
                let usual = match index {
                    0 => (buffers, 16, 0),
                    _ if index == count => (buffers + 16, 1, WRITE),
                    _ => {
                        let at = buffers + 0x100 + 8 * u64::from(input.arbitrary::<u8>()?);
                        let bytes = 16 * input.int_in_range(0..=96u32)?;
                        (at, bytes, WRITE * input.int_in_range(0..=1)?)
                    }
                };
                let (address, bytes, writes) = match input.int_in_range(0..=15u8)? {
                    0 => (input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
                    _ => usual,
                };
                let next = if index < count { NEXT } else { 0 };
                let descriptor = (address, bytes, writes | next, index + 1);
                let (address, bytes, flags, next) = descriptor;
                driver
                    .queues
                    .descriptor((0, index), address, bytes, flags, next);
            }
            driver.queues.offer((0, 0));
            if driver.ring().is_err() {
                driver.start();
            }
        }
        6 => {
            let data: [u8; 4] = input.arbitrary()?;
            let offset = input.int_in_range(0..=64)?;
            driver.queues.device.write_config(offset, &data);
        }
        _ => driver.start(),
    }
    Ok(())
}
