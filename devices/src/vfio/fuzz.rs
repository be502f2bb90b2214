//! What the kernel tells of a device's regions, as a fuzzer's bytes have it.

use super::region::{self, Region, RegionIndex};

/// Page sizes of POWER hosts.
const PAGES: [u64; 2] = [4 << 10, 64 << 10];

/// Reads `bytes` as an answer to VFIO_DEVICE_GET_REGION_INFO.
///
/// # Panics
/// When a part to map is not in whole pages, or not in the region.
pub fn region_info(bytes: &[u8]) {
    let words = bytes.as_chunks::<4>().0.iter();
    let words: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
    let _ = region::words_needed(&words);
    for index in RegionIndex::all() {
        let Some(region) = Region::parse(index, &words) else {
            return;
        };
        for page in PAGES {
            for area in region.areas_to_map(page) {
                assert!(area.start < area.end, "{region:x?}");
                assert!(
                    area.start % page == 0 && area.end % page == 0,
                    "{region:x?}"
                );
                assert!(area.start < region.bytes, "{region:x?}");
                // The last page of a region may reach beyond it.
                assert!(area.end - region.bytes.min(area.end) < page, "{region:x?}");
            }
        }
    }
}
