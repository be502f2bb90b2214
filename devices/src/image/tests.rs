//! Images through a ring and without one.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::lock::tests::once_free;
use super::operation::{Job, Pieces};
use super::{Completion, Engine, EngineOptions, Image, ImageOptions, Kind, OpenError, Operation};
use crate::dma::DmaMemory;

const RAM_BYTES: usize = 0x4_0000;
const DISK_BYTES: u64 = 0x2_0000;

fn options(path: &Path) -> ImageOptions {
    ImageOptions::new(path.to_owned())
}

struct Fixture {
    folder: tempfile::TempDir,
    ram: GuestMemoryMmap,
    engine: Engine,
}

impl Fixture {
    fn new(uses_ring: bool, direct: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
        let mut options = options(&path);
        options.direct = direct;
        let image = match Image::open(options) {
            // Not each file system does it.
            Err(OpenError::Direct(_)) => return None,
            image => image.unwrap(),
        };
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let options = EngineOptions {
            slots: 8,
            event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            uses_ring,
            prepare_thread: || Ok(()),
        };
        let memory = DmaMemory::by_guest_address(ram.clone());
        let engine = Engine::new(Arc::new(image), memory, options).unwrap();
        // Where the kernel has none, as under qemu-user, there is nothing to try.
        (engine.has_ring() == uses_ring).then_some(Self {
            folder,
            ram,
            engine,
        })
    }

    /// All the ways in which an image may be used here.
    fn all() -> Vec<Self> {
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        let fixtures = ways.map(|(uses_ring, direct)| Self::new(uses_ring, direct));
        fixtures.into_iter().flatten().collect()
    }

    fn perform(
        &mut self,
        operation: Operation,
        offset: u64,
        bytes: u64,
        ranges: &[(u64, usize)],
    ) -> std::io::Result<()> {
        perform(&mut self.engine, operation, offset, bytes, ranges)
    }

    fn file(&self) -> File {
        File::open(self.folder.path().join("image")).unwrap()
    }

    fn on_disk(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.file().read_exact_at(&mut data, offset).unwrap();
        data
    }
}

