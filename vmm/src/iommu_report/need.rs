//! How much memory gets locked for a guest, and when: arithmetic alone.
//!
//! `spapr-vmm run` checks the limit by it before a guest starts, `spapr-vmm iommu` tells it.

use spapr_devices::vfio::{IommuInfo, IommuVersion, LockedMemoryNeed};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::LockPolicy;

use crate::machine::description::DEFAULT_WINDOW;

/// A container, as far as it decides what gets locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerKind {
    /// Its version.
    pub version: IommuVersion,
    /// Size of the host's own default window in bytes, all of which a v1 container is charged.
    pub host_window_bytes: u64,
}

impl From<&IommuInfo> for ContainerKind {
    fn from(info: &IommuInfo) -> Self {
        Self {
            version: info.version,
            host_window_bytes: info.window_bytes,
        }
    }
}

/// A guest, as far as it decides what gets locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Size of its memory in bytes.
    pub ram_bytes: u64,
    /// The regions in which its memory gets locked.
    pub region: RegionSize,
    /// Whether KVM holds a table for each window of a v2 container.
    pub kernel_tables: bool,
    /// Size of a page of the host in bytes.
    pub host_page_bytes: u64,
}

/// What is locked for a guest at three points of its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The guest runs and has mapped nothing for DMA.
    pub before_dma: LockedMemoryNeed,
    /// Each device has had its first mapping, all in one region of memory.
    pub first_mapping: LockedMemoryNeed,
    /// All of the guest's memory has been mapped at some time.
    pub most: LockedMemoryNeed,
}

impl Guest {
    /// What is locked when the guest has a device in each of `containers`, which have one IOMMU
    /// group each, and uses the default window of each.
    ///
    /// Registered memory counts once for all v2 containers: the kernel keeps one list of it for
    /// the process (`mm_iommu_new` in arch/powerpc/mm/book3s64/iommu_api.c). A v1 container
    /// registers none; it is charged its whole window when it is enabled.
    pub fn need(&self, containers: &[ContainerKind], lock: LockPolicy) -> Need {
        let windows = self.windows(containers);
        let registers = containers
            .iter()
            .any(|container| container.version == IommuVersion::V2);
        let ram_bytes = if registers { self.ram_bytes } else { 0 };
        let with = |memory_bytes: u64| sum(windows, LockedMemoryNeed::v2(memory_bytes));
        let most = with(ram_bytes);
        match lock {
            LockPolicy::FirstMap => Need {
                before_dma: LockedMemoryNeed::default(),
                first_mapping: with(ram_bytes.min(self.region.bytes())),
                most,
            },
            LockPolicy::Attach => Need {
                before_dma: LockedMemoryNeed {
                    // The kernel makes a v1 container's table with the first mapping.
                    host_table_bytes: self.windows_of(containers, IommuVersion::V2),
                    ..most
                },
                first_mapping: most,
                most,
            },
        }
    }

    /// What the windows of all containers take, and v1 containers are charged for memory.
    fn windows(&self, containers: &[ContainerKind]) -> LockedMemoryNeed {
        containers
            .iter()
            .map(|container| self.window(container))
            .fold(LockedMemoryNeed::default(), sum)
    }

    /// Host tables of the containers of one version.
    fn windows_of(&self, containers: &[ContainerKind], version: IommuVersion) -> u64 {
        containers
            .iter()
            .filter(|container| container.version == version)
            .map(|container| self.window(container).host_table_bytes)
            .fold(0, u64::saturating_add)
    }

    fn window(&self, container: &ContainerKind) -> LockedMemoryNeed {
        match container.version {
            IommuVersion::V1 => {
                LockedMemoryNeed::v1(container.host_window_bytes, self.host_page_bytes)
            }
            IommuVersion::V2 => LockedMemoryNeed::v2(0).with_window(
                DEFAULT_WINDOW.page_shift,
                DEFAULT_WINDOW.entries << DEFAULT_WINDOW.page_shift.get(),
                1,
                self.kernel_tables,
                self.host_page_bytes,
            ),
        }
    }
}

