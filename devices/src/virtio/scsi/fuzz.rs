//! A driver of a SCSI controller as a fuzzer's bytes have it. Units' files are in memory, and what threads would do of
//! their work is done in the same one after each step, so that a run can be repeated.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Address, CD_BLOCK_BYTES, Scsi, ScsiOptions, UnitKind, UnitOptions};
use crate::dma::DmaMemory;
use crate::image::fuzz::file_in_memory;
use crate::image::{Format, Image, ImageOptions};
use crate::virtio::device::{Device, ServeError};
use crate::virtio::disk::{Disk, DiskHost, DiskOptions};
use crate::virtio::queues::{QUEUE_BYTES, QUEUE_SIZE, Queues, WRITE};

/// The control queue, that of events, and one for requests.
const QUEUES: usize = 3;
const REQUESTS: usize = 2;
const RAM_BYTES: u64 = QUEUES as u64 * QUEUE_BYTES + 0x1_0000;
/// Where data is, and where what goes before and behind it.
const DATA: u64 = QUEUES as u64 * QUEUE_BYTES;
const DISK_BYTES: u64 = 64 << 10;
/// What media have at first, sector by sector.
const FILLING: [u8; 512] = [0x55; 512];
const NEXT: u16 = 1;
/// Bytes of a request before its data, and of its answer, until a driver changes that.
const HEADER_BYTES: u32 = 51;
const ANSWER_BYTES: u32 = 108;
/// Commands that there are, each as likely as any that there are not.
const OPCODES: &[u8] = &[
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1d, 0x1e, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x35,
    0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x88, 0x8a, 0x8e, 0x8f, 0x91, 0x93, 0x9e, 0xa0,
    0xa8, 0xaa, 0xbd,
];
/// Steps of one run at the most.
const MOST_STEPS: usize = 32;
/// How often an operation goes on where it stopped, at the most.
const MOST_TIMES: usize = 64;

/// What the device finds wrong with what its driver did, if anything.
type Outcome = std::result::Result<(), ServeError>;

struct Driver {
    queues: Queues<Scsi>,
}

impl Driver {
    /// With a disk, a drive with a CD, one that is read alone, and an empty drive.
    fn new() -> Self {
        let bytes = usize::try_from(RAM_BYTES).expect("little");
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
        let memory = DmaMemory::by_guest_address(ram.clone());
        let host = DiskHost::new(false, || Ok(())).expect("a descriptor");
        let disk = |read_only, block_bytes| {
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
            let options = DiskOptions {
                queue_size: QUEUE_SIZE,
                logical_block_bytes: block_bytes,
                physical_block_bytes: block_bytes,
                serial: "fuzz".to_owned(),
                ..DiskOptions::default()
            };
            let disk = Disk::without_thread(image, options, memory.clone(), host.clone());
            Arc::new(disk.expect("descriptors"))
        };
        let unit = |target, lun, kind| UnitOptions::new(Address { target, lun }, kind);
        let units = [
            (unit(0, 0, UnitKind::Disk), Some(disk(false, 512))),
            (
                unit(0, 1, UnitKind::CdDrive),
                Some(disk(true, CD_BLOCK_BYTES)),
            ),
            (unit(1, 7, UnitKind::Disk), Some(disk(true, 512))),
            (unit(2, 0, UnitKind::CdDrive), None),
        ];
        let scsi = Scsi::new(ScsiOptions::default(), units, &memory).expect("descriptors");
        let mut queues = Queues::new(scsi.expect("its engines"), ram);
        queues.start();
        Self { queues }
    }

    /// Until nothing is under way.
    fn settle(&mut self) -> Outcome {
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

    fn put(&self, at: u64, data: &[u8]) {
        let written = self.queues.ram.write_slice(data, GuestAddress(at));
        written.expect("memory");
    }

    /// A command by the book, to unit 0 of target 0, with data of that many bytes; its response, status and sense key.
    fn command(&mut self, cdb: &[u8], bytes: u32, reads: bool) -> [u8; 3] {
        let at = Queues::<Scsi>::buffers(REQUESTS);
        self.put(at, &[0; 0x200]);
        self.put(at, &[1, 0, 0x40]);
        self.put(at + 19, cdb);
        let answer = at + 0x100;
        let slot = |index| (REQUESTS, index);
        if bytes == 0 {
            self.queues.descriptor(slot(0), at, HEADER_BYTES, NEXT, 1);
            self.queues
                .descriptor(slot(1), answer, ANSWER_BYTES, WRITE, 0);
        } else if reads {
            self.queues.descriptor(slot(0), at, HEADER_BYTES, NEXT, 1);
            self.queues
                .descriptor(slot(1), answer, ANSWER_BYTES, NEXT | WRITE, 2);
            self.queues.descriptor(slot(2), DATA, bytes, WRITE, 0);
        } else {
            self.queues.descriptor(slot(0), at, HEADER_BYTES, NEXT, 1);
            self.queues.descriptor(slot(1), DATA, bytes, NEXT, 2);
            self.queues
                .descriptor(slot(2), answer, ANSWER_BYTES, WRITE, 0);
        }
        self.queues.offer((REQUESTS, 0));
        let rung = self.queues.ring(REQUESTS);
        rung.and_then(|()| self.settle())
            .expect("a request that makes sense");
        let byte = |at| self.queues.ram.read_obj(GuestAddress(answer + at));
        [11, 10, 14].map(|at| byte(at).expect("memory"))
    }
}

/// Has a driver offer requests, broken ones too, as `bytes` say.
///
/// # Panics
/// When an operation does not end, or the disk does not work after a reset.
pub fn controller(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut driver = Driver::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &mut driver).is_err() {
            break;
        }
    }
    driver.start();
    // It was reset.
    assert_eq!(driver.command(&[0; 6], 0, false), [0, 2, 6]);
    assert_eq!(driver.command(&[0; 6], 0, false), [0; 3]);
    driver.put(DATA, &[0xa5; FILLING.len()]);
    let (write, read) = (
        [0x2a, 0, 0, 0, 0, 3, 0, 0, 1, 0],
        [0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0],
    );
    assert_eq!(driver.command(&write, 512, false), [0; 3]);
    driver.put(DATA, &[0; FILLING.len()]);
    assert_eq!(driver.command(&read, 512, true), [0; 3]);
    let mut got = FILLING;
    let found = driver.queues.ram.read_slice(&mut got, GuestAddress(DATA));
    found.expect("memory");
    assert_eq!(got, [0xa5; FILLING.len()]);
}

