//! H_REGISTER_PROC_TBL: where a radix guest keeps its process table (PAPR,
//! "H_REGISTER_PROC_TBL"; the flags are PROC_TABLE_* in the kernel's asm/hvcall.h).

use kvm_bindings::{KVM_PPC_MMUV3_GTSE, KVM_PPC_MMUV3_RADIX};
use kvm_ioctls::VmFd;
use spapr_hypercalls::abi::{Arguments, ReturnCode};

use crate::kvm::vm::{PseriesVm, VmError};

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

/// Serves the call: flags, base, page size (of a hash guest), log2 of the table's size less 12.
pub(super) fn register(vm: &VmFd, arguments: &Arguments) -> ReturnCode {
    let [flags, base, page_size, size, ..] = *arguments;
    let table = match check(flags, base, page_size, size) {
        Ok(table) => table,
        Err(code) => return code,
    };
    let mut mode = u64::from(KVM_PPC_MMUV3_RADIX);
    if flags & FLAG_GTSE != 0 {
        mode |= u64::from(KVM_PPC_MMUV3_GTSE);
    }
    match vm
        .configure_v3_mmu(mode, table)
        .map_err(|error| VmError::errno(&error))
    {
        Ok(()) => ReturnCode::SUCCESS,
        Err(Some(libc::ENODEV)) => ReturnCode::NOT_AVAILABLE,
        Err(_) => ReturnCode::PARAMETER,
    }
}

/// The entry for the partition table: of a new radix table, or, for a call that only changes the
/// mode or takes the table away, of none.
fn check(flags: u64, base: u64, page_size: u64, size: u64) -> Result<u64, ReturnCode> {
    if flags & !FLAGS != 0 || flags & FLAG_HASH != 0 {
        return Err(ReturnCode::PARAMETER);
    }
    if flags & FLAG_MODIFY == 0 || flags & FLAG_NEW == 0 {
        // Without a new table the mode stays radix, the only one here.
        return if flags & FLAG_RADIX != 0 {
            Ok(PATE1_RADIX)
        } else {
            Err(ReturnCode::PARAMETER)
        };
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

    #[test]
    fn a_new_radix_table_becomes_a_partition_table_entry() {
        assert_eq!(
            check(NEW_RADIX, 0x100_0000, 0, 4),
            Ok(0x8000_0000_0100_0004)
        );
    }

    #[test]
    fn nonsense_is_refused_by_the_argument_that_is_wrong() {
        assert_eq!(check(0x20, 0, 0, 0), Err(ReturnCode::PARAMETER));
        assert_eq!(
            check(FLAG_MODIFY | FLAG_NEW | FLAG_HASH, 0, 0, 0),
            Err(ReturnCode::PARAMETER)
        );
        assert_eq!(check(NEW_RADIX, 0x123, 0, 0), Err(ReturnCode::P2));
        assert_eq!(check(NEW_RADIX, BASE_END, 0, 0), Err(ReturnCode::P2));
        assert_eq!(check(NEW_RADIX, 0, 1, 0), Err(ReturnCode::P3));
        assert_eq!(check(NEW_RADIX, 0, 0, 25), Err(ReturnCode::P4));
    }
}
