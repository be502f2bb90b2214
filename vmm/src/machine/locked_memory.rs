//! How much memory gets locked for a guest, and when: arithmetic alone.
//!
//! `spapr-vmm run` checks the limit by it before a guest starts, `spapr-vmm iommu` tells it.

use spapr_devices::dma_windows::WindowLimits;
use spapr_devices::vfio::{
    DefaultWindowError, IommuInfo, IommuVersion, LockedMemoryNeed, fewest_levels,
};
use spapr_hypercalls::address::PageShift;
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::LockPolicy;
use spapr_hypercalls::world::Geometry;

use super::dma_windows;
use crate::spec::DdwMode;

/// A guest, as far as it decides what gets locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Size of its memory in bytes.
    pub ram_bytes: u64,
    /// The guest address behind the last of it.
    pub ram_end: u64,
    /// The regions in which its memory gets locked.
    pub region: RegionSize,
    /// Whether KVM holds a table for each window of a v2 container.
    pub kernel_tables: bool,
    /// Size of a page of the host in bytes.
    pub host_page_bytes: u64,
    /// The dynamic DMA windows it is offered.
    pub ddw: DdwMode,
    /// The largest page that a window may have.
    pub largest_page: PageShift,
}

/// An IOMMU group's container, and the default DMA window of the guest's host bridge for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupWindows {
    /// What the container can do.
    pub container: IommuInfo,
    /// What the guest has from the start.
    pub default_window: Geometry,
}

impl GroupWindows {
    /// With a default window as [`IommuInfo::default_window`] makes it.
    ///
    /// # Errors
    /// When the host has no such window.
    pub fn new(
        container: IommuInfo,
        wanted_bytes: Option<u64>,
    ) -> Result<Self, DefaultWindowError> {
        Ok(Self {
            container,
            default_window: container.default_window(wanted_bytes)?,
        })
    }

    /// The bytes of the default window.
    pub fn default_bytes(&self) -> u64 {
        self.default_window.entries << self.default_window.page_shift.get()
    }
}

/// What is locked for a guest at three points of its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The guest runs and has mapped nothing for DMA: where KVM serves TCEs, the default windows are
    /// there.
    pub before_dma: LockedMemoryNeed,
    /// Each device has had its first mapping, all in one region of memory, and the region is present: of
    /// one that is not, a block is locked at first.
    pub first_mapping: LockedMemoryNeed,
    /// All of the guest's memory has been mapped at some time, and it has made the dynamic window
    /// that it is offered behind each bridge.
    pub most: LockedMemoryNeed,
}

impl Guest {
    /// What is locked when the guest has a device in each of `groups`.
    ///
    /// Registered memory counts once for all v2 containers: the kernel keeps one list of it for
    /// the process (`mm_iommu_new` in arch/powerpc/mm/book3s64/iommu_api.c). A v1 container
    /// registers none; it is charged its whole window when it is enabled.
    pub fn need(&self, groups: &[GroupWindows], lock: LockPolicy) -> Need {
        let is_v2 = |group: &&GroupWindows| group.container.version == IommuVersion::V2;
        let of_v2 = groups.iter().filter(is_v2);
        let registers = of_v2.clone().next().is_some();
        let memory = |bytes| LockedMemoryNeed::v2(if registers { bytes } else { 0 });
        let default_windows = total(groups.iter().map(|group| self.default_window(group)));
        let all = sum(default_windows, memory(self.ram_bytes));
        let most_windows = total(groups.iter().map(|group| self.most_windows(group)));
        let (before_dma, first_mapping) = match lock {
            LockPolicy::FirstMap => {
                let region = memory(self.ram_bytes.min(self.region.bytes()));
                let before_dma = if self.kernel_tables {
                    total(of_v2.map(|group| self.default_window(group)))
                } else {
                    LockedMemoryNeed::default()
                };
                (before_dma, sum(default_windows, region))
            }
            LockPolicy::Attach => {
                // The kernel makes a v1 container's table with the first mapping.
                let of_v2 = of_v2.map(|group| self.default_window(group));
                let before_dma = LockedMemoryNeed {
                    host_table_bytes: total(of_v2).host_table_bytes,
                    ..all
                };
                (before_dma, all)
            }
        };
        Need {
            before_dma,
            first_mapping,
            most: sum(most_windows, memory(self.ram_bytes)),
        }
    }

    /// The dynamic windows that the guest is offered behind the bridge of a container, if any.
    pub fn offered(&self, container: &IommuInfo) -> Option<WindowLimits> {
        dma_windows::limits(self.ddw, container, self.largest_page, self.ram_end)
    }

    /// What the window takes that Linux makes of what it is offered: the largest, in the largest
    /// pages (`enable_ddw` in arch/powerpc/platforms/pseries/iommu.c). Nothing when none is offered.
    pub fn dynamic_window(&self, container: &IommuInfo) -> LockedMemoryNeed {
        self.offered(container)
            .map_or_else(LockedMemoryNeed::default, |offered| {
                self.window_of(container, offered.largest_page(), offered.bytes())
            })
    }

