//! A driver of a controller, as tests have it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::cdb;
use super::{Address, CD_BLOCK_BYTES, Scsi, ScsiOptions, UnitKind, UnitOptions};
use crate::dma::DmaMemory;
use crate::image::{Image, ImageOptions};
use crate::virtio::device::{Device, ServeError};
use crate::virtio::disk::{Disk, DiskHost, DiskOptions};
use crate::virtio::queues::{QUEUE_BYTES, Queues, WRITE};

pub(super) const QUEUES: usize = 3;
pub(super) const CONTROL: usize = 0;
pub(super) const EVENTS: usize = 1;
pub(super) const REQUESTS: usize = 2;
pub(super) const DATA: u64 = QUEUES as u64 * QUEUE_BYTES;
/// Nobody is given that.
pub(super) const WATCHED: u64 = DATA + 0x1_0000;
pub(super) const RAM_BYTES: usize = 0x3_0000;
pub(super) const DISK_BYTES: u64 = 1 << 20;
pub(super) const CD_BYTES: u64 = 100 * CD_BLOCK_BYTES as u64;
pub(super) const NEXT: u16 = 1;
pub(super) const HEADER_BYTES: u32 = 51;
pub(super) const ANSWER_BYTES: u32 = 108;
/// Where requests are among a queue's buffers, and their answers.
pub(super) const ANSWER: u64 = 0x100;

/// Which unit: a disk, a drive with a CD, and one without.
pub(super) const DISK: (u8, u8) = (0, 0);
pub(super) const CD: (u8, u8) = (0, 1);
pub(super) const EMPTY: (u8, u8) = (3, 0);

/// What a medium has at first: each 256 bytes are their number's last byte.
pub(super) fn content(bytes: u64) -> Vec<u8> {
    let mut content = Vec::new();
    for at in (0..bytes).step_by(256) {
        content.extend_from_slice(&[at.to_le_bytes()[1]; 256]);
    }
    content
}

pub(super) struct Driver {
    _folder: tempfile::TempDir,
    pub(super) queues: Queues<Scsi>,
    pub(super) disk: Arc<Disk>,
    pub(super) path: PathBuf,
}

/// What a command comes back with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) response: u8,
    pub(super) status: u8,
    pub(super) residual: u32,
    /// Key, code and qualifier.
    pub(super) sense: [u8; 3],
}

pub(super) const GOOD: Answered = Answered {
    response: 0,
    status: 0,
    residual: 0,
    sense: [0; 3],
};

pub(super) fn check(key: u8, code: u8, qualifier: u8) -> ([u8; 3], u8) {
    ([key, code, qualifier], 2)
}

impl Driver {
    pub(super) fn new() -> Self {
        Self::with(&DiskOptions::default(), |disk| disk)
    }