/// Waits until all is done.
fn wait(engine: &mut Engine) -> Vec<Completion> {
    let mut done = Vec::new();
    while engine.in_flight() != 0 {
        let mut polled = libc::pollfd {
            fd: engine.event().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer is to one structure.
        let count = unsafe { libc::poll(&raw mut polled, 1, 20_000) };
        assert_eq!(count, 1, "nothing is done");
        engine.event().read().unwrap();
        engine.collect(&mut done).unwrap();
    }
    done
}

/// Does one operation with these ranges of memory.
pub(super) fn perform(
    engine: &mut Engine,
    operation: Operation,
    offset: u64,
    bytes: u64,
    ranges: &[(u64, usize)],
) -> std::io::Result<()> {
    let ranges = ranges.iter().map(|&(at, bytes)| (GuestAddress(at), bytes));
    engine.give(3, operation, offset, bytes, ranges).unwrap();
    engine.start().unwrap();
    let [Completion { slot: 3, result }] = <[_; 1]>::try_from(wait(engine)).unwrap() else {
        panic!("another slot")
    };
    result.map_err(|failure| failure.error)
}

#[test]
fn what_is_written_is_read_back_wherever_it_lies_in_memory() {
    for mut fixture in Fixture::all() {
        let data: Vec<u8> = (0..8192_u32)
            .map(|byte| byte.to_le_bytes()[0] ^ 0x5a)
            .collect();
        fixture
            .ram
            .write_slice(&data[..4096], GuestAddress(0x3000))
            .unwrap();
        fixture
            .ram
            .write_slice(&data[4096..], GuestAddress(0x8000))
            .unwrap();
        let write = Operation::Write { durable: true };
        fixture
            .perform(write, 0x1000, 8192, &[(0x3000, 4096), (0x8000, 4096)])
            .unwrap();
        fixture.perform(Operation::Flush, 0, 0, &[]).unwrap();
        assert_eq!(fixture.on_disk(0x1000, 8192), data);
        // Neither aligned nor in pieces of a sector.
        let ranges = [(0x1_0001, 1000), (0x2_0003, 1048)];
        fixture
            .perform(Operation::Read, 0x1200, 2048, &ranges)
            .unwrap();
        let mut back = vec![0; 2048];
        fixture
            .ram
            .read_slice(&mut back[..1000], GuestAddress(0x1_0001))
            .unwrap();
        fixture
            .ram
            .read_slice(&mut back[1000..], GuestAddress(0x2_0003))
            .unwrap();
        assert_eq!(back, data[0x200..0xa00]);
        let reads = fixture.engine.image().counters().tally(Kind::Read);
        assert_eq!((reads.operations, reads.bytes, reads.failed), (1, 2048, 0));
        let writes = fixture.engine.image().counters().tally(Kind::Write);
        assert_eq!((writes.operations, writes.bytes), (1, 8192));
        assert_eq!(fixture.engine.image().counters().highest_write(), 0x3000);
    }
}

#[test]
fn many_pieces_take_more_than_one_call() {
    for mut fixture in Fixture::all() {
        // Each apart from the one before.
        let ranges: Vec<(u64, usize)> = (0..3000).map(|piece| (piece * 32, 16)).collect();
        for &(at, _) in &ranges {
            fixture.ram.write_obj(at.to_le(), GuestAddress(at)).unwrap();
        }
        let write = Operation::Write { durable: false };
        fixture.perform(write, 512, 48_000, &ranges).unwrap();
        let data = fixture.on_disk(512, 48_000);
        for (piece, chunk) in (0_u64..).zip(data.chunks(16)) {
            assert_eq!(chunk[..8], (piece * 32).to_le_bytes());
        }
    }
}

#[test]
fn zeroes_and_discards_leave_the_rest_alone() {
    for mut fixture in Fixture::all() {
        let file = File::options()
            .write(true)
            .open(fixture.folder.path().join("image"))
            .unwrap();
        file.write_all_at(&[0xff; 0x8000], 0).unwrap();
        for (unmaps, offset) in [(false, 0x1200), (true, 0x3400)] {
            let zero = Operation::Zero {
                unmaps,
                durable: true,
            };
            fixture.perform(zero, offset, 0x1000, &[]).unwrap();
            let at = usize::try_from(offset).unwrap();
            let all = fixture.on_disk(0, 0x8000);
            assert!(all[at..at + 0x1000].iter().all(|byte| *byte == 0));
            assert_eq!((all[at - 1], all[at + 0x1000]), (0xff, 0xff));
        }
        fixture
            .perform(Operation::Discard, 0x6000, 0x1000, &[])
            .unwrap();
        let all = fixture.on_disk(0, 0x8000);
        assert_eq!((all[0x5fff], all[0x7000]), (0xff, 0xff));
    }
}

#[test]
fn what_the_file_does_not_have_any_more_is_an_error() {
    for mut fixture in Fixture::all() {
        let path = fixture.folder.path().join("image");
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(0x1000).unwrap();
        let read = fixture.perform(Operation::Read, 0x2000, 512, &[(0, 512)]);
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        let reads = fixture.engine.image().counters().tally(Kind::Read);
        assert_eq!((reads.operations, reads.failed), (0, 1));
        assert!(fixture.engine.image().look_at_size().unwrap());
        assert_eq!(fixture.engine.image().bytes(), 0x1000);
    }
}

#[test]
fn memory_out_of_reach_is_refused_before_anything_is_done() {
    let mut fixture = Fixture::new(false, false).unwrap();
    let far = [(GuestAddress(RAM_BYTES as u64 - 8), 16)];
    let refused = fixture
        .engine
        .give(0, Operation::Read, 0, 16, far.into_iter());
    assert!(refused.is_err());
    assert_eq!(fixture.engine.in_flight(), 0);
}

#[test]
fn an_image_of_another_format_is_not_taken_for_raw_unless_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, b"QFI\xfb then whatever").unwrap();
    let refused = Image::open(options(&path)).unwrap_err().to_string();
    assert!(refused.contains("format qcow2"), "{refused}");
    let mut said = options(&path);
    said.format = Some(super::Format::Raw);
    assert_eq!(Image::open(said).unwrap().bytes(), 0);
    assert!(matches!(
        Image::open(options(folder.path())),
        Err(OpenError::Open(_) | OpenError::Kind)
    ));
    let null = options(Path::new("/dev/null"));
    assert!(matches!(Image::open(null), Err(OpenError::Kind)));
}

