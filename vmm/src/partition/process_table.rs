//! H_REGISTER_PROC_TBL: where a radix guest keeps its process table (PAPR,
//! "H_REGISTER_PROC_TBL"; the flags are PROC_TABLE_* in the kernel's asm/hvcall.h).

use parking_lot::Mutex;
use spapr_hypercalls::abi::{Arguments, ReturnCode};
use spapr_kvm::vm::{Vm, mmu};

const FLAG_GTSE: u64 = 0x01;
const FLAG_HASH: u64 = 0x02;
const FLAG_RADIX: u64 = 0x04;
const FLAG_NEW: u64 = 0x08;
const FLAG_MODIFY: u64 = 0x10;
const FLAGS: u64 = FLAG_GTSE | FLAG_HASH | FLAG_RADIX | FLAG_NEW | FLAG_MODIFY;

/// The partition-table entry's bit that says radix (Power ISA, III 6.7.6.1).
const PATE1_RADIX: u64 = 1 << 63;
/// Tables start below this address (Power ISA: bits 4 to 51 of the entry).
const BASE_END: u64 = 1 << 60;
/// Log2 of the largest table's size, less 12.
const SIZE_MOST: u64 = 24;

/// The partition-table entry that the guest registered last.
#[derive(Debug)]
pub struct ProcessTable(Mutex<u64>);

impl Default for ProcessTable {
    /// None registered: radix, no table.
    fn default() -> Self {
        Self(Mutex::new(PATE1_RADIX))
    }
}

impl ProcessTable {
    /// Serves the call: flags, base, page size (of a hash guest), log2 of the table's size less 12.
    #[inline(never)]
    pub(crate) fn register(&self, vm: &Vm, arguments: &Arguments) -> ReturnCode {
        let [flags, base, page_size, size, ..] = *arguments;
        let mut current = self.0.lock();
        let table = match check(*current, flags, base, page_size, size) {
            Ok(table) => table,
            Err(code) => return code,
        };
        let mut mode = mmu::RADIX;
        if flags & FLAG_GTSE != 0 {
            mode |= mmu::GTSE;
        }
        match vm.configure_v3_mmu(mode, table) {
            Ok(()) => {
                *current = table;
                ReturnCode::SUCCESS
            }
            Err(error) if error.errno() == Some(libc::ENODEV) => ReturnCode::NOT_AVAILABLE,
            Err(_) => ReturnCode::PARAMETER,
        }
    }
}

/// The entry for the partition table: that of a new radix table; of none, when the call only takes
/// the table away; or the `current` one, when the call changes nothing but the mode.
fn check(
    current: u64,
    flags: u64,
    base: u64,
    page_size: u64,
    size: u64,
) -> Result<u64, ReturnCode> {
    if flags & !FLAGS != 0 || flags & FLAG_HASH != 0 {
        return Err(ReturnCode::PARAMETER);
    }
    if flags & FLAG_MODIFY == 0 {
        // The mode stays radix, the only one here.
        let stays = flags & FLAG_RADIX != 0;
        return stays.then_some(current).ok_or(ReturnCode::PARAMETER);
    }
    if flags & FLAG_NEW == 0 {
        return Ok(PATE1_RADIX);
    }
    if flags & FLAG_RADIX == 0 {
        return Err(ReturnCode::PARAMETER);
    }
    if base & 0xfff != 0 || base >= BASE_END {
        return Err(ReturnCode::P2);
    }
    if page_size != 0 {
        return Err(ReturnCode::P3);
    }
    if size > SIZE_MOST {
        return Err(ReturnCode::P4);
    }
    Ok(PATE1_RADIX | base | size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_RADIX: u64 = FLAG_MODIFY | FLAG_NEW | FLAG_RADIX | FLAG_GTSE;
    const CURRENT: u64 = 0x8000_0000_0200_0004;

    #[test]
    fn a_new_radix_table_becomes_a_partition_table_entry() {
        let entry = check(CURRENT, NEW_RADIX, 0x100_0000, 0, 4);
        assert_eq!(entry, Ok(0x8000_0000_0100_0004));
    }

    #[test]
    fn a_change_of_mode_keeps_the_table_and_a_removal_does_not() {
        assert_eq!(check(CURRENT, FLAG_RADIX | FLAG_GTSE, 0, 0, 0), Ok(CURRENT));
        assert_eq!(check(CURRENT, FLAG_MODIFY, 0, 0, 0), Ok(PATE1_RADIX));
        assert_eq!(check(CURRENT, 0, 0, 0, 0), Err(ReturnCode::PARAMETER));
    }

    #[test]
    fn nonsense_is_refused_by_the_argument_that_is_wrong() {
        let check = |flags, base, page_size, size| check(CURRENT, flags, base, page_size, size);
        let parameter = Err(ReturnCode::PARAMETER);
        assert_eq!(check(0x20, 0, 0, 0), parameter);
        assert_eq!(
            check(FLAG_MODIFY | FLAG_NEW | FLAG_HASH, 0, 0, 0),
            parameter
        );
        assert_eq!(check(NEW_RADIX, 0x123, 0, 0), Err(ReturnCode::P2));
        assert_eq!(check(NEW_RADIX, BASE_END, 0, 0), Err(ReturnCode::P2));
        assert_eq!(check(NEW_RADIX, 0, 1, 0), Err(ReturnCode::P3));
        assert_eq!(check(NEW_RADIX, 0, 0, 25), Err(ReturnCode::P4));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_guest_asks_the_entry_stays_radix_and_within_its_fields(
            flags in 0u64..0x40, base: u64, page_size in 0u64..2, size in 0u64..32
        ) {
            if let Ok(entry) = check(CURRENT, flags, base, page_size, size) {
                assert_eq!(entry & !(PATE1_RADIX | (BASE_END - 1)), 0);
                assert_ne!(entry & PATE1_RADIX, 0);
            }
        }
    }
}