    pub(super) fn with(options: &DiskOptions, made: impl FnOnce(Disk) -> Disk) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let memory = DmaMemory::by_guest_address(ram.clone());
        let host = DiskHost::new(true, || Ok(())).unwrap();
        let disk = |name: &str, bytes: u64, options: DiskOptions| {
            let path = folder.path().join(name);
            fs::write(&path, content(bytes)).unwrap();
            let mut image = ImageOptions::new(path);
            image.read_only = name == "cd";
            let image = Image::open(image).unwrap();
            Disk::new(image, options, memory.clone(), host.clone()).unwrap()
        };
        let of_disk = DiskOptions {
            queue_size: 4,
            serial: "serial-number".to_owned(),
            ..options.clone()
        };
        let of_cd = DiskOptions {
            logical_block_bytes: CD_BLOCK_BYTES,
            physical_block_bytes: CD_BLOCK_BYTES,
            ..DiskOptions::default()
        };
        let (first, second) = (
            disk("disk", DISK_BYTES, of_disk),
            disk("cd", CD_BYTES, of_cd),
        );
        let first = Arc::new(made(first));
        let unit = |(target, lun): (u8, u8), kind| UnitOptions {
            device_id: "drive-scsi0-0-0-0".to_owned(),
            wwn: Some(0x5000_c500_15ea_71ad),
            ..UnitOptions::new(
                Address {
                    target,
                    lun: lun.into(),
                },
                kind,
            )
        };
        let units = [
            (unit(CD, UnitKind::CdDrive), Some(Arc::new(second))),
            (unit(EMPTY, UnitKind::CdDrive), None),
            (unit(DISK, UnitKind::Disk), Some(Arc::clone(&first))),
        ];
        let scsi = Scsi::new(ScsiOptions::default(), units, &memory).unwrap();
        let mut queues = Queues::new(scsi.unwrap(), ram);
        queues.start();
        let mut driver = Self {
            path: folder.path().join("disk"),
            _folder: folder,
            queues,
            disk: first,
        };
        driver.forget_attentions();
        driver
    }

    /// Each unit says once that it was reset.
    pub(super) fn forget_attentions(&mut self) {
        for unit in [DISK, CD, EMPTY] {
            let told = self.command(unit, &[cdb::TEST_UNIT_READY], 0);
            assert_eq!((told.sense, told.status), check(6, 0x29, 0));
        }
    }

    pub(super) fn put(&self, at: u64, data: &[u8]) {
        self.queues.ram.write_slice(data, GuestAddress(at)).unwrap();
    }

    pub(super) fn get(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.queues
            .ram
            .read_slice(&mut data, GuestAddress(at))
            .unwrap();
        data
    }

    pub(super) fn data(&self, bytes: usize) -> Vec<u8> {
        self.get(DATA, bytes)
    }

    pub(super) fn settle(&mut self) -> Result<(), ServeError> {
        let start = Instant::now();
        while self.queues.device.in_flight() != 0 {
            self.queues.collect()?;
            assert!(start.elapsed() < Duration::from_secs(20), "it hangs");
            thread::sleep(Duration::from_micros(50));
        }
        self.queues.collect()
    }

    /// Offers a command with so many bytes of data, which the device writes if that is more than none, or reads.
    pub(super) fn offer(&mut self, (target, lun): (u8, u8), cdb: &[u8], bytes: i32, tag: u8) {
        let at = Queues::<Scsi>::buffers(REQUESTS);
        self.put(at, &[0; 0x100]);
        self.put(at + ANSWER, &[0xee; 0x100]);
        self.put(at, &[1, target, 0x40, lun, 0, 0, 0, 0, tag]);
        self.put(at + 19, cdb);
        let length = bytes.unsigned_abs();
        let answer = (at + ANSWER, ANSWER_BYTES, WRITE);
        let parts = match bytes {
            0 => vec![(at, HEADER_BYTES, 0), answer],
            1.. => vec![(at, HEADER_BYTES, 0), answer, (DATA, length, WRITE)],
            _ => vec![(at, HEADER_BYTES, 0), (DATA, length, 0), answer],
        };
        self.chain(REQUESTS, &parts);
    }

    pub(super) fn chain(&mut self, queue: usize, parts: &[(u64, u32, u16)]) {
        for (index, (address, bytes, flags)) in (0..).zip(parts) {
            let next = if usize::from(index) + 1 < parts.len() {
                NEXT
            } else {
                0
            };
            self.queues
                .descriptor((queue, index), *address, *bytes, flags | next, index + 1);
        }
        self.queues.offer((queue, 0));
    }

    pub(super) fn answered(&self) -> Answered {
        let answer = self.get(Queues::<Scsi>::buffers(REQUESTS) + ANSWER, 30);
        Answered {
            response: answer[11],
            status: answer[10],
            residual: u32::from_le_bytes([answer[4], answer[5], answer[6], answer[7]]),
            sense: match answer[0] {
                0 => [0; 3],
                _ => [answer[14], answer[24], answer[25]],
            },
        }
    }

    /// What a command of that comes back with.
    pub(super) fn command(&mut self, unit: (u8, u8), cdb: &[u8], bytes: i32) -> Answered {
        self.offer(unit, cdb, bytes, 1);
        self.queues.ring(REQUESTS).unwrap();
        self.settle().unwrap();
        self.answered()
    }

    /// What a unit tells, of `bytes` at most.
    pub(super) fn told(&mut self, unit: (u8, u8), cdb: &[u8], bytes: u8) -> Vec<u8> {
        self.put(DATA, &[0xee; 256]);
        let answered = self.command(unit, cdb, bytes.into());
        let told = usize::from(bytes) - answered.residual as usize;
        assert_eq!((answered.response, answered.status), (0, 0), "{answered:?}");
        assert_eq!(self.data(256)[told..], vec![0xee; 256 - told]);
        self.data(told)
    }

    pub(super) fn refusal(&mut self, unit: (u8, u8), cdb: &[u8], bytes: i32) -> ([u8; 3], u8) {
        let answered = self.command(unit, cdb, bytes);
        assert_eq!(answered.response, 0, "{answered:?}");
        (answered.sense, answered.status)
    }

    pub(super) fn function(&mut self, subtype: u8, (target, lun): (u8, u8), tag: u8) -> u8 {
        let at = Queues::<Scsi>::buffers(CONTROL);
        self.put(at, &[0; 64]);
        self.put(at + 4, &[subtype]);
        self.put(at + 8, &[1, target, 0x40, lun]);
        self.put(at + 16, &[tag]);
        self.put(at + 40, &[0xee]);
        self.chain(CONTROL, &[(at, 24, 0), (at + 40, 1, WRITE)]);
        self.queues.ring(CONTROL).unwrap();
        self.get(at + 40, 1)[0]
    }
}

/// A command of ten bytes on blocks.
pub(super) fn on_blocks(opcode: u8, first: u32, blocks: u16) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (first.to_be_bytes(), blocks.to_be_bytes());
    [opcode, 0, a, b, c, d, 0, e, f, 0]
}

pub(super) fn on_many(opcode: u8, flags: u8, first: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(first.to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}