    /// What the host's tables take of a window of `bytes` in pages of 4 KiB, in which the default one and one at limited
    /// addresses are.
    pub fn shared_table_bytes(&self, container: &IommuInfo, bytes: u64) -> u64 {
        let need = self.window_of(container, PageShift::SIZE_4K, bytes);
        need.host_table_bytes
    }

    /// The default window and the one that the guest makes, or where there is one at a time, the dearer of them.
    fn most_windows(&self, group: &GroupWindows) -> LockedMemoryNeed {
        let default = self.default_window(group);
        let dynamic = self.dynamic_window(&group.container);
        match group.container.dynamic_windows {
            1 if dynamic.total_bytes() > default.total_bytes() => dynamic,
            1 => default,
            _ => sum(default, dynamic),
        }
    }

    fn default_window(&self, group: &GroupWindows) -> LockedMemoryNeed {
        let container = &group.container;
        match container.version {
            IommuVersion::V1 => LockedMemoryNeed::v1(
                container.window_bytes,
                self.host_page_bytes,
                container.platform,
            ),
            IommuVersion::V2 => {
                let page = group.default_window.page_shift;
                self.window_of(container, page, group.default_bytes())
            }
        }
    }

    /// A window of a v2 container, its table in as few levels as are tried first: more are only
    /// when the host finds no room.
    fn window_of(&self, container: &IommuInfo, page: PageShift, bytes: u64) -> LockedMemoryNeed {
        LockedMemoryNeed::v2(0).with_window(
            page,
            bytes,
            fewest_levels((bytes >> page.get()).max(1)).min(container.levels),
            self.kernel_tables,
            self.host_page_bytes,
            container.platform,
        )
    }
}

