//! Images of QEMU's format qcow2 (docs/interop/qcow2.rst there), read by other means than the ones that are tested, as
//! far as the lab's have it: version 3, no compression, no snapshots, no encryption, 16-bit reference counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An L2 entry's cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// An L2 entry reads as zeroes.
const ZERO: u64 = 1;

/// What is found of an image.
#[derive(Debug)]
pub(crate) struct Found {
    /// The disk's first bytes; what the image does not have is zero.
    pub(crate) disk: Vec<u8>,
    /// Clusters that are counted as used and that nothing uses.
    pub(crate) unused: usize,
}

struct Reader {
    bytes: Vec<u8>,
    cluster: usize,
    /// How often each cluster is used, by its number.
    uses: BTreeMap<usize, u64>,
}

impl Reader {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        // What lies behind the end of the file is zero.
        let byte = |place: usize| u64::from(self.bytes.get(place).copied().unwrap_or(0));
        (at..at + bytes).fold(0, |number, place| number << 8 | byte(place))
    }

    fn offset(&self, at: usize) -> usize {
        usize::try_from(self.number(at, 8) & OFFSET).expect("an offset")
    }

    fn is_used(&mut self, offset: usize, clusters: usize) {
        assert!(
            offset.is_multiple_of(self.cluster),
            "{offset:#x} is no cluster's"
        );
        for cluster in 0..clusters {
            *self
                .uses
                .entry(offset / self.cluster + cluster)
                .or_default() += 1;
        }
    }
}

/// Reads `disk_bytes` from the disk's beginning on, and fails unless the image is whole: each cluster that is used is
/// counted as often as it is used.
#[track_caller]
pub(crate) fn read(path: &Path, disk_bytes: u64) -> Found {
    let bytes = fs::read(path).expect("an image");
    assert_eq!(bytes.get(..8), Some(&b"QFI\xfb\0\0\0\x03"[..]), "no image");
    let mut image = Reader {
        bytes,
        cluster: 0,
        uses: BTreeMap::new(),
    };
    let small = |number: u64| usize::try_from(number).expect("small");
    image.cluster = 1 << image.number(20, 4);
    let cluster = image.cluster;
    assert_eq!(image.number(72, 8), 0, "it says that it is not whole");
    image.is_used(0, 1);
    let (l1_entries, l1) = (small(image.number(36, 4)), image.offset(40));
    image.is_used(l1, (8 * l1_entries).div_ceil(cluster));
    let mut disk = vec![0; small(disk_bytes)];
    for entry in 0..l1_entries {
        let l2 = image.offset(l1 + 8 * entry);
        if l2 == 0 {
            continue;
        }
        image.is_used(l2, 1);
        for place in 0..cluster / 8 {
            let word = image.number(l2 + 8 * place, 8);
            assert_eq!(word & COMPRESSED, 0, "a cluster is compressed");
            let data = image.offset(l2 + 8 * place);
            if data == 0 {
                continue;
            }
            image.is_used(data, 1);
            let at = (entry * (cluster / 8) + place) * cluster;
            if word & ZERO == 0 && at < disk.len() {
                let end = (data + cluster).min(image.bytes.len());
                let there = image.bytes.get(data..end).unwrap_or_default();
                disk[at..at + there.len()].copy_from_slice(there);
            }
        }
    }
    let unused = check_counts(&mut image);
    Found { disk, unused }
}

/// Fails unless what is used is counted; returns how many clusters are counted and not used.
#[track_caller]
fn check_counts(image: &mut Reader) -> usize {
    let cluster = image.cluster;
    let table = image.offset(48);
    let clusters = usize::try_from(image.number(56, 4)).expect("small");
    image.is_used(table, clusters);
    let blocks: Vec<usize> = (0..clusters * cluster / 8)
        .map(|entry| image.offset(table + 8 * entry))
        .collect();
    for block in blocks.iter().filter(|block| **block != 0) {
        image.is_used(*block, 1);
    }
    let in_block = cluster / 2;
    let count = |number: usize| match blocks.get(number / in_block) {
        None | Some(0) => 0,
        Some(block) => image.number(block + 2 * (number % in_block), 2),
    };
    for (number, uses) in &image.uses {
        assert_eq!(
            count(*number),
            *uses,
            "cluster {number} is used {uses} times"
        );
    }
    let counted = blocks.iter().zip(0..).filter(|(block, _)| **block != 0);
    let numbers = counted.flat_map(|(_, block)| block * in_block..(block + 1) * in_block);
    numbers
        .filter(|number| count(*number) != 0 && !image.uses.contains_key(number))
        .count()
}
