//! Kernels that are loaded, and files that are refused.

use std::fs;
use std::io::Write;
use std::path::Path;

use object::elf::{EM_PPC64, EM_X86_64, PT_INTERP, PT_LOAD, PT_TLS};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::samples::packed::{ALL, bomb, pack};
use super::samples::{Part, elf, part};
use super::*;
use crate::boot::layout::room_for_kernel;
use crate::memory::{Backing, LEAST_BYTES};
use crate::spec::ByteSize;
use spapr_devices::error_chain::chain;

fn open(path: &Path, most: u64) -> Result<Kernel, KernelError> {
    let file = BootFile::open(path).expect("it is there");
    Kernel::of(&file, most)
}

/// A kernel that may have `most` bytes.
fn open_bytes(bytes: &[u8], most: u64) -> Result<Kernel, KernelError> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(bytes).expect("write");
    open(file.path(), most)
}

fn load_bytes(bytes: &[u8]) -> (GuestRam, Result<LoadedKernel, KernelError>) {
    load_up_to(bytes, room_for_kernel(LEAST_BYTES))
}

fn load_up_to(bytes: &[u8], most: u64) -> (GuestRam, Result<LoadedKernel, KernelError>) {
    let ram = GuestRam::new(ByteSize(LEAST_BYTES), Backing::Anonymous).expect("guest memory");
    let layout = Layout::for_memory(ram.bytes());
    let kernel = open_bytes(bytes, most).and_then(|kernel| kernel.load(&ram, &layout));
    (ram, kernel)
}

fn refusal(bytes: &[u8]) -> String {
    chain(&load_bytes(bytes).1.expect_err("refused"))
}

#[track_caller]
fn assert_refused(bytes: &[u8], part: &str) {
    let text = refusal(bytes);
    assert!(text.contains(part), "no {part:?} in {text:?}");
}

fn one_segment(machine: u16, content: &[u8], memory_bytes: u64) -> Vec<u8> {
    elf(machine, &[part(content, memory_bytes)], &[PT_LOAD])
}

/// A kernel of two segments, longer than a piece, and what it says.
fn large() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let text = |seed: u32| -> Vec<u8> {
        (0..60_000u32)
            .flat_map(|number| (number ^ seed).to_le_bytes())
            .collect()
    };
    let (code, data) = (text(1), text(77));
    let parts = [
        part(&code, 0x8_0000),
        Part {
            content: &data,
            memory_bytes: 0x9_0000,
            offset: 0x10_0000,
        },
    ];
    let file = elf(EM_PPC64, &parts, &[PT_LOAD, PT_LOAD]);
    (file, code, data)
}

#[test]
fn a_kernel_is_loaded_above_4_mib_and_entered_at_its_entry() {
    let (ram, kernel) = load_bytes(&one_segment(EM_PPC64, b"0123456789abcdef", 0x2000));
    let kernel = kernel.expect("loaded");
    assert_eq!(
        kernel,
        LoadedKernel {
            entry: 0x41_0008,
            end: 0x41_2000
        }
    );
    let mut code = [0; 16];
    ram.mmap()
        .read_slice(&mut code, GuestAddress(0x41_0000))
        .expect("read");
    assert_eq!(&code, b"0123456789abcdef");
}

#[test]
fn a_compressed_kernel_is_loaded_as_it_would_be_unpacked() {
    let (file, code, data) = large();
    let read = |ram: &GuestRam, address, length| {
        let mut bytes = vec![0; length];
        let address = GuestAddress(address);
        ram.mmap().read_slice(&mut bytes, address).expect("read");
        bytes
    };
    let (_, plain) = load_bytes(&file);
    let plain = plain.expect("loaded");
    for packing in ALL {
        let (ram, kernel) = load_bytes(&pack(packing, &file));
        assert_eq!(kernel.expect("loaded"), plain, "{packing}");
        assert!(read(&ram, 0x41_0000, code.len()) == code, "{packing}");
        assert!(read(&ram, 0x50_0000, data.len()) == data, "{packing}");
        let behind = read(&ram, 0x41_0000 + code.len() as u64, 0x1000);
        assert!(behind.iter().all(|&byte| byte == 0), "{packing}");
    }
}

/// By the kernel's own hand, `xz` filters the code of its architecture first (scripts/xz_wrap.sh), with
/// CRC32 as the check.
#[test]
fn a_kernel_that_the_kernels_own_build_compressed_is_loaded() {
    use lzma_rust2::filter::FilterType;
    use lzma_rust2::{CheckType, XzOptions, XzWriter};
    let (file, code, _) = large();
    let mut options = XzOptions::with_preset(1);
    options.set_check_sum_type(CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjPpc, 0);
    let mut writer = XzWriter::new(Vec::new(), options).expect("options");
    writer.write_all(&file).expect("memory");
    let (ram, kernel) = load_bytes(&writer.finish().expect("memory"));
    kernel.expect("loaded");
    let mut loaded = vec![0; code.len()];
    ram.mmap()
        .read_slice(&mut loaded, GuestAddress(0x41_0000))
        .expect("read");
    assert!(loaded == code);
}

#[test]
fn what_is_no_ppc64_kernel_is_refused_by_name() {
    assert_refused(b"", "is empty; give the vmlinux of a ppc64le kernel");
    assert_refused(b"#!/bin/sh\n", "is a script; give the vmlinux");
    assert_refused(b"text", "is no ELF file (it begins with the bytes text)");
    let other = one_segment(EM_X86_64, b"x", 1);
    assert_refused(&other, "for another machine (x86-64, ELF machine 62)");
    for kind in [PT_INTERP, PT_TLS] {
        let program = elf(EM_PPC64, &[part(b"0123456789abcdef", 16)], &[PT_LOAD, kind]);
        assert_refused(
            &program,
            "is a program or a library for Linux, no kernel; give",
        );
    }
    let mut library = one_segment(EM_PPC64, b"0123456789abcdef", 0x2000);
    // Its first segment is the file from its beginning on, which is its entry.
    library[64 + 8..64 + 16].fill(0);
    library[24..32].copy_from_slice(&(samples::LINKED + 0x1_0000).to_le_bytes());
    assert_refused(
        &library,
        "is a library for Linux or something else without an entry; give",
    );
}

