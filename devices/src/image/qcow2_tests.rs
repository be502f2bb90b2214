//! Images of the format qcow2, alone and on others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use imago::qcow2::Qcow2 as Driver;
use imago::{FormatCreateBuilder, StorageOpenOptions};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::tests::perform;
use super::{Backing, Engine, EngineOptions, Format, Image, ImageOptions, OpenError, Operation};
use crate::dma::DmaMemory;

const RAM_BYTES: usize = 0x10_0000;
const DISK_BYTES: u64 = 1 << 20;

/// Makes an image, which stands on `backing`: a name and its format.
fn create(path: &Path, cluster: usize, backing: Option<(&str, &str)>) {
    let file = File::create_new(path).unwrap();
    file.set_len(0).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let how = StorageOpenOptions::new().filename(path).write(true);
    let storage = imago::file::File::from_open_file(file, how).unwrap();
    let builder = Driver::<imago::file::File>::create_builder(storage);
    let mut builder = builder.size(DISK_BYTES).cluster_size(cluster);
    if let Some((name, format)) = backing {
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create().unwrap();
}

fn options(path: &Path) -> ImageOptions {
    ImageOptions {
        format: Some(Format::Qcow2),
        ..ImageOptions::new(path.to_owned())
    }
}

struct Fixture {
    ram: GuestMemoryMmap,
    engine: Engine,
}

impl Fixture {
    fn of(options: ImageOptions) -> Self {
        let image = Image::open(options).unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let memory = DmaMemory::by_guest_address(ram.clone());
        let options = EngineOptions {
            slots: 8,
            event: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            uses_ring: true,
            prepare_thread: || Ok(()),
        };
        let engine = Engine::new(Arc::new(image), memory, options).unwrap();
        assert!(!engine.has_ring());
        Self { ram, engine }
    }

    fn write(&mut self, offset: u64, data: &[u8], durable: bool) {
        self.ram.write_slice(data, GuestAddress(0x100)).unwrap();
        let half = data.len() / 2;
        let ranges = [(0x100, half), (0x100 + half as u64, data.len() - half)];
        let write = Operation::Write { durable };
        perform(&mut self.engine, write, offset, data.len() as u64, &ranges).unwrap();
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Vec<u8> {
        let at = 0x123;
        let ranges = [(at, bytes)];
        perform(
            &mut self.engine,
            Operation::Read,
            offset,
            bytes as u64,
            &ranges,
        )
        .unwrap();
        let mut data = vec![0; bytes];
        self.ram.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    fn flush(&mut self) {
        perform(&mut self.engine, Operation::Flush, 0, 0, &[]).unwrap();
    }
}

/// A folder with an image on another one on a raw one, whose bytes are 7.
fn chain(folder: &Path) -> PathBuf {
    let [base, middle, top] =
        ["base.img", "middle.qcow2", "top.qcow2"].map(|name| folder.join(name));
    std::fs::write(&base, vec![7; usize::try_from(DISK_BYTES).unwrap()]).unwrap();
    create(&middle, 4096, Some(("base.img", "raw")));
    create(&top, 4096, Some(("middle.qcow2", "qcow2")));
    top
}

#[test]
fn an_image_on_others_changes_and_they_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let top = chain(folder.path());
    let paths = Image::paths(&options(&top));
    assert_eq!(paths.len(), 3, "{paths:?}");
    {
        let mut fixture = Fixture::of(options(&top));
        assert_eq!(fixture.engine.image().bytes(), DISK_BYTES);
        assert_eq!(fixture.read(0x1_0000, 1024), [7; 1024]);
        fixture.write(0x1_0200, &[1; 512], true);
        assert_eq!(fixture.read(0x1_0000, 512), [7; 512]);
        assert_eq!(fixture.read(0x1_0200, 512), [1; 512]);
        let zero = Operation::Zero {
            unmaps: true,
            durable: true,
        };
        perform(&mut fixture.engine, zero, 0x2_0000, 0x3000, &[]).unwrap();
        assert_eq!(fixture.read(0x2_0000, 0x3000), [0; 0x3000]);
        assert_eq!(fixture.read(0x2_3000, 16), [7; 16]);
    }
    let base = std::fs::read(folder.path().join("base.img")).unwrap();
    assert!(base.iter().all(|byte| *byte == 7));
    let mut again = Fixture::of(options(&top));
    assert_eq!(again.read(0x1_0200, 512), [1; 512]);
    assert_eq!(again.read(0x2_0000, 0x3000), [0; 0x3000]);
}

#[test]
fn what_an_image_stands_on_is_locked_and_may_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let top = chain(folder.path());
    let _first = Image::open(options(&top)).unwrap();
    let base = ImageOptions::new(folder.path().join("base.img"));
    let refused = Image::open(base.clone()).unwrap_err();
    assert!(matches!(refused, OpenError::Lock(_)), "{refused}");
    // Another image may stand on it, too.
    let second = folder.path().join("second.qcow2");
    create(&second, 0x1_0000, None);
    let mut given = options(&second);
    given.backing = Backing::Given(Some(Box::new(ImageOptions {
        format: Some(Format::Raw),
        read_only: true,
        ..base
    })));
    let mut fixture = Fixture::of(given);
    assert_eq!(fixture.read(0, 16), [7; 16]);
}

#[test]
fn a_chain_that_is_not_whole_is_refused_where_it_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |name: &str, backing: (&str, &str)| {
        let path = folder.path().join(name);
        create(&path, 0x1_0000, Some(backing));
        let error = Image::open(options(&path)).unwrap_err();
        crate::error_chain::chain(&error)
    };
    let gone = refusal("a", ("gone.img", "raw"));
    assert!(gone.contains("gone.img: it cannot be opened"), "{gone}");
    let url = refusal("b", ("nbd://host/x", "raw"));
    assert!(url.contains("not the path of a file"), "{url}");
    let format = refusal("c", ("a", "vmdk"));
    assert!(
        format.contains("should be raw or qcow2, and is vmdk"),
        "{format}"
    );
    let itself = refusal("d", ("d", "qcow2"));
    assert!(itself.contains("another program has it open"), "{itself}");
    let path = folder.path().join("e");
    std::fs::write(&path, [0; 4096]).unwrap();
    assert!(matches!(
        Image::open(options(&path)),
        Err(OpenError::Format(_))
    ));
}

