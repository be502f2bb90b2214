//! Loading an ELF kernel.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use object::elf::{ELFMAG, EM_PPC64, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};
use vm_memory::{Bytes, GuestAddress};

use super::layout::{KERNEL_BASE, Layout};
use crate::memory::GuestRam;

/// The bits of a segment's physical address that count: the rest is where the kernel is linked to
/// run, not where it is loaded.
const LOAD_ADDRESS_MASK: u64 = 0x0fff_ffff;

/// Why a kernel cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened or read.
    #[error("cannot read the kernel {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an ELF file.
    #[error(
        "the kernel {} is no ELF file; give the uncompressed vmlinux of a ppc64le kernel",
        .path.display()
    )]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// ELF, but not one that can be loaded.
    #[error("the kernel {} is no ELF file that can be loaded: {reason}", .path.display())]
    BadElf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// For another machine.
    #[error(
        "the kernel {} is for another machine (ELF machine {machine}); a ppc64 kernel has {EM_PPC64}",
        .path.display()
    )]
    WrongMachine {
        /// The file.
        path: PathBuf,
        /// Its `e_machine`.
        machine: u16,
    },
    /// It does not fit.
    #[error(
        "the kernel {} needs guest memory up to {end:#x}, and only {room:#x} is there; give more \
         memory",
        .path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Where it would end.
        end: u64,
        /// Where it has to end.
        room: u64,
    },
    /// Guest memory cannot be filled from it.
    #[error("cannot load a segment of the kernel {}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Address of its first instruction.
    pub entry: u64,
    /// First address behind it, its zeroed data included.
    pub end: u64,
}

struct Segment {
    file_offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    virtual_address: u64,
    guest_address: u64,
}

