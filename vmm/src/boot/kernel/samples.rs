//! Kernels for tests.

#[cfg(test)]
pub(in crate::boot::kernel) mod packed;

/// Where [`elf`] is linked.
pub(super) const LINKED: u64 = 0xc000_0000_0000_0000;

/// A segment of a file that [`elf`] makes.
pub(super) struct Part<'a> {
    /// What is in the file.
    pub(super) content: &'a [u8],
    /// How long it is in memory.
    pub(super) memory_bytes: u64,
    /// Where it is linked and loaded, from the file's base on.
    pub(super) offset: u64,
}

/// A kernel that does nothing.
pub fn kernel() -> Vec<u8> {
    let part = part(b"0123456789abcdef", 0x2000);
    elf(object::elf::EM_PPC64, &[part], &[object::elf::PT_LOAD])
}

/// A segment at 64 KiB.
pub(super) fn part(content: &[u8], memory_bytes: u64) -> Part<'_> {
    Part {
        content,
        memory_bytes,
        offset: 0x1_0000,
    }
}

/// An ELF file of 64 bits, little-endian, that is entered 8 bytes behind its beginning. `kinds` are
/// those of the program headers: as many as there are parts, and more that have none.
pub(super) fn elf(machine: u16, parts: &[Part<'_>], kinds: &[u32]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend_from_slice(&2u16.to_le_bytes());
    file.extend_from_slice(&machine.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    let entry = LINKED + parts.first().map_or(0, |part| part.offset) + 8;
    file.extend_from_slice(&entry.to_le_bytes());
    file.extend_from_slice(&64u64.to_le_bytes());
    file.extend_from_slice(&[0; 12]);
    let count = u16::try_from(kinds.len()).expect("few");
    for half in [64u16, 56, count, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut place = 64 + 56 * u64::from(count);
    for (number, &kind) in kinds.iter().enumerate() {
        let part = parts.get(number);
        let length = part.map_or(0, |part| part.content.len() as u64);
        let offset = part.map_or(0, |part| part.offset);
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for word in [
            place,
            LINKED + offset,
            offset,
            length,
            part.map_or(0, |part| part.memory_bytes),
            0x1_0000,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        place += length;
    }
    for part in parts {
        file.extend_from_slice(part.content);
    }
    file
}