/// Whoever closes it then may have a filter of system calls that lets it write nothing.
#[test]
fn when_its_thread_has_ended_there_is_nothing_left_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    create(&path, 65536, None);
    let mut fixture = Fixture::of(options(&path));
    let empty = std::fs::read(&path).unwrap();
    fixture.write(0x1_2345, b"not flushed by the guest", false);
    let image = Arc::clone(fixture.engine.image());
    drop(fixture);
    let ended = std::fs::read(&path).unwrap();
    assert_ne!(ended, empty);
    drop(image);
    assert_eq!(std::fs::read(&path).unwrap(), ended);
}

#[test]
fn an_image_is_grown_and_not_shrunk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    create(&path, 0x1_0000, None);
    let mut fixture = Fixture::of(options(&path));
    let resizer = fixture.engine.resizer();
    resizer.resize(2 * DISK_BYTES).unwrap();
    assert_eq!(fixture.engine.image().bytes(), 2 * DISK_BYTES);
    fixture.write(2 * DISK_BYTES - 512, &[9; 512], false);
    assert_eq!(fixture.read(2 * DISK_BYTES - 512, 512), [9; 512]);
    assert!(resizer.resize(DISK_BYTES).is_err());
}

#[test]
fn what_was_flushed_is_there_whatever_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    create(&path, 0x1_0000, None);
    let mut fixture = Fixture::of(options(&path));
    fixture.write(0x3_0000, &[5; 4096], false);
    fixture.flush();
    // As a host finds it whose program is killed now.
    let copy = folder.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    fixture.write(0x4_0000, &[6; 4096], false);
    let mut found = Fixture::of(options(&copy));
    assert_eq!(found.read(0x3_0000, 4096), [5; 4096]);
    let raw = File::open(&path).unwrap();
    let mut magic = [0; 4];
    raw.read_exact_at(&mut magic, 0).unwrap();
    assert_eq!(&magic, b"QFI\xfb");
}

