//! H_PUT_TCE_INDIRECT (PAPR "H_PUT_TCE_INDIRECT"): writes entries from a list in guest memory.

use super::{Engine, Place};
use crate::abi::ReturnCode;
use crate::address::{GuestPhysicalAddress, Ioba, PageShift};
use crate::world::{GuestMemory, HostIommu};

/// The most entries a list can have: it fills one 4 KiB page, to which it is aligned.
const LONGEST: usize = 512;

/// Lists up to this length are copied to a small buffer: clearing 4 KiB first would cost more than
/// all else that is done for them here.
const SHORT: usize = 16;

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The list is read once and before the window is locked; another processor that rewrites it
    /// meanwhile changes what is mapped, never what is validated against what is mapped. A list of
    /// no entries is not read.
    pub(super) fn put_tce_indirect(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        list: GuestPhysicalAddress,
        count: u64,
    ) -> ReturnCode {
        let mut short = [0; SHORT];
        let mut long;
        let entries = match usize::try_from(count) {
            Ok(length @ ..=SHORT) => &mut short[..length],
            Ok(length @ ..=LONGEST) => {
                long = [0; LONGEST];
                &mut long[..length]
            }
            _ => return Self::refuse_indirect(place),
        };
        let is_aligned = list.0 & PageShift::SIZE_4K.offset_mask() == 0;
        let is_read = entries.is_empty() || self.memory.read_doublewords(list, entries).is_ok();
        if !is_aligned || !is_read {
            return Self::refuse_indirect(place);
        }
        let mut state = place.slot.lock();
        state.counters.put_indirect += 1;
        self.change(place, &mut state, ioba, count, |transaction, range| {
            transaction.write(range.start, entries)
        })
    }

    fn refuse_indirect(place: &Place<'_, H>) -> ReturnCode {
        let mut state = place.slot.lock();
        state.counters.put_indirect += 1;
        state.counters.refused_to_guest += 1;
        ReturnCode::PARAMETER
    }
}
