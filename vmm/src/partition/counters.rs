//! Counters of one processor's exits, kept by its thread alone.

use std::collections::BTreeMap;

use spapr_hypercalls::abi;

/// PAPR's hypercall numbers are multiples of 4 below this.
const PAPR_NUMBERS_END: u64 = 0x500;

/// PAPR's hypercalls, then RTAS, then all others.
const SLOTS: usize = (PAPR_NUMBERS_END / 4) as usize + 2;

/// How often a processor left the guest, and what for.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Exits for an access to memory that is no RAM.
    pub mmio: u64,
    /// Exits because the thread was asked to look up.
    pub interrupted: u64,
    hypercalls: [u64; SLOTS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            mmio: 0,
            interrupted: 0,
            hypercalls: [0; SLOTS],
        }
    }
}

impl Counters {
    /// Counts one hypercall.
    #[inline]
    pub fn count_hypercall(&mut self, number: u64) {
        self.hypercalls[slot(number)] += 1;
    }

    /// Adds what another processor counted.
    pub fn add(&mut self, other: &Self) {
        self.mmio += other.mmio;
        self.interrupted += other.interrupted;
        for (sum, count) in self.hypercalls.iter_mut().zip(&other.hypercalls) {
            *sum += count;
        }
    }

    /// Exits by kind.
    pub fn exits(&self) -> BTreeMap<String, u64> {
        let hypercalls = self.hypercalls.iter().sum();
        [
            ("papr_hcall", hypercalls),
            ("mmio", self.mmio),
            ("interrupted", self.interrupted),
        ]
        .into_iter()
        .map(|(kind, count)| (kind.to_owned(), count))
        .collect()
    }

    /// Hypercalls by name, those that came.
    pub fn hypercalls(&self) -> BTreeMap<String, u64> {
        (0..)
            .zip(&self.hypercalls)
            .filter(|&(_, &count)| count != 0)
            .map(|(slot, &count)| (slot_name(slot), count))
            .collect()
    }
}

#[inline]
fn slot(number: u64) -> usize {
    match number {
        abi::KVMPPC_H_RTAS => SLOTS - 2,
        // In range: the last slot of PAPR's is (PAPR_NUMBERS_END - 1) / 4.
        papr @ 0..PAPR_NUMBERS_END if papr.is_multiple_of(4) => {
            usize::try_from(papr / 4).unwrap_or(SLOTS - 1)
        }
        _ => SLOTS - 1,
    }
}

fn slot_name(slot: u64) -> String {
    let name = match slot {
        rtas if rtas == PAPR_NUMBERS_END / 4 => abi::name(abi::KVMPPC_H_RTAS),
        other if other > PAPR_NUMBERS_END / 4 => Some("other"),
        papr => abi::name(papr * 4),
    };
    name.map_or_else(|| format!("{:#x}", slot * 4), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypercalls_are_counted_by_name_and_summed() {
        let mut counters = Counters::default();
        for number in [0x20, 0x20, 0xf000, 0x37c, 0x4fc, 0x500, 3, u64::MAX] {
            counters.count_hypercall(number);
        }
        let mut sum = Counters {
            mmio: 5,
            ..Counters::default()
        };
        sum.add(&counters);
        sum.add(&counters);
        let by_name = sum.hypercalls();
        let count = |name: &str| by_name.get(name).copied().unwrap_or(0);
        assert_eq!(count("H_PUT_TCE"), 4);
        assert_eq!(count("KVMPPC_H_RTAS"), 2);
        assert_eq!(count("H_REGISTER_PROC_TBL"), 2);
        assert_eq!(count("0x4fc"), 2);
        assert_eq!(count("other"), 6);
        assert_eq!(sum.exits()["papr_hcall"], 16);
        assert_eq!(sum.exits()["mmio"], 5);
    }
}
