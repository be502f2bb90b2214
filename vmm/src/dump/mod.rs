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

/// A part of a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    begin: u64,
    bytes: u64,
}

/// A range that has no memory, or more than the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {begin:#x} to {end:#x} are not all guest memory, which ends at {ram_end:#x}")]
pub struct NotMemory {
    begin: u64,
    end: u64,
    ram_end: u64,
}

impl MemoryRange {
    /// `bytes` from guest address `begin` on, all of them of a guest with `ram_bytes`, or of it all.
    ///
    /// # Errors
    /// When the range is empty, or goes past the end of the memory.
    pub fn new(begin: u64, bytes: u64, ram_bytes: u64) -> Result<Self, NotMemory> {
        let end = begin.saturating_add(bytes);
        if bytes == 0 || end > ram_bytes {
            return Err(NotMemory {
                begin,
                end,
                ram_end: ram_bytes,
            });
        }
        Ok(Self { begin, bytes })
    }

    /// Its size in bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

/// Writes a core file with the processors and with `range` of the memory, which has to be the
/// snapshot's. `completed` counts bytes of memory that are written.
///
/// # Errors
/// When the target fails, or the dump is cancelled; what was written by then stays.
pub fn write(
    snapshot: &Snapshot,
    range: MemoryRange,
    output: &mut Output,
    completed: &AtomicU64,
) -> Result<(), DumpError> {
    output.write(&core_file::head(&snapshot.processors, range))?;
    let mut buffer = vec![0; PIECE_BYTES];
    let zeroes = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < range.bytes {
        let left = usize::try_from(range.bytes - done).unwrap_or(usize::MAX);
        let piece = &mut buffer[..left.min(PIECE_BYTES)];
        let address = range.begin + done;
        snapshot
            .memory
            .mmap()
            .read_slice(piece, GuestAddress(address))
            .map_err(|source| DumpError::Memory { address, source })?;
        // The last piece gives a file its length.
        if left > PIECE_BYTES && *piece == zeroes {
            output.write_zeroes(piece)?;
        } else {
            output.write(piece)?;
        }
        done += piece.len() as u64;
        completed.store(done, Ordering::Relaxed);
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
    use crate::memory::LEAST_BYTES;
    use crate::spec::ByteSize;

    pub(crate) const MARK: &[u8] = b"written by the guest";
    pub(crate) const MARK_AT: u64 = 0x123_4567;

    /// A guest of two processors, the second stopped, that has written [`MARK`] at [`MARK_AT`] and at
    /// the end of its memory.
    pub(crate) fn snapshot() -> Snapshot {
        let memory = GuestRam::new(ByteSize(LEAST_BYTES)).expect("memory");
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

    fn all() -> MemoryRange {
        MemoryRange::new(0, LEAST_BYTES, LEAST_BYTES).expect("all of it")
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
        write(&snapshot(), all(), &mut output, &completed).expect("written");
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
    fn what_a_file_held_before_is_not_left_in_the_dump() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("old");
        std::fs::write(&path, vec![0xff; 1 << 20]).expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let mut output = Output::new(file.into(), cancel).expect("output");
        write(&snapshot(), all(), &mut output, &AtomicU64::new(0)).expect("written");
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
        let range = MemoryRange::new(MARK_AT, 0x12345, LEAST_BYTES).expect("a range");
        write(&snapshot(), range, &mut output, &AtomicU64::new(0)).expect("written");
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
            let result = write(&snapshot(), all(), &mut output, &AtomicU64::new(0));
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
            write(&snapshot(), all(), &mut output, &AtomicU64::new(0)).expect_err("cancelled")
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
            assert!(MemoryRange::new(begin, bytes, LEAST_BYTES).is_err());
        }
        let error = MemoryRange::new(0x1000, LEAST_BYTES, LEAST_BYTES).expect_err("too long");
        assert_eq!(
            error.to_string(),
            "bytes 0x1000 to 0x8001000 are not all guest memory, which ends at 0x8000000"
        );
    }
}