/// imago would make room for it where the header is, and call itself until the stack is full.
#[test]
fn an_image_whose_refcounts_leave_out_its_header_is_refused_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    create(&path, 512, None);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let number = |offset: u64| {
        let mut number = [0; 8];
        file.read_exact_at(&mut number, offset).unwrap();
        u64::from_be_bytes(number)
    };
    let table = number(48);
    let block = number(table);
    let leaves_out: [(&str, u64, &[u8]); 3] = [
        ("a table without clusters", 56, &[0; 4]),
        ("an entry without a block", table, &[0; 8]),
        ("a block with a count of 0", block, &[0; 2]),
    ];
    for (what, offset, bytes) in leaves_out {
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, offset).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        let error = Image::open(options(&path)).unwrap_err();
        // Others of its kind are imago's.
        let says_so = format!("{error:?}").contains("does not count its header");
        assert!(says_so, "{what}: {error:?}");
        // Nothing is allocated in an image that is only read.
        let read_only = ImageOptions {
            read_only: true,
            ..options(&path)
        };
        Image::open(read_only).unwrap_or_else(|error| panic!("{what}: {error}"));
        file.write_all_at(&before, offset).unwrap();
    }
    Image::open(options(&path)).unwrap();
}

/// Counts of fewer bits than a byte has are in its low bits first (qcow2.rst, "Refcount blocks").
#[test]
fn an_image_with_counts_of_any_size_counts_its_header() {
    let folder = tempfile::tempdir().unwrap();
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        let path = folder.path().join(format!("{bits}"));
        let mut command = Command::new("qemu-img");
        let options_of_image = format!("refcount_bits={bits},cluster_size=512");
        command.args(["create", "-q", "-f", "qcow2", "-o", &options_of_image]);
        let Ok(status) = command.arg(&path).arg("1M").status() else {
            return;
        };
        assert!(status.success());
        Image::open(options(&path)).unwrap_or_else(|error| panic!("{bits} bits: {error}"));
    }
}

/// What qemu-img finds wrong with an image, where there is one; clusters that nothing uses are no harm.
fn errors(path: &Path) -> Option<String> {
    let mut command = Command::new("qemu-img");
    let output = command
        .args(["check", "-U", "-f", "qcow2"])
        .arg(path)
        .output();
    let output = output.ok()?;
    (!matches!(output.status.code(), Some(0 | 3))).then(|| format!("{output:?}"))
}

fn sectors(sector: u64, count: u64) -> std::ops::Range<usize> {
    let [from, to] = [sector, sector + count].map(|sector| usize::try_from(sector * 512).unwrap());
    from..to
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_disk_is_what_was_written_to_it_and_has_what_was_flushed_if_this_ends_at_once(
        steps in proptest::collection::vec((0_u8..6, 0_u64..2000, 1_u64..200, any::<u8>()), 1..60),
        cluster in 9_u32..17,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let [path, copy] = ["image", "copy"].map(|name| folder.path().join(name));
        create(&path, 1 << cluster, None);
        let mut fixture = Fixture::of(options(&path));
        let mut model = vec![0_u8; usize::try_from(DISK_BYTES).unwrap()];
        // What was flushed; `None` where it was written since.
        let mut flushed: Vec<Option<u8>> = vec![Some(0); model.len()];
        for (what, sector, count, byte) in steps {
            let count = count.min(2048 - sector);
            let (offset, bytes, range) = (sector * 512, count * 512, sectors(sector, count));
            match what {
                0 | 1 => {
                    let durable = what == 1;
                    fixture.write(offset, &vec![byte; range.len()], durable);
                    model[range.clone()].fill(byte);
                    flushed[range].fill(durable.then_some(byte));
                }
                2 => {
                    let zero = Operation::Zero { unmaps: byte % 2 == 0, durable: false };
                    perform(&mut fixture.engine, zero, offset, bytes, &[]).unwrap();
                    model[range.clone()].fill(0);
                    flushed[range].fill(None);
                }
                3 => {
                    fixture.flush();
                    flushed = model.iter().copied().map(Some).collect();
                }
                4 => {
                    // The file as it is now is what is left of a process that is killed.
                    std::fs::copy(&path, &copy).unwrap();
                    prop_assert_eq!(errors(&copy), None);
                    let mut found = Fixture::of(options(&copy));
                    for sector in (0..2048).step_by(64) {
                        let data = found.read(sector * 512, 64 * 512);
                        let kept = &flushed[sectors(sector, 64)];
                        let differ = data.iter().zip(kept).position(|(is, was)| was.is_some_and(|was| was != *is));
                        prop_assert_eq!(differ, None, "sector {}", sector);
                    }
                }
                _ => prop_assert_eq!(fixture.read(offset, range.len()), &model[range]),
            }
        }
        drop(fixture);
        prop_assert_eq!(errors(&path), None);
        let mut again = Fixture::of(options(&path));
        for sector in [0, 1024] {
            prop_assert_eq!(again.read(sector * 512, 0x8_0000), &model[sectors(sector, 1024)]);
        }
    }
}