fn sum(a: LockedMemoryNeed, b: LockedMemoryNeed) -> LockedMemoryNeed {
    LockedMemoryNeed {
        memory_bytes: a.memory_bytes.saturating_add(b.memory_bytes),
        host_table_bytes: a.host_table_bytes.saturating_add(b.host_table_bytes),
        kvm_table_bytes: a.kvm_table_bytes.saturating_add(b.kvm_table_bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const V2: ContainerKind = ContainerKind {
        version: IommuVersion::V2,
        host_window_bytes: 2 * GIB,
    };
    const V1: ContainerKind = ContainerKind {
        version: IommuVersion::V1,
        ..V2
    };
    /// Tables of the default window as a host with 64 KiB pages was seen to charge them (VmLck).
    const TABLES: u64 = 6208 * 1024;

    fn guest(ram_bytes: u64) -> Guest {
        Guest {
            ram_bytes,
            region: RegionSize::for_ram(ram_bytes),
            kernel_tables: true,
            host_page_bytes: 65536,
        }
    }

    fn totals(need: Need) -> [u64; 3] {
        [need.before_dma, need.first_mapping, need.most].map(|need| need.total_bytes())
    }

    #[test]
    fn with_first_map_a_v2_container_locks_tables_and_a_region_and_then_what_is_mapped() {
        let need = guest(GIB).need(&[V2], LockPolicy::FirstMap);
        assert_eq!(totals(need), [0, TABLES + 256 * MIB, TABLES + GIB]);
        // A guest smaller than a region has no more to lock.
        let need = guest(128 * MIB).need(&[V2], LockPolicy::FirstMap);
        assert_eq!(totals(need), [0, TABLES + 128 * MIB, TABLES + 128 * MIB]);
    }

    #[test]
    fn with_attach_a_v2_container_locks_all_at_the_start() {
        let need = guest(GIB).need(&[V2], LockPolicy::Attach);
        assert_eq!(totals(need), [TABLES + GIB; 3]);
    }

    #[test]
    fn a_v1_container_is_charged_its_window_and_then_its_table_whatever_the_guest_has() {
        let all = 2 * GIB + 8 * MIB;
        for ram_bytes in [128 * MIB, 64 * GIB] {
            let need = guest(ram_bytes).need(&[V1], LockPolicy::FirstMap);
            assert_eq!(totals(need), [0, all, all]);
            let need = guest(ram_bytes).need(&[V1], LockPolicy::Attach);
            assert_eq!(totals(need), [2 * GIB, all, all]);
        }
    }

    #[test]
    fn without_a_table_in_kvm_its_bytes_are_not_counted() {
        let mut guest = guest(GIB);
        guest.kernel_tables = false;
        let need = guest.need(&[V2], LockPolicy::Attach);
        assert_eq!(totals(need), [4 * MIB + GIB; 3]);
    }

    #[test]
    fn memory_counts_once_for_several_v2_containers_and_windows_for_each() {
        let need = guest(GIB).need(&[V2, V2, V2], LockPolicy::FirstMap);
        assert_eq!(totals(need), [0, 3 * TABLES + 256 * MIB, 3 * TABLES + GIB]);
        let mixed = guest(GIB).need(&[V2, V1], LockPolicy::Attach);
        let all = TABLES + GIB + 2 * GIB + 8 * MIB;
        assert_eq!(totals(mixed), [all - 8 * MIB, all, all]);
    }

    #[test]
    fn a_guest_without_devices_locks_nothing() {
        for lock in [LockPolicy::FirstMap, LockPolicy::Attach] {
            assert_eq!(guest(GIB).need(&[], lock), Need::default());
        }
    }

    fn containers() -> impl Strategy<Value = Vec<ContainerKind>> {
        let container = (any::<bool>(), 24u32..=40).prop_map(|(v1, bits)| ContainerKind {
            version: if v1 {
                IommuVersion::V1
            } else {
                IommuVersion::V2
            },
            host_window_bytes: 1 << bits,
        });
        prop::collection::vec(container, 0..5)
    }

    proptest! {
        #[test]
        fn what_is_locked_only_grows_with_memory_devices_time_and_kvms_tables(
            ram in 8u64..=1 << 16,
            more in 0u64..=1 << 16,
            kernel_tables: bool,
            large_pages: bool,
            containers in containers(),
        ) {
            let small = Guest {
                kernel_tables,
                host_page_bytes: if large_pages { 65536 } else { 4096 },
                ..guest(ram * 16 * MIB)
            };
            let large = Guest {
                ram_bytes: small.ram_bytes + more * 16 * MIB,
                region: RegionSize::for_ram(small.ram_bytes + more * 16 * MIB),
                ..small
            };
            for lock in [LockPolicy::FirstMap, LockPolicy::Attach] {
                let need = totals(small.need(&containers, lock));
                prop_assert!(need.is_sorted(), "{need:?}");
                let with_more_memory = totals(large.need(&containers, lock));
                prop_assert!(need.iter().zip(with_more_memory).all(|(a, b)| *a <= b));
                if let Some((_, fewer)) = containers.split_last() {
                    let with_fewer = totals(small.need(fewer, lock));
                    prop_assert!(with_fewer.iter().zip(need).all(|(a, b)| *a <= b));
                }
                let with_tables = Guest { kernel_tables: true, ..small };
                let with_tables = totals(with_tables.need(&containers, lock));
                prop_assert!(need.iter().zip(with_tables).all(|(a, b)| *a <= b));
            }
            let [_, first, most] = totals(small.need(&containers, LockPolicy::FirstMap));
            let attach = totals(small.need(&containers, LockPolicy::Attach));
            prop_assert!(first <= attach[1]);
            prop_assert_eq!(most, attach[2]);
        }

        #[test]
        fn no_guest_makes_the_arithmetic_overflow(
            ram_bytes: u64, host_window_bytes: u64, containers in containers(),
        ) {
            let guest = Guest { ram_bytes, ..guest(GIB) };
            let huge = ContainerKind { host_window_bytes, ..V1 };
            let all = [&containers[..], &[V2, huge]].concat();
            let need = guest.need(&all, LockPolicy::Attach);
            prop_assert!(need.most.total_bytes() >= ram_bytes);
        }
    }
}