/// Loads the ELF kernel at `path` where `layout` has room for it.
///
/// # Errors
/// When the file is no ppc64 ELF or does not fit.
pub fn load(ram: &GuestRam, path: &Path, layout: &Layout) -> Result<LoadedKernel, KernelError> {
    let read_error = |source| KernelError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(read_error)?;
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == ELFMAG => {}
        Ok(()) => {
            return Err(KernelError::NotElf {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(KernelError::NotElf {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(read_error(error)),
    }
    let file_bytes = file.metadata().map_err(read_error)?.len();
    let (entry, segments) = parse(&file, file_bytes, path)?;
    let end = segments
        .iter()
        .map(|segment| segment.guest_address.saturating_add(segment.memory_bytes))
        .max()
        .unwrap_or(KERNEL_BASE);
    if end > layout.device_tree {
        let room = layout.device_tree;
        return Err(KernelError::TooLarge {
            path: path.to_owned(),
            end,
            room,
        });
    }
    for segment in &segments {
        file.seek(SeekFrom::Start(segment.file_offset))
            .map_err(read_error)?;
        let length = usize::try_from(segment.file_bytes).unwrap_or(usize::MAX);
        ram.mmap()
            .read_exact_volatile_from(GuestAddress(segment.guest_address), &mut file, length)
            .map_err(|source| KernelError::Load {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(LoadedKernel { entry, end })
}

fn parse(file: &File, file_bytes: u64, path: &Path) -> Result<(u64, Vec<Segment>), KernelError> {
    let bad = |reason: String| KernelError::BadElf {
        path: path.to_owned(),
        reason,
    };
    let data = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&data).map_err(|e| bad(e.to_string()))?;
    let endian = header.endian().map_err(|e| bad(e.to_string()))?;
    let machine = header.e_machine(endian);
    if machine != EM_PPC64 {
        return Err(KernelError::WrongMachine {
            path: path.to_owned(),
            machine,
        });
    }
    let headers = header
        .program_headers(endian, &data)
        .map_err(|e| bad(e.to_string()))?;
    let segments: Vec<Segment> = headers
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD && segment.p_memsz(endian) != 0)
        .map(|segment| Segment {
            file_offset: segment.p_offset(endian),
            file_bytes: segment.p_filesz(endian),
            memory_bytes: segment.p_memsz(endian),
            virtual_address: segment.p_vaddr(endian),
            guest_address: KERNEL_BASE + (segment.p_paddr(endian) & LOAD_ADDRESS_MASK),
        })
        .collect();
    if segments.is_empty() {
        return Err(bad("it has nothing to load".to_owned()));
    }
    if let Some(odd) = segments
        .iter()
        .find(|segment| segment.file_bytes > segment.memory_bytes)
    {
        let at = odd.virtual_address;
        return Err(bad(format!(
            "the segment at {at:#x} is longer in the file than in memory"
        )));
    }
    let file_end = |segment: &Segment| segment.file_offset.saturating_add(segment.file_bytes);
    if let Some(end) = segments.iter().map(file_end).max()
        && end > file_bytes
    {
        return Err(bad(format!(
            "it has {file_bytes} bytes and should have {end} at least: it was not copied whole"
        )));
    }
    let linked = header.e_entry(endian);
    let entry = segments
        .iter()
        .find_map(|segment| {
            let offset = linked.checked_sub(segment.virtual_address)?;
            (offset < segment.memory_bytes).then(|| segment.guest_address + offset)
        })
        .ok_or_else(|| {
            bad(format!(
                "its entry {linked:#x} lies in none of its segments"
            ))
        })?;
    Ok((entry, segments))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;
    use crate::cli::ByteSize;
    use crate::memory::LEAST_BYTES;

    /// An ELF file with one segment of `memory_bytes` linked at the kernel's virtual address.
    fn elf(machine: u16, code: &[u8], memory_bytes: u64) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(&2u16.to_le_bytes());
        file.extend_from_slice(&machine.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&(0xc000_0000_0000_0000u64 + 8).to_le_bytes());
        file.extend_from_slice(&64u64.to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        for half in [64u16, 56, 1, 64, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        let length = code.len() as u64;
        for word in [
            120,
            0xc000_0000_0000_0000,
            0x1_0000,
            length,
            memory_bytes,
            0x1_0000,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(code);
        file
    }

    fn load_bytes(bytes: &[u8]) -> (GuestRam, Result<LoadedKernel, KernelError>) {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(bytes).expect("write");
        let ram = GuestRam::new(ByteSize(LEAST_BYTES)).expect("guest memory");
        let kernel = load(&ram, file.path(), &Layout::for_memory(ram.bytes()));
        (ram, kernel)
    }

    #[test]
    fn a_kernel_is_loaded_above_4_mib_and_entered_at_its_entry() {
        let (ram, kernel) = load_bytes(&elf(EM_PPC64, b"0123456789abcdef", 0x2000));
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
    fn what_is_no_ppc64_kernel_is_refused_by_name() {
        let text = |bytes: &[u8]| load_bytes(bytes).1.expect_err("refused").to_string();
        assert!(text(b"").contains("is no ELF file; give the uncompressed vmlinux"));
        assert!(text(b"#!/bin/sh\n").contains("is no ELF file"));
        assert!(text(&elf(62, b"x", 1)).contains("for another machine (ELF machine 62)"));
        assert!(text(&elf(EM_PPC64, b"", 0)).contains("it has nothing to load"));
        assert!(text(&elf(EM_PPC64, b"xy", 1)).contains("longer in the file than in memory"));
        assert!(text(&elf(EM_PPC64, b"x", 4)).contains("lies in none of its segments"));
        assert!(text(&elf(EM_PPC64, b"x", 1 << 30)).contains("give more memory"));
        let whole = elf(EM_PPC64, b"0123456789abcdef", 0x2000);
        assert!(text(&whole[..whole.len() - 1]).contains("it was not copied whole"));
        assert!(text(&elf(EM_PPC64, b"x", u64::MAX)).contains("give more memory"));
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_the_loader_panic(mut bytes in proptest::collection::vec(0u8.., 0..256),
                                          flip in 0usize..136, value in 0u8..) {
            let _any = load_bytes(&bytes);
            bytes = elf(EM_PPC64, b"0123456789abcdef", 0x2000);
            bytes[flip] = value;
            let _any = load_bytes(&bytes);
        }
    }
}
