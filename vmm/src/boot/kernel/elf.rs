//! What of an ELF kernel is loaded, and where.

use object::Endianness;
use object::elf::{FileHeader64, PN_XNUM, PT_INTERP, PT_LOAD, PT_TLS};
use object::read::ReadRef;
use object::read::elf::{FileHeader, ProgramHeader};

use super::super::layout::KERNEL_BASE;
use super::format::Unusable;

/// The bits of a segment's physical address that count: the rest is where the kernel is linked to
/// run, not where it is loaded.
const LOAD_ADDRESS_MASK: u64 = 0x0fff_ffff;

/// The header at the beginning of an ELF file, where nothing is executed.
const HEADER_BYTES: u64 = 64;

/// Why an ELF file is not loaded.
#[derive(Debug)]
pub(super) enum ElfError {
    /// It is something else than a kernel.
    NoKernel(Unusable),
    /// It cannot be loaded.
    Bad(String),
}

impl From<String> for ElfError {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

/// A piece of the file that is loaded.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file_offset: u64,
    pub(super) file_bytes: u64,
    pub(super) memory_bytes: u64,
    pub(super) virtual_address: u64,
    pub(super) guest_address: u64,
}

impl Segment {
    fn file_end(&self) -> u64 {
        self.file_offset.saturating_add(self.file_bytes)
    }

    fn guest_end(&self) -> u64 {
        self.guest_address.saturating_add(self.memory_bytes)
    }
}

/// A kernel as its program headers describe it.
#[derive(Debug)]
pub(super) struct Executable {
    /// Where the guest is entered.
    pub(super) entry: u64,
    /// What is loaded, by ascending address; no two overlap there.
    pub(super) segments: Vec<Segment>,
}

impl Executable {
    /// Reads the headers of an ELF file for ppc64le, of which `data` holds the beginning at least.
    ///
    /// # Errors
    /// When it is no kernel, or cannot be loaded.
    pub(super) fn parse<'data>(data: impl ReadRef<'data>) -> Result<Self, ElfError> {
        let header = FileHeader64::<Endianness>::parse(data).map_err(|e| e.to_string())?;
        let endian = header.endian().map_err(|e| e.to_string())?;
        if header.e_phnum.get(endian) == PN_XNUM {
            return Err("it has more program headers than any kernel"
                .to_owned()
                .into());
        }
        let headers = header
            .program_headers(endian, data)
            .map_err(|e| e.to_string())?;
        let is_program = |kind| matches!(kind, PT_INTERP | PT_TLS);
        if headers
            .iter()
            .any(|header| is_program(header.p_type(endian)))
        {
            let program = Unusable::new("a program or a library for Linux, no kernel");
            return Err(ElfError::NoKernel(program));
        }
        let mut segments: Vec<Segment> = headers
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD && header.p_memsz(endian) != 0)
            .map(|header| Segment {
                file_offset: header.p_offset(endian),
                file_bytes: header.p_filesz(endian),
                memory_bytes: header.p_memsz(endian),
                virtual_address: header.p_vaddr(endian),
                guest_address: KERNEL_BASE + (header.p_paddr(endian) & LOAD_ADDRESS_MASK),
            })
            .collect();
        segments.sort_by_key(|segment| segment.guest_address);
        check(&segments)?;
        let entry = entry(&segments, header.e_entry(endian))?;
        Ok(Self { entry, segments })
    }

    /// The first address behind it, its zeroed data included.
    pub(super) fn end(&self) -> u64 {
        let ends = self.segments.iter().map(Segment::guest_end);
        ends.max().unwrap_or(KERNEL_BASE)
    }

    /// How long the file has to be.
    pub(super) fn file_end(&self) -> u64 {
        let ends = self.segments.iter().map(Segment::file_end);
        ends.max().unwrap_or(0)
    }
}

/// Whether `segments`, by ascending address, can be loaded.
fn check(segments: &[Segment]) -> Result<(), String> {
    if segments.is_empty() {
        return Err("it has nothing to load".to_owned());
    }
    let is_odd = |segment: &&Segment| segment.file_bytes > segment.memory_bytes;
    if let Some(odd) = segments.iter().find(is_odd) {
        let at = odd.virtual_address;
        return Err(format!(
            "the segment at {at:#x} is longer in the file than in memory"
        ));
    }
    // Many that each fill all memory would take for ever to load.
    for pair in segments.windows(2) {
        if let [before, after] = pair
            && before.guest_end() > after.guest_address
        {
            let (first, second) = (before.virtual_address, after.virtual_address);
            return Err(format!(
                "the segments at {first:#x} and {second:#x} overlap in memory"
            ));
        }
    }
    Ok(())
}

/// Where the guest is entered, which is linked as `linked`.
fn entry(segments: &[Segment], linked: u64) -> Result<u64, ElfError> {
    let inside = segments.iter().find_map(|segment| {
        let offset = linked.checked_sub(segment.virtual_address)?;
        (offset < segment.memory_bytes).then_some((segment, offset))
    });
    let Some((segment, offset)) = inside else {
        return Err(format!("its entry {linked:#x} lies in none of its segments").into());
    };
    if segment.file_offset.saturating_add(offset) < HEADER_BYTES {
        // Of a library, 0 is the entry.
        let library = Unusable::new("a library for Linux or something else without an entry");
        return Err(ElfError::NoKernel(library));
    }
    Ok(segment.guest_address + offset)
}
