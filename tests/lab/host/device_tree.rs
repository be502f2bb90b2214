//! The device tree of a host with huge pages.
//!
//! A POWER9's firmware lists the page sizes of its radix MMU, and Linux has huge pages of those
//! sizes. QEMU's `powernv` machines list none, so the kernel makes do with base pages. This takes
//! the tree that QEMU makes and adds the list; QEMU then hands it to the firmware as it is.

use std::fs;
use std::io;
use std::path::Path;

use super::qemu::{self, Settings};

/// What tells a processor's page sizes (`radix_dt_scan_page_sizes` in
/// arch/powerpc/mm/book3s64/radix_pgtable.c).
const PROPERTY: &str = "ibm,processor-radix-AP-encodings";

/// Pages of 4 KiB, 64 KiB, 2 MiB and 1 GiB: each the exponent, and in the upper three bits what
/// tlbie calls it. The same on POWER9 and POWER10.
const ENCODINGS: [u32; 4] = [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e];

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Where the header has what (Devicetree Specification v0.4, 5.2).
const TOTAL_SIZE: usize = 4;
const STRUCTURE_AT: usize = 8;
const STRINGS_AT: usize = 12;
const STRINGS_SIZE: usize = 32;
const STRUCTURE_SIZE: usize = 36;

/// Has the emulator write the tree of the machine that `settings` describe, adds the page sizes,
/// and leaves it at `path`.
pub(super) fn write(settings: &Settings<'_>, path: &Path) -> io::Result<()> {
    let output = qemu::dump_command(settings, path).output()?;
    let tree = fs::read(path).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::new(error.kind(), format!("{error}; the emulator said: {said}"))
    })?;
    let tree = with_page_sizes(&tree)
        .ok_or_else(|| io::Error::other("what the emulator wrote is no device tree"))?;
    fs::write(path, tree)
}

/// The tree with the page sizes in each processor's node; `None` if it is no tree with processors.
fn with_page_sizes(tree: &[u8]) -> Option<Vec<u8>> {
    let (structure_at, strings_at) = (offset(tree, STRUCTURE_AT)?, offset(tree, STRINGS_AT)?);
    let structure = part(tree, structure_at, offset(tree, STRUCTURE_SIZE)?)?;
    let strings = part(tree, strings_at, offset(tree, STRINGS_SIZE)?)?;
    // As QEMU writes it: the structure, the strings, nothing behind them.
    if word(tree, 0)? != MAGIC || strings_at < structure_at + structure.len() {
        return None;
    }
    let structure = edited(structure, u32::try_from(strings.len()).ok()?)?;
    let mut result = tree[..structure_at].to_vec();
    result.extend(&structure);
    let strings_at = result.len();
    result.extend(strings);
    result.extend(PROPERTY.as_bytes());
    result.push(0);
    let strings_size = result.len() - strings_at;
    for (at, value) in [
        (TOTAL_SIZE, result.len()),
        (STRINGS_AT, strings_at),
        (STRINGS_SIZE, strings_size),
        (STRUCTURE_SIZE, structure.len()),
    ] {
        let value = u32::try_from(value).ok()?;
        result[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    Some(result)
}

/// The structure block with the property, whose name is at `name`, in each processor's node.
fn edited(structure: &[u8], name: u32) -> Option<Vec<u8>> {
    let mut result = Vec::new();
    let mut at = 0;
    let mut path: Vec<&[u8]> = Vec::new();
    let mut processors = 0;
    loop {
        let start = at;
        let token = word(structure, at)?;
        at += 4;
        let mut is_processor = false;
        match token {
            BEGIN_NODE => {
                let rest = structure.get(at..)?;
                let length = rest.iter().position(|&byte| byte == 0)?;
                path.push(&rest[..length]);
                at = (at + length + 1).next_multiple_of(4);
                let under_cpus = path.len() == 3 && path[1] == b"cpus";
                is_processor = under_cpus && path[2].starts_with(b"PowerPC,");
            }
            END_NODE => drop(path.pop()?),
            PROP => at = (at + 8 + offset(structure, at)?).next_multiple_of(4),
            NOP | END => {}
            _ => return None,
        }
        result.extend(structure.get(start..at)?);
        if is_processor {
            processors += 1;
            let length = u32::try_from(size_of_val(&ENCODINGS)).ok()?;
            for word in [PROP, length, name].into_iter().chain(ENCODINGS) {
                result.extend(word.to_be_bytes());
            }
        }
        if token == END {
            return (processors > 0).then_some(result);
        }
    }
}

fn part(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = part(bytes, at, 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one processor, whose node has one property.
    fn tree() -> Vec<u8> {
        let mut structure = Vec::new();
        let mut words = |words: &[u32]| {
            for word in words {
                structure.extend(word.to_be_bytes());
            }
        };
        words(&[BEGIN_NODE, 0]);
        words(&[BEGIN_NODE, u32::from_be_bytes(*b"cpus"), 0]);
        let name = *b"PowerPC,POWER9@0";
        words(&[BEGIN_NODE]);
        for part in name.chunks(4) {
            words(&[u32::from_be_bytes(part.try_into().unwrap())]);
        }
        words(&[0, PROP, 1, 0, 0x0700_0000]);
        words(&[END_NODE, END_NODE, END_NODE, END]);
        let strings = b"reg\0";
        let header = 40u32;
        let [structure_size, strings_size] =
            [structure.len(), strings.len()].map(|size| u32::try_from(size).unwrap());
        let strings_at = header + structure_size;
        let mut tree = Vec::new();
        for word in [
            MAGIC,
            strings_at + strings_size,
            header,
            strings_at,
            header,
            17,
            16,
            0,
            strings_size,
            structure_size,
        ] {
            tree.extend(word.to_be_bytes());
        }
        tree.extend(&structure);
        tree.extend(strings);
        tree
    }

    #[test]
    fn each_processor_gets_the_page_sizes_and_the_rest_stays() {
        let before = tree();
        let after = with_page_sizes(&before).unwrap();
        let added = 4 * (3 + ENCODINGS.len()) + PROPERTY.len() + 1;
        assert_eq!(after.len(), before.len() + added);
        assert_eq!(offset(&after, TOTAL_SIZE), Some(after.len()));
        let strings_at = offset(&after, STRINGS_AT).unwrap();
        assert_eq!(offset(&after, STRUCTURE_SIZE), Some(strings_at - 40));
        let mut strings = b"reg\0".to_vec();
        strings.extend(PROPERTY.as_bytes());
        strings.push(0);
        assert_eq!(after[strings_at..], strings);
        // The property stands first in the node, and the one that was there follows.
        let begin = 40 + 8 + 12 + 4 + 20;
        assert_eq!(word(&after, begin), Some(PROP));
        assert_eq!(word(&after, begin + 8), Some(4));
        assert_eq!(word(&after, begin + 12), Some(ENCODINGS[0]));
        assert_eq!(word(&after, begin + 28), Some(PROP));
        assert_eq!(word(&after, begin + 36), Some(0));
    }

    #[test]
    fn what_is_no_tree_with_processors_is_refused() {
        let tree = tree();
        for length in 0..tree.len() {
            assert!(with_page_sizes(&tree[..length]).is_none(), "{length} bytes");
        }
        let text = String::from_utf8_lossy(&tree).replace("PowerPC", "Powerpc");
        assert!(with_page_sizes(text.as_bytes()).is_none());
    }
}