#[test]
fn an_elf_file_that_cannot_be_loaded_is_refused_with_the_reason() {
    let elf_of = |content: &[u8], memory| one_segment(EM_PPC64, content, memory);
    assert_refused(&elf_of(b"", 0), "it has nothing to load");
    assert_refused(&elf_of(b"xy", 1), "longer in the file than in memory");
    assert_refused(&elf_of(b"x", 4), "lies in none of its segments");
    assert_refused(&elf_of(b"x", 1 << 30), "give more memory");
    assert_refused(&elf_of(b"x", u64::MAX), "give more memory");
    let whole = elf_of(b"0123456789abcdef", 0x2000);
    assert_refused(&whole[..whole.len() - 1], "it was not copied whole");
    let parts = [
        part(b"0123456789abcdef", 0x2000),
        part(b"0123456789abcdef", 16),
    ];
    let overlapping = elf(EM_PPC64, &parts, &[PT_LOAD, PT_LOAD]);
    assert_refused(&overlapping, "overlap in memory");
    let mut many = whole;
    many[56..58].copy_from_slice(&[0xff, 0xff]);
    assert_refused(&many, "more program headers than any kernel");
}

#[test]
fn what_a_compressed_file_holds_is_named() {
    for packing in ALL {
        let archive = pack(packing, b"070701 and so on");
        assert_refused(
            &archive,
            &format!(
                "is a cpio archive, as initial RAM disks are (compressed by {packing}); give it"
            ),
        );
        let other = pack(packing, &one_segment(EM_X86_64, b"x", 1));
        assert_refused(&other, "x86-64");
        let twice = pack(packing, &pack(packing, b"x"));
        assert_refused(
            &twice,
            &format!("is compressed twice, by {packing} and then by {packing}; unpack it once"),
        );
        let program = elf(
            EM_PPC64,
            &[part(b"0123456789abcdef", 16)],
            &[PT_LOAD, PT_INTERP],
        );
        assert_refused(
            &pack(packing, &program),
            "is a program or a library for Linux",
        );
    }
}

#[test]
fn a_compressed_kernel_that_is_damaged_is_refused() {
    let (file, ..) = large();
    for packing in ALL {
        let packed = pack(packing, &file);
        let cut = refusal(&packed[..packed.len() - 5]);
        assert!(
            cut.contains(&format!("which is compressed by {packing}: "))
                && cut.ends_with("not copied whole"),
            "{cut}"
        );
        let short = refusal(&pack(packing, &file[..file.len() - 5]));
        assert!(short.contains("it was not copied whole"), "{short}");
        let mut wrong = packed.clone();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        assert_refused(&wrong, "cannot unpack the kernel");
    }
}

#[test]
fn a_bomb_costs_its_first_piece_or_what_the_guest_has_room_for() {
    let (mut file, ..) = large();
    let most = 1_000_000;
    file.resize(1 << 20, 0);
    for packing in ALL {
        // What is no kernel is not unpacked further than its first piece.
        let other = open_bytes(&bomb(packing), most);
        assert!(matches!(other.err(), Some(KernelError::Unusable { .. })));
        let (_, much) = load_up_to(&pack(packing, &file), most);
        let text = chain(&much.expect_err("refused"));
        assert!(text.contains("more than 1000000 bytes"), "{text}");
    }
}

#[test]
fn a_compressed_file_without_an_end_is_not_read() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs::write(file.path(), pack(Packing::Zstd, b"x")).expect("write");
    file.as_file().set_len(1 << 40).expect("a sparse file");
    let refused = open(file.path(), room_for_kernel(LEAST_BYTES));
    assert!(matches!(
        refused.err(),
        Some(KernelError::Unpack {
            source: UnpackError::TooMuch { .. },
            ..
        })
    ));
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().expect("folder");
    let pipe = folder.path().join("pipe");
    let status = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(status.expect("mkfifo").success());
    for path in [pipe.as_path(), folder.path(), Path::new("/dev/null")] {
        let error = open(path, 1 << 30).err().expect("refused");
        let text = error.to_string();
        assert!(text.contains("is no regular file; give"), "{text}");
    }
}

proptest! {
    // Each case compresses a file.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_compressed_file_makes_the_loader_panic(
        which in 0..ALL.len(),
        inner in prop::collection::vec((0usize..136, 0u8..), 0..3),
        outer in prop::collection::vec((any::<prop::sample::Index>(), 0u8..), 0..3),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut file = one_segment(EM_PPC64, &[b'x'; 70_000], 0x2_0000);
        for (place, value) in inner {
            file[place] = value;
        }
        let mut packed = pack(ALL[which], &file);
        for (place, value) in outer {
            let place = place.index(packed.len());
            packed[place] = value;
        }
        if is_cut {
            packed.truncate(cut.index(packed.len()));
        }
        let _any = load_bytes(&packed);
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_loader_panic(mut bytes in prop::collection::vec(0u8.., 0..256),
                                      flip in 0usize..136, value in 0u8..) {
        let _any = load_bytes(&bytes);
        bytes = samples::kernel();
        bytes[flip] = value;
        let _any = load_bytes(&bytes);
    }
}
