//! What a guest tells of its memory (virtio 5.5.6.3): tags with numbers.

use std::time::{SystemTime, UNIX_EPOCH};

/// What a tag stands for, from tag 0 on, as QEMU's monitor names it. Memory is in bytes.
pub const STATISTICS: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];

/// Bytes of a tag with its number (`struct virtio_balloon_stat`), little-endian.
const ENTRY_BYTES: usize = 10;
/// Entries that are looked at: each tag twice, so that new ones do not hide old ones.
const MOST_ENTRIES: usize = 2 * STATISTICS.len();
/// Bytes that are looked at.
pub(super) const MOST_BYTES: usize = ENTRY_BYTES * MOST_ENTRIES;

/// A set of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Numbers in the order of [`STATISTICS`], where the guest told one.
    pub values: [Option<u64>; STATISTICS.len()],
    /// Seconds since 1970 at which they came; 0 if none has come.
    pub seconds: u64,
}

impl Statistics {
    /// Reads what has just come.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut statistics = Self {
            seconds: now.map_or(0, |now| now.as_secs()),
            ..Self::default()
        };
        for entry in bytes.chunks_exact(ENTRY_BYTES) {
            let [a, b, value @ ..] = entry else {
                continue;
            };
            let tag = usize::from(u16::from_le_bytes([*a, *b]));
            if let Some(known) = statistics.values.get_mut(tag)
                && let Ok(value) = value.try_into()
            {
                *known = Some(u64::from_le_bytes(value));
            }
        }
        statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tags_and_pieces_of_entries_are_passed_over() {
        let mut bytes = vec![5, 0, 1, 2, 0, 0, 0, 0, 0, 0];
        bytes.extend([0xff; 10]);
        bytes.extend([0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([1, 0, 9]);
        let read = Statistics::read(&bytes);
        assert_eq!(read.values[5], Some(0x201));
        assert_eq!((read.values[0], read.values[1]), (Some(7), None));
        assert!(read.seconds > 1_700_000_000);
    }
}
