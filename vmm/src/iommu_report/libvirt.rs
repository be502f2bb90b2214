//! The limit on locked memory that libvirt gives a pseries guest, to compare with.

use serde::Serialize;

/// libvirt's own arithmetic for a guest with devices of some IOMMU groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LibvirtLimit {
    /// IOMMU groups whose devices the guest has.
    pub groups: u64,
    /// PCI host bridges of the guest: one for each group, and the default one, `pci.0`, on which
    /// libvirt never puts a passed-through device by itself.
    pub host_bridges: u64,
    /// RLIMIT_MEMLOCK in bytes.
    pub limit_bytes: u64,
}

impl LibvirtLimit {
    /// What libvirt sets for a KVM guest of `ram_bytes`, with devices of `groups` IOMMU groups, no
    /// memory to be plugged in later, and neither `<hard_limit>` nor `<locked/>` in its XML
    /// (`getPPC64MemLockLimitBytes` in src/qemu/qemu_domain.c).
    ///
    /// libvirt counts in KiB, for `n` host bridges, those without devices included:
    ///
    /// - for any guest, 1/128 of memory (a hash page table), 4 MiB for each bridge (tables of
    ///   emulated devices), and 8 MiB;
    /// - with passed-through devices besides, what a v1 or a v2 container takes, whichever is more:
    ///   2 GiB (the v1 window) for each bridge; or all memory, 1/512 of it for each bridge (tables
    ///   of a dynamic window over all of memory in 4 KiB pages), and 8 MiB.
    pub fn new(ram_bytes: u64, groups: u64) -> Self {
        const MIB: u64 = 1 << 10;
        const GIB: u64 = 1 << 20;
        let memory = ram_bytes / 1024;
        let host_bridges = groups.saturating_add(1);
        let base = (memory / 128)
            .saturating_add(host_bridges.saturating_mul(4 * MIB))
            .saturating_add(8 * MIB);
        let v1 = host_bridges.saturating_mul(2 * GIB);
        let v2 = memory
            .saturating_add(host_bridges.saturating_mul(memory / 512))
            .saturating_add(8 * MIB);
        let passed_through = if groups == 0 { 0 } else { v1.max(v2) };
        Self {
            groups,
            host_bridges,
            limit_bytes: base.saturating_add(passed_through).saturating_mul(1024),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The figures of libvirt's own test, tests/qemumemlocktest.c, for guests of 1 GiB:
    /// `pseries-kvm`, and `pseries-hostdev` with one device on a host bridge of its own.
    #[test]
    fn the_formula_gives_what_libvirts_own_test_expects() {
        assert_eq!(LibvirtLimit::new(1 << 30, 0).limit_bytes, 20_971_520);
        let with_device = LibvirtLimit::new(1 << 30, 1);
        assert_eq!(with_device.limit_bytes, 4_320_133_120);
        assert_eq!(with_device.host_bridges, 2);
    }

    #[test]
    fn from_some_size_on_memory_decides() {
        // In MiB: 512 + 3 * 4 + 8, and 65536 + 3 * 128 + 8.
        let large = LibvirtLimit::new(64 << 30, 2);
        assert_eq!(large.limit_bytes >> 20, 532 + 65536 + 392);
    }

    proptest! {
        #[test]
        fn more_memory_or_groups_never_lower_it(ram: u64, more: u64, groups in 0u64..1000) {
            let limit = |ram, groups| LibvirtLimit::new(ram, groups).limit_bytes;
            prop_assert!(limit(ram, groups) <= limit(ram.saturating_add(more), groups));
            prop_assert!(limit(ram, groups) <= limit(ram, groups + 1));
        }
    }
}
