//! Writing a flattened device tree (Devicetree Specification, chapter 5) into memory that is there,
//! node by node: what Open Firmware tells piece by piece becomes what [`crate::fdt`] reads.

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
/// The header, and behind it the end of an empty list of reserved memory.
const STRUCTURE: usize = 40 + 16;

/// A tree that is being written. What does not fit any more makes [`TreeWriter::finish`] fail.
#[derive(Debug)]
pub struct TreeWriter<'a> {
    bytes: &'a mut [u8],
    end: usize,
    names: &'a mut [u8],
    names_end: usize,
    fits: bool,
}

impl<'a> TreeWriter<'a> {
    /// A tree in `bytes`; `names` is for the names of its properties until it is finished.
    pub fn new(bytes: &'a mut [u8], names: &'a mut [u8]) -> Self {
        let fits = bytes.len() >= STRUCTURE;
        Self {
            bytes,
            end: STRUCTURE,
            names,
            names_end: 0,
            fits,
        }
    }

    /// Begins a node; its properties and then its children follow.
    pub fn begin_node(&mut self, name: &str) {
        self.cell(BEGIN_NODE);
        let length = (name.len() + 1).next_multiple_of(4);
        if let Some(place) = self.take(length) {
            place.fill(0);
            place[..name.len()].copy_from_slice(name.as_bytes());
        }
    }

    /// Ends the node begun last.
    pub fn end_node(&mut self) {
        self.cell(END_NODE);
    }

    /// Adds a property of `length` bytes, which `fill` writes.
    pub fn property(&mut self, name: &str, length: usize, fill: impl FnOnce(&mut [u8])) {
        let Some(name) = self.name(name) else {
            self.fits = false;
            return;
        };
        self.cell(PROPERTY);
        self.cell(u32::try_from(length).unwrap_or(u32::MAX));
        self.cell(name);
        let Some(padded) = length.checked_next_multiple_of(4) else {
            self.fits = false;
            return;
        };
        if let Some(place) = self.take(padded) {
            let (value, padding) = place.split_at_mut(length);
            padding.fill(0);
            fill(value);
        }
    }

    /// Ends the tree and returns its length in bytes; `None` when it did not fit.
    pub fn finish(mut self) -> Option<usize> {
        self.cell(END);
        let strings = self.end;
        let names_end = self.names_end;
        let names = core::mem::take(&mut self.names);
        self.take(names_end)?.copy_from_slice(&names[..names_end]);
        let size = |bytes: usize| u32::try_from(bytes).ok();
        let header = [
            MAGIC,
            size(self.end)?,
            size(STRUCTURE)?,
            size(strings)?,
            40,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            0,
            size(names_end)?,
            size(strings - STRUCTURE)?,
        ];
        for (place, cell) in self.bytes.chunks_exact_mut(4).zip(header) {
            place.copy_from_slice(&cell.to_be_bytes());
        }
        self.bytes[40..STRUCTURE].fill(0);
        self.fits.then_some(self.end)
    }

    /// Where among the names this one is.
    fn name(&mut self, name: &str) -> Option<u32> {
        let mut at = 0;
        while at < self.names_end {
            let rest = &self.names[at..self.names_end];
            let length = rest.iter().position(|&byte| byte == 0)?;
            if &rest[..length] == name.as_bytes() {
                return u32::try_from(at).ok();
            }
            at += length + 1;
        }
        let place = self.names.get_mut(at..at + name.len() + 1)?;
        place[..name.len()].copy_from_slice(name.as_bytes());
        place[name.len()] = 0;
        self.names_end += name.len() + 1;
        u32::try_from(at).ok()
    }

    fn cell(&mut self, value: u32) {
        if let Some(place) = self.take(4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn take(&mut self, length: usize) -> Option<&mut [u8]> {
        let end = self.end.checked_add(length);
        let range = self.end..end.unwrap_or(usize::MAX);
        let place = self.bytes.get_mut(range);
        if place.is_some() {
            self.end += length;
        } else {
            self.fits = false;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::{Fdt, cell};

    fn write(bytes: &mut [u8], names: &mut [u8]) -> Option<usize> {
        let mut tree = TreeWriter::new(bytes, names);
        tree.begin_node("");
        tree.begin_node("chosen");
        let text = b"calls=3\0";
        tree.property("bootargs", text.len(), |value| value.copy_from_slice(text));
        tree.end_node();
        for (number, name) in ["cpu@0", "cpu@1"].into_iter().enumerate() {
            tree.begin_node(name);
            tree.property("odd", 5, |value| value.fill(7));
            let number = u32::try_from(number).unwrap();
            tree.property("reg", 4, |value| {
                value.copy_from_slice(&number.to_be_bytes());
            });
            tree.end_node();
        }
        tree.end_node();
        tree.finish()
    }

    #[test]
    fn what_is_written_reads_back() {
        let (mut bytes, mut names) = ([0xff; 1024], [0xff; 64]);
        let length = write(&mut bytes, &mut names).unwrap();
        let tree = Fdt::new(&bytes[..length]).unwrap();
        let names: Vec<_> = tree.nodes().map(|node| (node.name, node.depth)).collect();
        assert_eq!(names, [("", 0), ("chosen", 1), ("cpu@0", 1), ("cpu@1", 1)]);
        assert_eq!(
            tree.node("chosen").unwrap().text("bootargs"),
            Some("calls=3")
        );
        let last = tree.nodes().last().unwrap();
        assert_eq!(last.property("odd"), Some(&[7; 5][..]));
        assert_eq!(cell(last.property("reg").unwrap(), 0), Some(1));
    }

    #[test]
    fn a_tree_that_does_not_fit_is_none() {
        let mut bytes = [0; 1024];
        let needed = write(&mut bytes, &mut [0; 64]).unwrap();
        for length in 0..needed {
            assert_eq!(write(&mut bytes[..length], &mut [0; 64]), None);
        }
        assert_eq!(write(&mut bytes[..needed], &mut [0; 64]), Some(needed));
        assert_eq!(write(&mut bytes, &mut [0; 8]), None);
    }
}
