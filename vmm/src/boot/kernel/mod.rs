//! Loading a kernel: an ELF file, as it is or compressed.
//!
//! Whoever made a guest's disk may have made its kernel, too: nothing in the file is trusted.
//!
//! | file | what it is for |
//! |---|---|
//! | `format` | what a file is, by its first bytes |
//! | `unpack` | unpacking a compressed one |
//! | `elf` | what of it is loaded, and where |

mod elf;
mod format;
#[cfg(any(test, feature = "fuzz"))]
pub mod samples;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::ReadCache;
use vm_memory::{Bytes, GuestAddress};

pub use format::{Packing, Unusable};
pub use unpack::UnpackError;

use super::files::BootFile;
use super::layout::Layout;
use crate::memory::GuestRam;
use elf::{ElfError, Executable};
use format::{Format, TELLING_BYTES};
use unpack::Unpacker;

/// How much of a compressed kernel is unpacked at once; its program headers are in the first piece.
const PIECE_BYTES: usize = 64 << 10;

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
    /// Something else than a kernel for these guests.
    #[error("the kernel {} is {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it is, and what to give instead.
        what: Unusable,
    },
    /// An ELF file for ppc64le, but not one that can be loaded.
    #[error("the kernel {} is not an ELF file that can be loaded: {reason}", .path.display())]
    BadElf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be unpacked.
    #[error("cannot unpack the kernel {}, which is compressed by {packing}", .path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        packing: Packing,
        /// Why.
        source: UnpackError,
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

/// A kernel whose file was found to be one.
pub struct Kernel {
    path: PathBuf,
    executable: Executable,
    content: Content,
}

/// Where a kernel's bytes come from.
enum Content {
    /// The file itself.
    Plain(File),
    /// A compressed file, of which the first piece has been unpacked.
    Packed {
        packing: Packing,
        first: Vec<u8>,
        rest: Unpacker,
    },
}

impl Kernel {
    /// Looks what a file is. It may be `most` bytes long, unpacked if it is compressed.
    ///
    /// # Errors
    /// When it is no kernel for these guests, or one that can be seen to be damaged.
    pub fn of(file: &BootFile, most: u64) -> Result<Self, KernelError> {
        let path = file.path();
        let read_error = |source| KernelError::Read {
            path: path.to_owned(),
            source,
        };
        let file = file.reader().map_err(read_error)?;
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() {
            return Err(unusable(path, Unusable::new("no regular file")));
        }
        let mut head = [0; TELLING_BYTES];
        let length = read_beginning(&file, &mut head).map_err(read_error)?;
        match format::recognise(&head[..length]) {
            Format::Elf => Self::plain(path, file, metadata.len()),
            Format::Packed(packing) => Self::packed(path, file, metadata.len(), packing, most),
            Format::Other(what) => Err(unusable(path, what)),
        }
    }

    fn plain(path: &Path, file: File, file_bytes: u64) -> Result<Self, KernelError> {
        let executable = Executable::parse(&ReadCache::new(&file));
        let executable = executable.map_err(|error| bad_elf(path, error))?;
        let end = executable.file_end();
        if end > file_bytes {
            return Err(bad_elf(path, too_short(file_bytes, end)));
        }
        Ok(Self {
            path: path.to_owned(),
            executable,
            content: Content::Plain(file),
        })
    }

    fn packed(
        path: &Path,
        file: File,
        file_bytes: u64,
        packing: Packing,
        most: u64,
    ) -> Result<Self, KernelError> {
        let unpack_error = |source| unpack_error(path, packing, source);
        if file_bytes > most {
            return Err(unpack_error(UnpackError::TooMuch { most }));
        }
        let mut rest = Unpacker::new(packing, file, most);
        let first = next_piece(&mut rest).map_err(unpack_error)?;
        match format::recognise(&first[..first.len().min(TELLING_BYTES)]) {
            Format::Elf => {}
            Format::Packed(inner) => {
                return Err(unusable(path, Unusable::packed_twice(inner, packing)));
            }
            Format::Other(what) => return Err(unusable(path, what.packed_by(packing))),
        }
        let executable = Executable::parse(first.as_slice()).map_err(|error| match error {
            ElfError::NoKernel(what) => unusable(path, what.packed_by(packing)),
            bad @ ElfError::Bad(_) => bad_elf(path, bad),
        })?;
        Ok(Self {
            path: path.to_owned(),
            executable,
            content: Content::Packed {
                packing,
                first,
                rest,
            },
        })
    }

