//! A guest's dump: an ELF core file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use rustix::fs::SeekFrom;

/// Headers and notes of a few processors are not longer.
const HEAD_BYTES: usize = 64 << 10;

/// What is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// The bit of the machine state register that says that a program is in user mode.
const MSR_PR: u64 = 1 << 14;

/// Where a processor was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The next instruction's address.
    pub(crate) nip: u64,
    /// Machine state register.
    pub(crate) msr: u64,
}

impl Place {
    /// Whether the processor ran a program, not the kernel.
    pub(crate) fn is_in_user_mode(self) -> bool {
        self.msr & MSR_PR != 0
    }
}

/// A dump with all of a guest's memory.
#[derive(Debug)]
pub(crate) struct CoreFile {
    file: File,
    /// Where the memory is in the file.
    memory_at: u64,
    /// Its size.
    bytes: u64,
    /// The address that the file gives for guest address 0.
    kernel_address: u64,
    /// The processors, in their order.
    pub(crate) processors: Vec<Place>,
}

impl CoreFile {
    /// Reads a file's headers and notes.
    #[track_caller]
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut head = vec![0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0).expect("too short");
        let header = elf::FileHeader64::<LittleEndian>::parse(&*head).expect("an ELF header");
        assert_eq!(header.e_machine(LittleEndian), elf::EM_PPC64);
        assert_eq!(header.e_type(LittleEndian), elf::ET_CORE);
        let segments = header.program_headers(LittleEndian, &*head);
        let [note, load] = segments.expect("segments") else {
            panic!("not two segments")
        };
        assert_eq!(load.p_type(LittleEndian), elf::PT_LOAD);
        assert_eq!(load.p_paddr(LittleEndian), 0);
        let mut notes = note
            .notes(LittleEndian, &*head)
            .expect("notes")
            .expect("a note segment");
        let mut processors = Vec::new();
        while let Some(note) = notes.next().expect("well-formed notes") {
            if note.n_type(LittleEndian) == elf::NT_PRSTATUS {
                // `struct elf_prstatus`: 112 bytes, general registers, nip, msr.
                let register = |number: usize| {
                    let bytes = note.desc()[112 + 8 * number..][..8].try_into();
                    u64::from_le_bytes(bytes.expect("eight"))
                };
                processors.push(Place {
                    nip: register(32),
                    msr: register(33),
                });
            }
        }
        let core = Self {
            memory_at: load.p_offset(LittleEndian),
            bytes: load.p_filesz(LittleEndian),
            kernel_address: load.p_vaddr(LittleEndian),
            processors,
            file,
        };
        let length = core.file.metadata().expect("metadata").len();
        assert_eq!(length, core.memory_at + core.bytes, "cut off");
        core
    }

    /// Size of the guest's memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory by the kernel's address of it.
    #[track_caller]
    pub(crate) fn at(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let place = address - self.kernel_address + self.memory_at;
        let read = self.file.read_exact_at(&mut bytes, place);
        read.unwrap_or_else(|error| panic!("{address:#x}: {error}"));
        bytes
    }

    /// Whether `text` is somewhere in memory; holes of the file, which are zero, are not looked at.
    pub(crate) fn has(&self, text: &str) -> bool {
        let mut place = self.memory_at;
        let mut piece = vec![0; PIECE_BYTES + text.len()];
        while let Ok(data) = rustix::fs::seek(&self.file, SeekFrom::Data(place)) {
            let length = self.file.read_at(&mut piece, data).expect("read");
            if length == 0 {
                return false;
            }
            if find(&piece[..length], text.as_bytes()) {
                return true;
            }
            // A text may lie across the end of a piece.
            place = data + PIECE_BYTES as u64;
        }
        false
    }
}

fn find(bytes: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let mut left = bytes;
    while let Some(place) = left.iter().position(|byte| byte == first) {
        left = &left[place + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}
