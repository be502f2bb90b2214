//! Property names longer than 31 characters.
//!
//! The Devicetree specification allows 31 (v0.4, 2.2.4.1), and `vm-fdt` holds to it; PAPR has longer
//! ones, which Linux looks up by their full name. So a long name is written cut, and made whole in
//! the finished blob: names stand in a block of strings of their own, at its end.

/// The most characters that the writer takes.
const MOST: usize = 31;

const STRUCTURE_OFFSET: usize = 8;
const STRINGS_OFFSET: usize = 12;
const TOTAL_BYTES: usize = 4;
const STRINGS_BYTES: usize = 32;

const TOKEN_BEGIN_NODE: u32 = 1;
const TOKEN_PROPERTY: u32 = 3;
const TOKEN_END: u32 = 9;

/// The name to write in place of `name`.
pub(super) fn cut(name: &str) -> &str {
    name.get(..MOST).unwrap_or(name)
}

/// Whether [`cut`] leaves something out.
pub(super) const fn is_long(name: &str) -> bool {
    name.len() > MOST
}

/// Makes `names` whole, which were cut when `blob` was written. A cut name must not stand for two long ones.
pub(super) fn restore<'a>(blob: &mut Vec<u8>, names: impl IntoIterator<Item = &'a str>) {
    let strings = word(blob, STRINGS_OFFSET);
    let mut moved = Vec::new();
    for name in names {
        if let Some(offset) = string_offset(&blob[strings..], cut(name)) {
            moved.push((offset, blob.len() - strings));
            blob.extend_from_slice(name.as_bytes());
            blob.push(0);
        }
    }
    let total = blob.len();
    put_word(blob, STRINGS_BYTES, total - strings);
    put_word(blob, TOTAL_BYTES, total);
    rename(blob, &moved);
}

/// Where a string is in the block of strings.
fn string_offset(strings: &[u8], wanted: &str) -> Option<usize> {
    let mut offset = 0;
    for string in strings.split(|&byte| byte == 0) {
        if string == wanted.as_bytes() {
            return Some(offset);
        }
        offset += string.len() + 1;
    }
    None
}

/// Has properties whose name is at the first of two offsets have the one at the second.
fn rename(blob: &mut [u8], moved: &[(usize, usize)]) {
    let mut at = word(blob, STRUCTURE_OFFSET);
    loop {
        let token = word(blob, at);
        at += 4;
        match u32::try_from(token) {
            Ok(TOKEN_BEGIN_NODE) => at = padded(string_end(blob, at) + 1),
            Ok(TOKEN_PROPERTY) => {
                let (length, name) = (word(blob, at), word(blob, at + 4));
                if let Some((_, whole)) = moved.iter().find(|(cut, _)| *cut == name) {
                    put_word(blob, at + 4, *whole);
                }
                at = padded(at + 8 + length);
            }
            Ok(TOKEN_END) => break,
            _ => {}
        }
    }
}

fn word(blob: &[u8], at: usize) -> usize {
    let bytes = [blob[at], blob[at + 1], blob[at + 2], blob[at + 3]];
    u32::from_be_bytes(bytes) as usize
}

fn put_word(blob: &mut [u8], at: usize, value: usize) {
    // The tree is far smaller than 4 GiB: its room is 2 MiB.
    let value = u32::try_from(value).unwrap_or(u32::MAX);
    blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn string_end(blob: &[u8], start: usize) -> usize {
    blob[start..]
        .iter()
        .position(|&byte| byte == 0)
        .map_or(blob.len(), |length| start + length)
}

fn padded(at: usize) -> usize {
    at.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use vm_fdt::FdtWriter;

    use super::*;

    #[test]
    fn long_names_are_whole_in_the_finished_tree() {
        let long = "ibm,query-interrupt-source-number";
        let other = "ibm,reset-pe-dma-windows-extended";
        let mut tree = FdtWriter::new().expect("tree");
        let root = tree.begin_node("").expect("root");
        tree.property_u32("short", 1).expect("property");
        tree.property_u32(cut(long), 0x2018).expect("property");
        let child = tree.begin_node("child").expect("child");
        tree.property_u32(cut(other), 3).expect("property");
        tree.property_u32(cut(long), 2).expect("property");
        tree.end_node(child).expect("end");
        tree.end_node(root).expect("end");
        let mut blob = tree.finish().expect("blob");
        restore(
            &mut blob,
            [long, "ibm,one-that-no-node-of-this-tree-has", other],
        );

        let tree = fdt::Fdt::new(&blob).expect("valid tree");
        let value = |path, name| Some(tree.find_node(path)?.property(name)?.value);
        assert_eq!(value("/", long), Some(&[0, 0, 0x20, 0x18][..]));
        assert_eq!(value("/child", long), Some(&[0, 0, 0, 2][..]));
        assert_eq!(value("/child", other), Some(&[0, 0, 0, 3][..]));
        assert_eq!(tree.total_size(), blob.len());
        let strings = word(&blob, STRINGS_OFFSET);
        assert_eq!(strings + word(&blob, STRINGS_BYTES), blob.len());
        assert_eq!(value("/", "short"), Some(&[0, 0, 0, 1][..]));
        assert_eq!(value("/", cut(long)), None);
    }
}
