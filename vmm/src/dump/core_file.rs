//! The bytes of an ELF core file in front of the memory: headers, and a note for each set of
//! registers of each processor.
//!
//! The layouts are those of a ppc64le Linux' core files (`struct elf_prstatus` in
//! include/linux/elfcore.h, `struct pt_regs` in arch/powerpc/include/uapi/asm/ptrace.h, and the
//! regsets in arch/powerpc/kernel/ptrace).

use object::elf::{self, FileHeader64, Ident, NoteHeader64, ProgramHeader64};
use object::endian::{LittleEndian, U16, U32, U64};
use object::pod::bytes_of;
use spapr_kvm::registers::{Registers, VectorRegisters};

use super::MemoryRange;

/// Where Linux, like FreeBSD, maps physical memory one to one: what gdb finds the kernel by
/// (PAGE_OFFSET in arch/powerpc/include/asm/page.h).
const KERNEL_ADDRESS: u64 = 0xc000_0000_0000_0000;
/// What the memory's place in the file is a multiple of: a page of any kernel.
const MEMORY_ALIGNMENT: u64 = 64 << 10;
/// What notes and their parts are a multiple of.
const NOTE_ALIGNMENT: usize = 4;

/// Bytes of `struct elf_prstatus` in front of the process id, from there to the registers, and of
/// the registers.
const PRSTATUS_PID_AT: usize = 32;
const PRSTATUS_REGISTERS_AT: usize = 112;
const PRSTATUS_REGISTERS: usize = 48;
/// Registers, whether there are floating-point registers (four bytes), and padding.
const PRSTATUS_BYTES: usize = PRSTATUS_REGISTERS_AT + PRSTATUS_REGISTERS * 8 + 8;

/// All that comes before the memory, which is that of `ranges`, one behind the other.
pub(super) fn head(processors: &[Option<Registers>], ranges: &[MemoryRange]) -> Vec<u8> {
    let notes = notes(processors);
    let headers = 1 + ranges.len();
    let notes_at = size_of::<FileHeader64<LittleEndian>>()
        + headers * size_of::<ProgramHeader64<LittleEndian>>();
    let memory_at = ((notes_at + notes.len()) as u64).next_multiple_of(MEMORY_ALIGNMENT);
    let note = ProgramHeader64 {
        p_type: u32(elf::PT_NOTE),
        p_flags: u32(0),
        p_offset: u64(notes_at as u64),
        p_vaddr: u64(0),
        p_paddr: u64(0),
        p_filesz: u64(notes.len() as u64),
        p_memsz: u64(notes.len() as u64),
        p_align: u64(NOTE_ALIGNMENT as u64),
    };
    let mut head = bytes_of(&file_header(headers)).to_vec();
    head.extend(bytes_of(&note));
    let mut offset = memory_at;
    for range in ranges {
        head.extend(bytes_of(&segment(range, offset)));
        offset += range.bytes;
    }
    head.extend(notes);
    head.resize(usize::try_from(memory_at).unwrap_or(usize::MAX), 0);
    head
}

/// A piece of memory, at `offset` in the file.
fn segment(range: &MemoryRange, offset: u64) -> ProgramHeader64<LittleEndian> {
    ProgramHeader64 {
        p_type: u32(elf::PT_LOAD),
        p_flags: u32(elf::PF_R | elf::PF_W | elf::PF_X),
        p_offset: u64(offset),
        p_vaddr: u64(KERNEL_ADDRESS | range.begin),
        p_paddr: u64(range.begin),
        p_filesz: u64(range.bytes),
        p_memsz: u64(range.bytes),
        p_align: u64(1),
    }
}

fn file_header(program_headers: usize) -> FileHeader64<LittleEndian> {
    let header_bytes = |bytes: usize| u16(u16::try_from(bytes).unwrap_or(u16::MAX));
    FileHeader64 {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: u16(elf::ET_CORE),
        e_machine: u16(elf::EM_PPC64),
        e_version: u32(elf::EV_CURRENT.into()),
        e_entry: u64(0),
        e_phoff: u64(size_of::<FileHeader64<LittleEndian>>() as u64),
        e_shoff: u64(0),
        e_flags: u32(0),
        e_ehsize: header_bytes(size_of::<FileHeader64<LittleEndian>>()),
        e_phentsize: header_bytes(size_of::<ProgramHeader64<LittleEndian>>()),
        e_phnum: u16(u16::try_from(program_headers).unwrap_or(u16::MAX)),
        e_shentsize: u16(0),
        e_shnum: u16(0),
        e_shstrndx: u16(0),
    }
}

