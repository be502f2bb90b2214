//! A guest as an ELF core file, for crash(8) and gdb: its memory, and its processors' registers.
//!
//! | file | what it is for |
//! |---|---|
//! | `registers` | the registers that processors had when they were paused |
//! | `core_file` | the bytes in front of the memory: headers and notes |
//! | `output` | writing to a file, a pipe or a socket, until told to stop |

mod core_file;
mod output;
mod registers;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::GuestRange;
use spapr_kvm::registers::Registers;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;
pub use output::{Cancel, Output};
pub use registers::SavedRegisters;

/// What is read and written at once; a file has no blocks for pieces that are all zero.
const PIECE_BYTES: usize = 64 << 10;

/// Why a dump is not whole.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Its target takes no more.
    #[error("the dump cannot be written")]
    Write(#[source] io::Error),
    /// The machine is gone, or is about to be.
    #[error("the dump was given up: its machine was reset or ended")]
    Cancelled,
    /// What is to be dumped is not all guest memory.
    #[error("guest memory cannot be read at {address:#x}")]
    Memory {
        /// The guest address.
        address: u64,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// A guest that stands still.
pub struct Snapshot {
    /// All of its memory.
    pub memory: GuestRam,
    /// Its processors; none of the registers of one that is stopped or has not run yet.
    pub processors: Vec<Option<Registers>>,
}

/// A part of a guest's memory, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MemoryRange {
    begin: u64,
    bytes: u64,
}

/// A range that has no memory, or some that is not the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {begin:#x} to {end:#x} are not all guest memory, which ends at {ram_end:#x}")]
pub struct NotMemory {
    begin: u64,
    end: u64,
    ram_end: u64,
}

/// All of a guest's memory, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<MemoryRange>);

impl Selection {
    /// All of the guest's blocks.
    pub fn all(ram: &[GuestRange]) -> Self {
        let range = |block: &GuestRange| MemoryRange {
            begin: block.start.0,
            bytes: block.bytes,
        };
        Self(ram.iter().map(range).collect())
    }

    /// `bytes` from guest address `begin` on, all of them in one block of `ram`.
    ///
    /// # Errors
    /// When the range is empty, or not all memory.
    pub fn part(begin: u64, bytes: u64, ram: &[GuestRange]) -> Result<Self, NotMemory> {
        let start = GuestPhysicalAddress(begin);
        if bytes == 0 || !ram.iter().any(|block| block.contains(start, bytes)) {
            let ends = ram.iter().map(|block| block.start.0 + block.bytes);
            return Err(NotMemory {
                begin,
                end: begin.saturating_add(bytes),
                ram_end: ends.fold(0, u64::max),
            });
        }
        Ok(Self(vec![MemoryRange { begin, bytes }]))
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.bytes).sum()
    }
}