fn step(input: &mut Unstructured<'_>, driver: &mut Driver) -> Result<()> {
    let outcome = match input.int_in_range(0..=14u8)? {
        0..=8 => request(input, driver)?,
        9 | 10 => {
            let queue = input.int_in_range(0..=1)?;
            let at = Queues::<Scsi>::buffers(queue);
            let data = [
                input.int_in_range(0..=3)?,
                0,
                0,
                0,
                input.int_in_range(0..=8)?,
            ];
            driver.put(at, &[0; 32]);
            driver.put(at, &data);
            let lun = [
                1,
                input.int_in_range(0..=3)?,
                0x40,
                input.int_in_range(0..=1)?,
            ];
            driver.put(at + 8, &lun);
            driver.put(at + 16, &[input.arbitrary()?]);
            chain(input, driver, queue, [(at, 24), (at + 0x40, 16)])?;
            driver.queues.offer((queue, 0));
            driver.queues.ring(queue)
        }
        11 => {
            let data: [u8; 4] = input.arbitrary()?;
            let offset = *input.choose(&[20, 24, 0, 36])?;
            driver.queues.device.write_config(offset, &data);
            Ok(())
        }
        12 => {
            // Data, of which parameters are read, too.
            let bytes = input.bytes(input.len().min(64))?;
            driver.put(DATA, bytes);
            Ok(())
        }
        13 => driver.settle(),
        _ => {
            driver.start();
            Ok(())
        }
    };
    if outcome.and_then(|()| driver.settle()).is_err() {
        // A driver has to, then.
        driver.start();
    }
    Ok(())
}

/// A command, more or less.
fn request(input: &mut Unstructured<'_>, driver: &mut Driver) -> Result<Outcome> {
    let at = Queues::<Scsi>::buffers(REQUESTS);
    let mut header = [0; 51];
    header[0] = u8::from(!input.ratio(1, 16)?);
    header[1] = input.int_in_range(0..=3)?;
    header[2] = 0x40;
    header[3] = *input.choose(&[0, 1, 7])?;
    header[8] = input.arbitrary()?;
    let cdb: [u8; 15] = input.arbitrary()?;
    header[19] = match input.ratio(1, 16)? {
        true => input.arbitrary()?,
        false => *input.choose(OPCODES)?,
    };
    header[20..35].copy_from_slice(&cdb);
    // Most commands are about what is there, and not much of it.
    if !input.ratio(1, 8)? {
        for place in [2, 3, 4, 6, 7, 10, 11, 12] {
            header[19 + place] &= 0x07;
        }
    }
    driver.put(at, &header);
    let data = 512 * input.int_in_range(0..=8u32)? + u32::from(input.ratio(1, 8)?);
    let parts = match input.int_in_range(0..=2u8)? {
        0 => [(at, HEADER_BYTES), (at + 0x100, ANSWER_BYTES)],
        1 => [(at, HEADER_BYTES), (at + 0x100, ANSWER_BYTES + data)],
        _ => [(at, HEADER_BYTES + data), (at + 0x100, ANSWER_BYTES)],
    };
    chain(input, driver, REQUESTS, parts)?;
    driver.queues.offer((REQUESTS, 0));
    Ok(driver.queues.ring(REQUESTS))
}

/// Two parts of a request, of which the device writes the second, each in one descriptor or in two; or something like
/// that.
fn chain(
    input: &mut Unstructured<'_>,
    driver: &Driver,
    queue: usize,
    parts: [(u64, u32); 2],
) -> Result<()> {
    let mut pieces = Vec::new();
    for (part, (at, bytes)) in (0_u16..).zip(parts) {
        let flags = part * WRITE;
        let first = bytes.min(input.int_in_range(0..=128)?);
        if first != 0 && first != bytes && input.ratio(1, 2)? {
            pieces.push((at, first, flags));
            pieces.push((at + u64::from(first), bytes - first, flags));
        } else {
            pieces.push((at, bytes, flags));
        }
    }
    let last = pieces.len() - 1;
    for (index, piece) in pieces.into_iter().enumerate() {
        let (address, bytes, flags) = match input.int_in_range(0..=31u8)? {
            0 => (input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            _ => piece,
        };
        let next = if index < last { NEXT } else { 0 };
        let place = u16::try_from(index).expect("few");
        let flags = flags & WRITE | next;
        driver
            .queues
            .descriptor((queue, place), address, bytes, flags, place + 1);
    }
    Ok(())
}