fn u16(value: u16) -> U16<LittleEndian> {
    U16::new(LittleEndian, value)
}

fn u32(value: u32) -> U32<LittleEndian> {
    U32::new(LittleEndian, value)
}

fn u64(value: u64) -> U64<LittleEndian> {
    U64::new(LittleEndian, value)
}

/// One note of each kind for each processor: that of one that is stopped has zeroes, so that the
/// n-th is always the n-th processor's.
fn notes(processors: &[Option<Registers>]) -> Vec<u8> {
    let mut notes = Vec::new();
    let stopped = Registers::default();
    for (number, registers) in (1..).zip(processors) {
        let registers = registers.as_ref().unwrap_or(&stopped);
        note(
            &mut notes,
            "CORE",
            elf::NT_PRSTATUS,
            &prstatus(number, registers),
        );
        let Some(vectors) = &registers.vectors else {
            continue;
        };
        note(
            &mut notes,
            "CORE",
            elf::NT_PRFPREG,
            &floating_point(vectors),
        );
        note(&mut notes, "LINUX", elf::NT_PPC_VMX, &vmx(vectors));
        note(
            &mut notes,
            "LINUX",
            elf::NT_PPC_VSX,
            &doublewords(&vectors.vsr_second),
        );
    }
    notes
}

fn note(notes: &mut Vec<u8>, name: &str, kind: u32, description: &[u8]) {
    let length = |bytes: usize| u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    let header = NoteHeader64 {
        n_namesz: length(name.len() + 1),
        n_descsz: length(description.len()),
        n_type: u32(kind),
    };
    notes.extend(bytes_of(&header));
    notes.extend(name.as_bytes());
    notes.push(0);
    notes.resize(notes.len().next_multiple_of(NOTE_ALIGNMENT), 0);
    notes.extend(description);
    notes.resize(notes.len().next_multiple_of(NOTE_ALIGNMENT), 0);
}