/// Writes a core file with the processors and with what is selected of the memory, which has to be the
/// snapshot's. `completed` counts bytes of memory that are written.
///
/// # Errors
/// When the target fails, or the dump is cancelled; what was written by then stays.
pub fn write(
    snapshot: &Snapshot,
    selection: &Selection,
    output: &mut Output,
    completed: &AtomicU64,
) -> Result<(), DumpError> {
    output.write(&core_file::head(&snapshot.processors, &selection.0))?;
    let mut buffer = vec![0; PIECE_BYTES];
    let zeroes = vec![0; PIECE_BYTES];
    let all = selection.bytes();
    let mut done = 0;
    for range in &selection.0 {
        let end = range.begin + range.bytes;
        let mut address = range.begin;
        while address < end {
            let left = usize::try_from(end - address).unwrap_or(usize::MAX);
            let piece = &mut buffer[..left.min(PIECE_BYTES)];
            snapshot
                .memory
                .mmap()
                .read_slice(piece, GuestAddress(address))
                .map_err(|source| DumpError::Memory { address, source })?;
            let bytes = piece.len() as u64;
            // The last piece gives a file its length.
            if done + bytes < all && *piece == zeroes[..piece.len()] {
                output.write_zeroes(piece)?;
            } else {
                output.write(piece)?;
            }
            address += bytes;
            done += bytes;
            completed.store(done, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::thread;

    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{LittleEndian, elf};

    use super::*;
    use crate::memory::{Backing, LEAST_BYTES};
    use crate::spec::ByteSize;

    pub(crate) const MARK: &[u8] = b"written by the guest";
    pub(crate) const MARK_AT: u64 = 0x123_4567;

    /// A guest of two processors, the second stopped, that has written [`MARK`] at [`MARK_AT`] and at
    /// the end of its memory.
    pub(crate) fn snapshot() -> Snapshot {
        let memory = GuestRam::new(ByteSize(LEAST_BYTES), Backing::Anonymous).expect("memory");
        let write = |address| memory.mmap().write_slice(MARK, GuestAddress(address));
        write(MARK_AT).expect("memory");
        write(LEAST_BYTES - MARK.len() as u64).expect("the end of it");
        let registers = Registers {
            nip: 0xc000_0000_0001_2344,
            ..Registers::default()
        };
        Snapshot {
            memory,
            processors: vec![Some(registers), None],
        }
    }

    /// All of [`snapshot`]'s memory.
    fn ram() -> Vec<GuestRange> {
        vec![GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: LEAST_BYTES,
        }]
    }

    fn all() -> Selection {
        Selection::all(&ram())
    }

    /// The guest memory that a core file has: where in the file, from which guest address on, and how
    /// much.
    pub(crate) fn memory_of(core: &[u8]) -> (usize, u64, u64) {
        let header = elf::FileHeader64::<LittleEndian>::parse(core).expect("an ELF header");
        let headers = header.program_headers(LittleEndian, core);
        let loads: Vec<_> = headers
            .expect("program headers")
            .iter()
            .filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD)
            .collect();
        let [load] = loads[..] else {
            panic!("{} pieces of memory", loads.len())
        };
        let place = usize::try_from(load.p_offset(LittleEndian)).expect("in memory");
        let bytes = load.p_filesz(LittleEndian);
        assert_eq!(core.len() as u64, place as u64 + bytes);
        (place, load.p_paddr(LittleEndian), bytes)
    }

    /// Pieces that are not all zero.
    fn pieces_with_data(memory: &[u8]) -> usize {
        let zeroes = vec![0; PIECE_BYTES];
        let pieces = memory.chunks(PIECE_BYTES);
        pieces.filter(|piece| *piece != zeroes).count()
    }

    #[test]
    fn a_file_has_all_memory_and_no_blocks_for_what_is_zero() {
        let mut target = tempfile::tempfile().expect("file");
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let descriptor = target.try_clone().expect("clone").into();
        let mut output = Output::new(descriptor, cancel).expect("output");
        let completed = AtomicU64::new(0);
        write(&snapshot(), &all(), &mut output, &completed).expect("written");
        assert_eq!(completed.into_inner(), LEAST_BYTES);
        std::io::Seek::rewind(&mut target).expect("seek");
        let mut core = Vec::new();
        target.read_to_end(&mut core).expect("read");
        let (place, address, bytes) = memory_of(&core);
        assert_eq!((address, bytes), (0, LEAST_BYTES));
        let marked = place + usize::try_from(MARK_AT).expect("in memory");
        assert_eq!(&core[marked..marked + MARK.len()], MARK);
        assert!(core.ends_with(MARK));
        assert_eq!(pieces_with_data(&core[place..]), 2);
        let blocks = target.metadata().expect("metadata").blocks();
        assert!(blocks * 512 < LEAST_BYTES / 8, "{blocks} blocks");
    }

    #[test]
    fn memory_in_two_blocks_is_dumped_as_two_segments_without_the_gap() {
        let range = |start, bytes| GuestRange {
            start: GuestPhysicalAddress(start),
            bytes,
        };
        let high = 1 << 40;
        let memory = GuestRam::in_blocks(
            range(0, LEAST_BYTES),
            &[range(high, 16 << 20)],
            Backing::Anonymous,
        )
        .expect("memory");
        let write_mark = |address| memory.mmap().write_slice(MARK, GuestAddress(address));
        write_mark(MARK_AT).expect("memory");
        write_mark(high).expect("memory");
        let selection = Selection::all(&memory.guest_ranges());
        let snapshot = Snapshot {
            memory,
            processors: vec![None],
        };
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let reading = thread::spawn(move || {
            let mut core = Vec::new();
            reader.read_to_end(&mut core).expect("read");
            core
        });
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let mut output = Output::new(writer.into(), cancel).expect("output");
        write(&snapshot, &selection, &mut output, &AtomicU64::new(0)).expect("written");
        drop(output);
        let core = reading.join().expect("no panic");
        let header = elf::FileHeader64::<LittleEndian>::parse(&*core).expect("an ELF header");
        let headers = header.program_headers(LittleEndian, &*core);
        let mut marked = Vec::new();
        for load in headers.expect("program headers") {
            if load.p_type(LittleEndian) == elf::PT_LOAD {
                let data = load.data(LittleEndian, &*core).expect("in the file");
                let at = data.windows(MARK.len()).position(|bytes| bytes == MARK);
                let at = at.expect("a mark in each") as u64;
                marked.push((load.p_paddr(LittleEndian) + at, data.len() as u64));
            }
        }
        assert_eq!(marked, [(MARK_AT, LEAST_BYTES), (high, 16 << 20)]);
    }

    #[test]
    fn what_a_file_held_before_is_not_left_in_the_dump() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("old");
        std::fs::write(&path, vec![0xff; 1 << 20]).expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let mut output = Output::new(file.into(), cancel).expect("output");
        write(&snapshot(), &all(), &mut output, &AtomicU64::new(0)).expect("written");
        let core = std::fs::read(&path).expect("read");
        let (place, ..) = memory_of(&core);
        assert_eq!(pieces_with_data(&core[place..]), 2);
    }

    #[test]
    fn a_pipe_gets_the_part_that_was_asked_for() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let reading = thread::spawn(move || {
            let mut core = Vec::new();
            reader.read_to_end(&mut core).expect("read");
            core
        });
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let mut output = Output::new(writer.into(), cancel).expect("output");
        let range = Selection::part(MARK_AT, 0x12345, &ram()).expect("a range");
        write(&snapshot(), &range, &mut output, &AtomicU64::new(0)).expect("written");
        drop(output);
        let core = reading.join().expect("no panic");
        let (place, address, bytes) = memory_of(&core);
        assert_eq!((address, bytes), (MARK_AT, 0x12345));
        assert_eq!(&core[place..place + MARK.len()], MARK);
    }

    #[test]
    fn a_reader_that_is_gone_and_a_device_without_room_end_a_dump() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let full = File::options().write(true).open("/dev/full").expect("full");
        for (target, expected) in [(writer.into(), libc::EPIPE), (full.into(), libc::ENOSPC)] {
            let cancel = Arc::new(Cancel::new().expect("eventfd"));
            let mut output = Output::new(target, cancel).expect("output");
            let result = write(&snapshot(), &all(), &mut output, &AtomicU64::new(0));
            let Err(DumpError::Write(error)) = result else {
                panic!("{result:?}")
            };
            assert_eq!(error.raw_os_error(), Some(expected));
        }
    }

    #[test]
    fn a_dump_that_nobody_reads_ends_when_it_is_cancelled() {
        let (_reader, writer) = std::io::pipe().expect("pipe");
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let mut output = Output::new(writer.into(), Arc::clone(&cancel)).expect("output");
        let writing = thread::spawn(move || {
            write(&snapshot(), &all(), &mut output, &AtomicU64::new(0)).expect_err("cancelled")
        });
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(!writing.is_finished());
        cancel.cancel();
        let error = writing.join().expect("no panic");
        assert!(matches!(error, DumpError::Cancelled), "{error}");
    }

    #[test]
    fn a_range_is_all_guest_memory() {
        for (begin, bytes) in [
            (0, LEAST_BYTES + 1),
            (LEAST_BYTES, 1),
            (LEAST_BYTES - 1, 2),
            (u64::MAX, u64::MAX),
            (0, 0),
        ] {
            assert!(Selection::part(begin, bytes, &ram()).is_err());
        }
        let error = Selection::part(0x1000, LEAST_BYTES, &ram()).expect_err("too long");
        assert_eq!(
            error.to_string(),
            "bytes 0x1000 to 0x8001000 are not all guest memory, which ends at 0x8000000"
        );
    }
}