fn total(needs: impl Iterator<Item = LockedMemoryNeed>) -> LockedMemoryNeed {
    needs.fold(LockedMemoryNeed::default(), sum)
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
    use spapr_devices::vfio::Platform;
    use spapr_hypercalls::address::Ioba;

    use super::*;
    use crate::spec::ByteSize;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const V2: GroupWindows = GroupWindows {
        container: IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 2 * GIB,
            page_sizes: 0x4021_1000,
            dynamic_windows: 2,
            levels: 5,
        },
        default_window: Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_4K,
            entries: 1 << 18,
        },
    };
    const V1: GroupWindows = GroupWindows {
        container: IommuInfo {
            version: IommuVersion::V1,
            platform: Platform::BareMetal,
            page_sizes: 0x1000,
            dynamic_windows: 0,
            levels: 1,
            ..V2.container
        },
        ..V2
    };
    /// Tables of the default window as a host with 64 KiB pages was seen to charge them (VmLck).
    const TABLES: u64 = 6208 * 1024;

    fn guest(ram_bytes: u64) -> Guest {
        Guest {
            ram_bytes,
            ram_end: ram_bytes,
            region: RegionSize::for_ram(ram_bytes),
            kernel_tables: true,
            host_page_bytes: 65536,
            ddw: DdwMode::Off,
            largest_page: PageShift::SIZE_64K,
        }
    }

    fn totals(need: Need) -> [u64; 3] {
        [need.before_dma, need.first_mapping, need.most].map(|need| need.total_bytes())
    }

    #[test]
    fn with_first_map_a_v2_container_locks_tables_then_a_region_and_then_what_is_mapped() {
        let need = guest(GIB).need(&[V2], LockPolicy::FirstMap);
        assert_eq!(totals(need), [TABLES, TABLES + 256 * MIB, TABLES + GIB]);
        // A guest smaller than a region has no more to lock.
        let need = guest(128 * MIB).need(&[V2], LockPolicy::FirstMap);
        assert_eq!(
            totals(need),
            [TABLES, TABLES + 128 * MIB, TABLES + 128 * MIB]
        );
        // Without KVM's tables, nothing is made before.
        let served_here = Guest {
            kernel_tables: false,
            ..guest(GIB)
        };
        let need = served_here.need(&[V2], LockPolicy::FirstMap);
        assert_eq!(totals(need), [0, 4 * MIB + 256 * MIB, 4 * MIB + GIB]);
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
    fn a_window_too_large_for_one_level_takes_more_for_the_upper_ones() {
        let with = |ram_bytes| {
            let guest = Guest {
                ddw: DdwMode::Auto,
                largest_page: PageShift::SIZE_4K,
                kernel_tables: false,
                ..guest(ram_bytes)
            };
            guest.dynamic_window(&V2.container).host_table_bytes
        };
        // 8 bytes twice for each entry; from 2^22 entries on, two levels.
        assert_eq!(with(8 * GIB), ((8 * GIB) >> 12) * 16);
        assert!(with(16 * GIB) > ((16 * GIB) >> 12) * 16);
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
        assert_eq!(
            totals(need),
            [3 * TABLES, 3 * TABLES + 256 * MIB, 3 * TABLES + GIB]
        );
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

    #[test]
    fn a_dynamic_window_takes_tables_for_all_of_memory_and_comes_after_the_first_mapping() {
        let with = |ddw, largest_page| {
            let guest = Guest {
                ddw,
                largest_page,
                ..guest(2 * GIB)
            };
            let need = guest.need(&[V2, V1], LockPolicy::FirstMap);
            let without = Guest {
                ddw: DdwMode::Off,
                ..guest
            }
            .need(&[V2, V1], LockPolicy::FirstMap);
            assert_eq!(need.first_mapping, without.first_mapping);
            need.most.total_bytes() - without.most.total_bytes()
        };
        // Entries of 8 bytes thrice, for the hardware, the host and KVM; and KVM's record of 120
        // bytes and list of pages, in pages of 64 KiB.
        let tables = |entries: u64| entries * 24 + 65536;
        assert_eq!(with(DdwMode::Auto, PageShift::SIZE_64K), tables(1 << 15));
        assert_eq!(with(DdwMode::Auto, PageShift::SIZE_4K), tables(1 << 19));
        let bound = DdwMode::AtMost(ByteSize(512 * MIB));
        assert_eq!(with(bound, PageShift::SIZE_64K), 3 * 65536 + 65536);
    }

    /// A host whose window is `host_bytes` large, with a default window as it is by itself.
    fn on(group: GroupWindows, host_bytes: u64) -> GroupWindows {
        let container = IommuInfo {
            window_bytes: host_bytes,
            ..group.container
        };
        GroupWindows::new(container, None).expect("no larger than the host's")
    }

    #[test]
    fn a_small_window_takes_small_tables() {
        let small = on(V2, 256 * MIB);
        assert_eq!(small.default_bytes(), 256 * MIB);
        let need = guest(GIB).need(&[small], LockPolicy::FirstMap);
        // Entries of 8 bytes thrice, and KVM's record in a page.
        assert_eq!(need.before_dma.total_bytes(), (1 << 16) * 24 + 65536);
    }

    #[test]
    fn where_there_is_one_window_at_a_time_the_dearer_one_counts() {
        let one = GroupWindows {
            container: IommuInfo {
                dynamic_windows: 1,
                ..V2.container
            },
            ..V2
        };
        let most = |group, ram_bytes| {
            let guest = Guest {
                ddw: DdwMode::Auto,
                ..guest(ram_bytes)
            };
            let need = guest.need(&[group], LockPolicy::FirstMap).most;
            need.host_table_bytes + need.kvm_table_bytes
        };
        assert_eq!(most(one, GIB), TABLES, "the default one's pages are small");
        let dynamic = guest(GIB).window_of(&one.container, PageShift::SIZE_64K, 64 * GIB);
        assert_eq!(most(one, 64 * GIB), dynamic.total_bytes());
        assert!(most(V2, 64 * GIB) > most(one, 64 * GIB));
    }

    #[test]
    fn a_window_of_a_host_with_one_level_is_in_one_table() {
        let container = IommuInfo {
            levels: 1,
            ..V2.container
        };
        let guest = Guest {
            ddw: DdwMode::Auto,
            largest_page: PageShift::SIZE_64K,
            kernel_tables: false,
            ..guest(512 * GIB)
        };
        // More than 2^21 entries: a host with more levels takes two.
        let need = guest.dynamic_window(&container).host_table_bytes;
        assert_eq!(need, ((512 * GIB) >> 16) * 16);
        assert!(guest.dynamic_window(&V2.container).host_table_bytes > need);
    }

    fn containers() -> impl Strategy<Value = Vec<GroupWindows>> {
        let container = (any::<bool>(), 24u32..=40)
            .prop_map(|(v1, bits)| on(if v1 { V1 } else { V2 }, 1 << bits));
        prop::collection::vec(container, 0..5)
    }

    proptest! {
        #[test]
        fn what_is_locked_only_grows_with_memory_devices_time_and_kvms_tables(
            ram in 8u64..=1 << 16,
            more in 0u64..=1 << 16,
            kernel_tables: bool,
            large_pages: bool,
            dynamic: bool,
            containers in containers(),
        ) {
            let small = Guest {
                kernel_tables,
                host_page_bytes: if large_pages { 65536 } else { 4096 },
                ddw: if dynamic { DdwMode::Auto } else { DdwMode::Off },
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
            let guest = Guest { ram_bytes, ddw: DdwMode::Auto, ..guest(GIB) };
            let all = [&containers[..], &[V2, on(V1, host_window_bytes.max(4096))]].concat();
            let need = guest.need(&all, LockPolicy::Attach);
            prop_assert!(need.most.total_bytes() >= ram_bytes);
        }
    }
}