fn doublewords(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// `struct elf_prstatus`; processor `number` is shown as the thread with that id, from 1 on: to gdb,
/// 0 is no thread.
fn prstatus(number: u32, registers: &Registers) -> Vec<u8> {
    let mut status = vec![0; PRSTATUS_PID_AT];
    status.extend(number.to_le_bytes());
    status.resize(PRSTATUS_REGISTERS_AT, 0);
    status.extend(doublewords(&registers.gpr));
    status.extend(doublewords(&[
        registers.nip,
        registers.msr,
        // The first argument of a system call as it was.
        registers.gpr[3],
        registers.ctr,
        registers.link,
        registers.xer,
        registers.cr,
        // Whether interrupts are enabled is Linux' own affair, and which one it was.
        0,
        0,
        registers.dar,
        registers.dsisr,
    ]));
    status.resize(PRSTATUS_REGISTERS_AT + PRSTATUS_REGISTERS * 8, 0);
    status.extend(u32::from(registers.vectors.is_some()).to_le_bytes());
    status.resize(PRSTATUS_BYTES, 0);
    status
}

fn floating_point(vectors: &VectorRegisters) -> Vec<u8> {
    let mut registers = doublewords(&vectors.fpr);
    registers.extend(vectors.fpscr.to_le_bytes());
    registers
}

/// VR0 to VR31, VSCR and VRSAVE, each in a quadword.
fn vmx(vectors: &VectorRegisters) -> Vec<u8> {
    let mut quadwords = vectors.vr.to_vec();
    quadwords.push(vectors.vscr.into());
    quadwords.push(vectors.vrsave.into());
    let bytes = quadwords.iter().flat_map(|value| value.to_le_bytes());
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use object::read::elf::{FileHeader, ProgramHeader};

    use super::*;

    /// Kind, name and description of each note.
    fn notes_of(core: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
        let header = FileHeader64::<LittleEndian>::parse(core).expect("a header");
        let segments = header
            .program_headers(LittleEndian, core)
            .expect("segments");
        let mut notes = segments[0]
            .notes(LittleEndian, core)
            .expect("in the file")
            .expect("a note segment");
        let mut found = Vec::new();
        while let Some(note) = notes.next().expect("well-formed") {
            let name = String::from_utf8(note.name().to_vec()).expect("text");
            found.push((note.n_type(LittleEndian), name, note.desc().to_vec()));
        }
        found
    }

    fn processor() -> Registers {
        let mut registers = Registers {
            nip: 0xc000_0000_0000_a000,
            msr: 0x8000_0000_0280_b033,
            ctr: 35,
            link: 36,
            xer: 37,
            cr: 38,
            dar: 41,
            dsisr: 42,
            ..Registers::default()
        };
        for (number, gpr) in (100..).zip(&mut registers.gpr) {
            *gpr = number;
        }
        let mut vectors = VectorRegisters {
            fpscr: 0xf5,
            vscr: 0x5c,
            vrsave: 0x5a,
            ..VectorRegisters::default()
        };
        vectors.fpr[31] = 0xf1;
        vectors.vsr_second[1] = 0x51;
        vectors.vr[2] = 0x1122 << 64 | 0x3344;
        registers.vectors = Some(Box::new(vectors));
        registers
    }

    fn doubleword(bytes: &[u8], number: usize) -> u64 {
        let bytes = bytes[number * 8..][..8].try_into().expect("eight");
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn a_core_file_is_one_of_ppc64le_with_memory_where_the_kernel_has_it() {
        let range = MemoryRange {
            begin: 0x100_0000,
            bytes: 0x200_0000,
        };
        let core = head(&[None], &[range]);
        let header = FileHeader64::<LittleEndian>::parse(&*core).expect("a header");
        assert_eq!(header.e_ident.class, elf::ELFCLASS64);
        assert!(header.is_little_endian());
        assert_eq!(header.e_machine(LittleEndian), elf::EM_PPC64);
        assert_eq!(header.e_type(LittleEndian), elf::ET_CORE);
        let segments = header
            .program_headers(LittleEndian, &*core)
            .expect("segments");
        assert_eq!(segments.len(), 2);
        let memory = &segments[1];
        assert_eq!(memory.p_type(LittleEndian), elf::PT_LOAD);
        assert_eq!(memory.p_paddr(LittleEndian), 0x100_0000);
        assert_eq!(memory.p_vaddr(LittleEndian), 0xc000_0000_0100_0000);
        assert_eq!(memory.p_filesz(LittleEndian), 0x200_0000);
        assert_eq!(memory.p_memsz(LittleEndian), 0x200_0000);
        assert_eq!(memory.p_offset(LittleEndian), core.len() as u64);
        assert!(core.len().is_multiple_of(0x1_0000));
    }

    #[test]
    fn each_register_is_where_debuggers_look_for_it() {
        let notes = notes_of(&head(&[Some(processor())], &[]));
        let kinds: Vec<(u32, &str, usize)> = notes
            .iter()
            .map(|(kind, name, description)| (*kind, name.as_str(), description.len()))
            .collect();
        // Sizes of ppc64's elf_prstatus, elf_fpregset_t, elf_vrregset_t and of 32 doublewords.
        assert_eq!(
            kinds,
            [
                (1, "CORE", 504),
                (2, "CORE", 264),
                (0x100, "LINUX", 544),
                (0x102, "LINUX", 256)
            ]
        );
        let status = &notes[0].2;
        assert_eq!(status[32..36], [1, 0, 0, 0], "pr_pid");
        let registers = &status[112..496];
        assert_eq!(doubleword(registers, 0), 100);
        assert_eq!(doubleword(registers, 31), 131);
        assert_eq!(doubleword(registers, 32), 0xc000_0000_0000_a000, "nip");
        assert_eq!(doubleword(registers, 33), 0x8000_0000_0280_b033, "msr");
        for number in [35, 36, 37, 38, 41, 42] {
            assert_eq!(doubleword(registers, number), number as u64);
        }
        assert_eq!(status[496..500], [1, 0, 0, 0], "pr_fpvalid");
        let fpr = &notes[1].2;
        assert_eq!((doubleword(fpr, 31), doubleword(fpr, 32)), (0xf1, 0xf5));
        let vmx = &notes[2].2;
        assert_eq!((doubleword(vmx, 4), doubleword(vmx, 5)), (0x3344, 0x1122));
        assert_eq!((doubleword(vmx, 64), doubleword(vmx, 66)), (0x5c, 0x5a));
        assert_eq!(doubleword(&notes[3].2, 1), 0x51);
    }

    #[test]
    fn the_nth_note_is_the_nth_processors_also_where_one_is_stopped() {
        let notes = notes_of(&head(&[None, Some(processor()), None], &[]));
        let statuses: Vec<(u8, u64)> = notes
            .iter()
            .filter(|(kind, ..)| *kind == elf::NT_PRSTATUS)
            .map(|(_, _, status)| (status[32], doubleword(&status[112..], 32)))
            .collect();
        assert_eq!(statuses, [(1, 0), (2, 0xc000_0000_0000_a000), (3, 0)]);
    }
}