    /// Loads it where `layout` has room for it.
    ///
    /// # Errors
    /// When it does not fit, cannot be read, or turns out to be damaged.
    pub fn load(self, ram: &GuestRam, layout: &Layout) -> Result<LoadedKernel, KernelError> {
        let (entry, end) = (self.executable.entry, self.executable.end());
        if end > layout.device_tree {
            let room = layout.device_tree;
            return Err(KernelError::TooLarge {
                path: self.path,
                end,
                room,
            });
        }
        match self.content {
            Content::Plain(file) => load_plain(ram, &self.path, file, &self.executable)?,
            Content::Packed {
                packing,
                first,
                rest,
            } => {
                let unpacked = load_packed(ram, &self.path, first, rest, &self.executable);
                unpacked.map_err(|error| match error {
                    PackedError::Unpack(source) => unpack_error(&self.path, packing, source),
                    PackedError::Kernel(error) => error,
                })?;
            }
        }
        Ok(LoadedKernel { entry, end })
    }
}

fn unusable(path: &Path, what: Unusable) -> KernelError {
    KernelError::Unusable {
        path: path.to_owned(),
        what,
    }
}

fn bad_elf(path: &Path, error: ElfError) -> KernelError {
    match error {
        ElfError::NoKernel(what) => unusable(path, what),
        ElfError::Bad(reason) => KernelError::BadElf {
            path: path.to_owned(),
            reason,
        },
    }
}

fn too_short(bytes: u64, least: u64) -> ElfError {
    ElfError::Bad(format!(
        "it has {bytes} bytes and should have {least} at least: it was not copied whole"
    ))
}

fn unpack_error(path: &Path, packing: Packing, source: UnpackError) -> KernelError {
    KernelError::Unpack {
        path: path.to_owned(),
        packing,
        source,
    }
}

/// Reads the beginning of a file, all of it if it is short; leaves the file's position alone.
fn read_beginning(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Unpacks up to [`PIECE_BYTES`]; less is the end.
fn next_piece(unpacker: &mut Unpacker) -> Result<Vec<u8>, UnpackError> {
    let mut piece = vec![0; PIECE_BYTES];
    let length = unpacker.fill(&mut piece)?;
    piece.truncate(length);
    Ok(piece)
}

/// Reads each segment straight into guest memory.
fn load_plain(
    ram: &GuestRam,
    path: &Path,
    mut file: File,
    executable: &Executable,
) -> Result<(), KernelError> {
    for segment in &executable.segments {
        file.seek(SeekFrom::Start(segment.file_offset))
            .map_err(|source| KernelError::Read {
                path: path.to_owned(),
                source,
            })?;
        let length = usize::try_from(segment.file_bytes).unwrap_or(usize::MAX);
        ram.mmap()
            .read_exact_volatile_from(GuestAddress(segment.guest_address), &mut file, length)
            .map_err(|source| load_error(path, source))?;
    }
    Ok(())
}

fn load_error(path: &Path, source: vm_memory::GuestMemoryError) -> KernelError {
    KernelError::Load {
        path: path.to_owned(),
        source,
    }
}

/// What can go wrong while a compressed kernel is loaded.
enum PackedError {
    Unpack(UnpackError),
    Kernel(KernelError),
}

/// Copies what of each piece belongs to a segment. The rest is unpacked, too: at the end it is known
/// whether the file was whole.
fn load_packed(
    ram: &GuestRam,
    path: &Path,
    first: Vec<u8>,
    mut rest: Unpacker,
    executable: &Executable,
) -> Result<(), PackedError> {
    let mut piece = first;
    let mut offset = 0;
    loop {
        for segment in &executable.segments {
            let start = segment.file_offset.max(offset);
            let end = (offset + piece.len() as u64)
                .min(segment.file_offset.saturating_add(segment.file_bytes));
            let within = |place: u64| usize::try_from(place.saturating_sub(offset)).ok();
            let Some(part) = within(start)
                .zip(within(end))
                .and_then(|(start, end)| piece.get(start..end))
            else {
                continue;
            };
            let address = segment.guest_address + (start - segment.file_offset);
            ram.mmap()
                .write_slice(part, GuestAddress(address))
                .map_err(|source| PackedError::Kernel(load_error(path, source)))?;
        }
        offset += piece.len() as u64;
        if piece.len() < PIECE_BYTES {
            break;
        }
        let length = rest.fill(&mut piece).map_err(PackedError::Unpack)?;
        piece.truncate(length);
    }
    let least = executable.file_end();
    if offset < least {
        return Err(PackedError::Kernel(bad_elf(path, too_short(offset, least))));
    }
    Ok(())
}