#[test]
fn after_a_flush_that_failed_nothing_is_told_to_be_on_the_disk() {
    for mut fixture in Fixture::all() {
        let lost = || std::io::Error::from_raw_os_error(libc::EIO);
        let durable = [
            Operation::Flush,
            Operation::Write { durable: true },
            Operation::Zero {
                unmaps: false,
                durable: true,
            },
        ];
        let is_direct = fixture.engine.image().options().direct;
        fixture.engine.image().flush_failed(&lost());
        // Past the page cache there is nothing that the kernel could forget.
        let flush = fixture.perform(Operation::Flush, 0, 0, &[]);
        assert_eq!(flush.is_ok(), is_direct);
        // But for what is not aligned.
        let write = Operation::Write { durable: false };
        fixture.perform(write, 512, 512, &[(0x101, 512)]).unwrap();
        fixture.engine.image().flush_failed(&lost());
        // Nothing is left of these but to flush, as where that alone has failed.
        for operation in durable {
            let mut job = Job {
                operation,
                offset: 0,
                bytes: 0,
                whole: 0,
                pieces: Pieces::default(),
                through_cache: false,
                since: Instant::now(),
            };
            let result = super::raw::perform(fixture.engine.image(), &mut job);
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        }
    }
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, [0; 1024]).unwrap();
    let first = Image::open(options(&path)).unwrap();
    let refused = Image::open(options(&path)).unwrap_err().to_string();
    assert!(refused.contains("another program has it open"), "{refused}");
    drop(first);
    let mut reads = options(&path);
    reads.read_only = true;
    let _both = [(); 2].map(|()| once_free(|| Image::open(reads.clone())));
    assert!(Image::open(options(&path)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_disk_is_what_was_written_to_it(
        steps in proptest::collection::vec((0_u8..4, 0_u64..200, 1_u64..40, any::<u8>()), 1..40)
    ) {
        for mut fixture in Fixture::all() {
            let mut model = vec![0_u8; usize::try_from(DISK_BYTES).unwrap()];
            for &(what, sector, sectors, byte) in &steps {
                let (offset, bytes) = (sector * 512, sectors * 512);
                let (from, count) = (usize::try_from(offset).unwrap(), usize::try_from(bytes).unwrap());
                let at = 0x1000 + u64::from(byte);
                match what {
                    0 => {
                        fixture.ram.write_slice(&vec![byte; count], GuestAddress(at)).unwrap();
                        let write = Operation::Write { durable: false };
                        fixture.perform(write, offset, bytes, &[(at, count)]).unwrap();
                        model[from..from + count].fill(byte);
                    }
                    1 => {
                        let zero = Operation::Zero { unmaps: byte % 2 == 0, durable: false };
                        fixture.perform(zero, offset, bytes, &[]).unwrap();
                        model[from..from + count].fill(0);
                    }
                    _ => {
                        fixture.perform(Operation::Read, offset, bytes, &[(at, count)]).unwrap();
                        let mut back = vec![0; count];
                        fixture.ram.read_slice(&mut back, GuestAddress(at)).unwrap();
                        prop_assert_eq!(&back, &model[from..from + count]);
                    }
                }
            }
            prop_assert_eq!(fixture.on_disk(0, model.len()), model);
        }
    }
}

#[test]
fn an_image_is_open_by_a_descriptor_that_allows_what_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, [7; 4096]).unwrap();
    let reading = File::open(&path).unwrap();
    let both = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let [reading, both] = [&reading, &both].map(AsRawFd::as_raw_fd);
    let given = |descriptors: &[i32], read_only, direct| ImageOptions {
        descriptors: descriptors.to_vec(),
        read_only,
        direct,
        // Whoever passed a descriptor has it open afterwards, and with it a lock.
        locks: false,
        ..ImageOptions::new("/dev/fdset/3".into())
    };
    assert!(Image::open(given(&[reading], true, false)).is_ok());
    let refused = Image::open(given(&[reading], false, false)).unwrap_err();
    assert!(matches!(refused, OpenError::Open(_)), "{refused}");
    for direct in [false, true] {
        let image = Image::open(given(&[reading, both], false, direct)).unwrap();
        assert_eq!(image.bytes(), 4096);
        assert!(Image::paths(image.options()).is_empty());
    }
}
