//! What `spapr-vmm iommu` tells, as data. The names of the fields are those of `--json`: programs
//! rely on them (docs/iommu.md).

use serde::Serialize;
use spapr_devices::pci::{self, BarSpace};
use spapr_devices::vfio::{
    DeviceResources, GroupMember, InterruptKinds, IommuInfo, IommuVersion, LIMITED_START,
    MemoryLimit,
};

use super::libvirt::LibvirtLimit;
use crate::machine::locked_memory::{GroupWindows, Guest};
use crate::spec::choice;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Memory of the guest that the figures are for.
    pub memory_bytes: u64,
    /// The pieces in which `--lock first-map` locks it.
    pub region_bytes: u64,
    /// Size of a page of this host.
    pub host_page_bytes: u64,
    /// The dynamic windows that the guest is offered: `auto`, `off` or the most bytes of one.
    pub ddw: String,
    /// Whether KVM says that it can bind TCE tables to IOMMU groups; `None` when it could not be
    /// asked, and then tables are counted as if it could.
    pub kernel_tables: Option<bool>,
    /// The limit on locked memory.
    pub limit: Limit,
    /// The IOMMU groups asked for, in order.
    pub groups: Vec<GroupReport>,
    /// A guest that has devices of all free groups above, when there are several: for each
    /// container version that works for all.
    pub together: Vec<ContainerNeed>,
    /// What libvirt would set: for one group, and for all free ones when there are several.
    pub libvirt: Vec<LibvirtLimit>,
}

/// The limit on locked memory that is in force for this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// RLIMIT_MEMLOCK, the soft limit; `None` when there is none.
    pub limit_bytes: Option<u64>,
    /// Locked by this process already.
    pub locked_bytes: u64,
    /// Whether the limit does not bind this process, because it has CAP_IPC_LOCK.
    pub exempt: bool,
    /// What may still be locked; `None` when there is no bound.
    pub available_bytes: Option<u64>,
    /// What is missing for the most that the guest could lock, in the containers that it gets when
    /// it asks for no version, and how to raise the limit; `None` when nothing is missing.
    pub advice: Option<String>,
}

/// One IOMMU group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// Its number, the name of its node below /dev/vfio.
    pub group: u32,
    /// Its devices.
    pub members: Vec<Member>,
    /// Whether it can be passed through here and now.
    pub state: State,
    /// Why not, and what to do about it.
    pub reason: Option<String>,
    /// The versions of a container it can be put into; none when the group cannot be taken.
    pub containers: Vec<ContainerReport>,
    /// Whether the host has EEH for it; `None` when it could not be asked.
    pub eeh: Option<bool>,
}

/// A device of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name, a PCI address for a PCI function.
    pub name: String,
    /// What it is, as far as this host's pci.ids names it; `None` for what is no PCI device.
    pub model: Option<String>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// What it has to interrupt with; `None` when this user may not see that.
    pub interrupts: Option<Interrupts>,
    /// What it has of addresses and resets; `None` when the host does not tell.
    pub resources: Option<Resources>,
}

impl Member {
    /// What is told of a device.
    pub fn new(
        member: &GroupMember,
        interrupts: Option<InterruptKinds>,
        resources: Option<DeviceResources>,
    ) -> Self {
        Self {
            name: member.name.clone(),
            model: None,
            driver: member.driver.clone(),
            interrupts: interrupts.map(Interrupts::from),
            resources: resources.map(|found| Resources::new(&member.name, found)),
        }
    }
}

/// What a device has of addresses and resets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Its BARs.
    pub bars: Vec<Bar>,
    /// Numbers of BARs that the host has given no address, so that no guest has them.
    pub unplaced_bars: Vec<usize>,
    /// Size of its expansion ROM, which a guest has where it is asked for; 0 for none.
    pub rom_bytes: u64,
    /// How the host can reset it alone, best first (`reset_method` in sysfs).
    pub resets: Vec<String>,
    /// The functions on its bus, itself among them: what a reset of the bus resets.
    pub bus: Vec<Neighbour>,
}

/// A base address register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Its number.
    pub index: usize,
    /// `io`, `memory-32` or `memory-64`.
    pub space: &'static str,
    /// Whether it is prefetchable.
    pub prefetchable: bool,
    /// Its size.
    pub bytes: u64,
    /// The bus address that it gets in a guest when its device is alone behind a host bridge; `None` when there is no
    /// room.
    pub address: Option<u64>,
}

/// A function on a bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Its PCI address.
    pub name: String,
    /// Its IOMMU group.
    pub group: u32,
}

impl Resources {
    fn new(name: &str, found: DeviceResources) -> Self {
        let addresses = pci::bar_places(name, &found.bars).ok();
        let bars = found.bars.iter().enumerate().filter_map(|(index, bar)| {
            let bar = bar.as_ref()?;
            Some(Bar {
                index,
                space: match bar.space {
                    BarSpace::Io => "io",
                    BarSpace::Memory32 => "memory-32",
                    BarSpace::Memory64 => "memory-64",
                },
                prefetchable: bar.prefetchable,
                bytes: bar.bytes,
                address: addresses.map(|addresses| addresses[index]),
            })
        });
        let bus = found.bus.iter().map(|member| Neighbour {
            name: member.address.to_string(),
            group: member.group.0,
        });
        Self {
            bars: bars.collect(),
            bus: bus.collect(),
            unplaced_bars: found.unplaced,
            rom_bytes: found.rom_bytes,
            resets: found.resets,
        }
    }
}

/// What a device has to interrupt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interrupts {
    /// MSI vectors.
    pub msi: u32,
    /// MSI-X vectors.
    pub msi_x: u32,
    /// Whether it has an interrupt line.
    pub intx: bool,
}

impl From<InterruptKinds> for Interrupts {
    fn from(InterruptKinds { msi, msi_x, intx }: InterruptKinds) -> Self {
        Self { msi, msi_x, intx }
    }
}

/// Whether a group can be passed through here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It can.
    Free,
    /// Another process has it open: a guest runs with it, most likely.
    HeldByAnotherProcess,
    /// Its devices, or the one asked for, are not bound to vfio-pci.
    NotBound,
    /// The host uses other devices of it.
    UsedByHost,
    /// This user may not open it.
    NoPermission,
    /// It holds bridges alone.
    NoDevice,
    /// The kernel refused something else.
    Refused,
}

/// A group in a container of one version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContainerReport {
    /// Version of the container, 1 or 2.
    pub version: u32,
    /// Why there is no such container for the group.
    pub reason: Option<String>,
    /// What the container can do (VFIO_IOMMU_SPAPR_TCE_GET_INFO); `None` when there is none.
    pub iommu: Option<Iommu>,
    /// Size of the DMA window that the guest has from the start, where the host's starts; `None` when there is no
    /// such container.
    pub default_window_bytes: Option<u64>,
    /// The dynamic window that the guest makes of what it is offered; `None` when that is nothing.
    pub dynamic_window: Option<DynamicWindow>,
    /// The one that it makes for a device whose DMA mask has 33 to 63 bits; `None` when that is nothing.
    pub limited_window: Option<LimitedWindow>,
    /// What is locked for a guest with this group alone, for each `--lock`.
    pub locked: Vec<Locked>,
}

/// What a container can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Iommu {
    /// First bus address of the host's default window.
    pub window_start: u64,
    /// Its size.
    pub window_bytes: u64,
    /// Page sizes that a window may have, in bytes.
    pub page_sizes: Vec<u64>,
    /// How many windows there may be at a time, the default one among them; 0 when that one is all.
    pub dynamic_windows: u32,
    /// How many levels a window's table may have.
    pub levels: u32,
}

impl From<&IommuInfo> for Iommu {
    fn from(info: &IommuInfo) -> Self {
        Self {
            window_start: info.window_start.0,
            window_bytes: info.window_bytes,
            page_sizes: (0..u64::BITS)
                .map(|bit| 1 << bit)
                .filter(|size| info.page_sizes & size != 0)
                .collect(),
            dynamic_windows: info.dynamic_windows,
            levels: info.levels,
        }
    }
}

/// A dynamic window as Linux makes it of what it is offered: the largest, in the largest pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DynamicWindow {
    /// Its size in bytes.
    pub window_bytes: u64,
    /// Size of its pages in bytes.
    pub page_bytes: u64,
    /// What its tables take: the host's and KVM's.
    pub table_bytes: u64,
}

impl DynamicWindow {
    /// The window of `guest` behind the bridge of a container.
    pub fn of(guest: &Guest, container: &IommuInfo) -> Option<Self> {
        let offered = guest.offered(container)?;
        Some(Self {
            window_bytes: offered.bytes(),
            page_bytes: offered.largest_page().bytes(),
            table_bytes: guest.dynamic_window(container).total_bytes(),
        })
    }
}

/// A dynamic window at bus addresses of fewer than 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitedWindow {
    /// First bus address.
    pub window_start: u64,
    /// Its size in bytes.
    pub window_bytes: u64,
    /// Size of its pages in bytes.
    pub page_bytes: u64,
    /// What the host's tables take that it shares with the default window.
    pub table_bytes: u64,
}

impl LimitedWindow {
    /// The window of `guest` behind the bridge of a container.
    pub fn of(guest: &Guest, container: &IommuInfo) -> Option<Self> {
        let offered = guest.offered(container)?;
        let shared_bytes = offered.shared_window_bytes()?;
        Some(Self {
            window_start: LIMITED_START.0,
            window_bytes: offered.bytes(),
            page_bytes: offered.largest_page().bytes(),
            table_bytes: guest.shared_table_bytes(container, shared_bytes),
        })
    }
}

/// What several groups need in containers of one version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContainerNeed {
    /// Version of the containers.
    pub version: u32,
    /// How many groups there are, each in a container of its own.
    pub groups: u64,
    /// What is locked for a guest with all of them, for each `--lock`.
    pub locked: Vec<Locked>,
}

/// What is locked for a guest with the default DMA window of each group, and in the end the dynamic
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Locked {
    /// When memory is locked: `first-map` or `attach`.
    pub lock: String,
    /// Locked when the guest runs and has mapped nothing yet.
    pub before_dma_bytes: u64,
    /// Locked when each device has had its first mapping, all in one region of memory that is present.
    pub first_mapping_bytes: u64,
    /// Locked when the guest has mapped all of its memory and made its dynamic windows.
    pub most_bytes: u64,
    /// Of the most: memory, or a v1 container's whole window.
    pub memory_bytes: u64,
    /// Of the most: the host's TCE tables.
    pub host_table_bytes: u64,
    /// Of the most: KVM's TCE tables.
    pub kvm_table_bytes: u64,
    /// What the limit allows of it.
    pub verdict: Verdict,
}

/// What the limit in force allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All that the guest could come to need.
    Enough,
    /// The guest's first mappings, but not all of its memory: from some point on it gets errors.
    EnoughToStart,
    /// Not even the first mappings: `spapr-vmm run` refuses to start the guest.
    TooLow,
}

/// What is locked for `guest` with devices of `groups`, for each `--lock`, and what `limit` allows.
pub fn locked(guest: &Guest, groups: &[GroupWindows], limit: &MemoryLimit) -> Vec<Locked> {
    choice::LOCK
        .iter()
        .map(|lock| {
            let need = guest.need(groups, lock.value);
            let (first, most) = (need.first_mapping.total_bytes(), need.most.total_bytes());
            Locked {
                lock: lock.name.to_owned(),
                before_dma_bytes: need.before_dma.total_bytes(),
                first_mapping_bytes: first,
                most_bytes: most,
                memory_bytes: need.most.memory_bytes,
                host_table_bytes: need.most.host_table_bytes,
                kvm_table_bytes: need.most.kvm_table_bytes,
                verdict: match (limit.allows(first), limit.allows(most)) {
                    (_, true) => Verdict::Enough,
                    (true, false) => Verdict::EnoughToStart,
                    (false, false) => Verdict::TooLow,
                },
            }
        })
        .collect()
}

/// The number of a version, as `--iommu` and VFIO count them.
pub fn version_number(version: IommuVersion) -> u32 {
    match version {
        IommuVersion::V1 => 1,
        IommuVersion::V2 => 2,
    }
}

impl Report {
    /// The most that a guest with what this report is for could lock, in the containers that it
    /// gets when it asks for no version: the best that there are, which are told first.
    pub fn most_bytes(&self) -> Option<u64> {
        let best = self.groups.iter().filter_map(|group| {
            let mut containers = group.containers.iter();
            containers.find(|container| !container.locked.is_empty())
        });
        let alone = best.flat_map(|container| &container.locked);
        let together = self.together.first().into_iter();
        let together = together.flat_map(|need| &need.locked);
        alone.chain(together).map(|locked| locked.most_bytes).max()
    }
}

#[cfg(test)]
mod tests {
    use spapr_devices::vfio::Platform;
    use spapr_hypercalls::address::{Ioba, PageShift};
    use spapr_hypercalls::locking::RegionSize;

    use super::*;
    use crate::spec::DdwMode;

    const GIB: u64 = 1 << 30;

    fn verdicts(limit_bytes: u64, version: IommuVersion) -> [Verdict; 2] {
        let guest = Guest {
            ram_bytes: GIB,
            ram_end: GIB,
            region: RegionSize::for_ram(GIB),
            kernel_tables: true,
            host_page_bytes: 65536,
            ddw: DdwMode::Off,
            largest_page: PageShift::SIZE_64K,
        };
        let container = IommuInfo {
            version,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 2 * GIB,
            page_sizes: 0x1000,
            dynamic_windows: 0,
            levels: 1,
        };
        let windows = GroupWindows::new(container, None).unwrap();
        let limit = MemoryLimit {
            limit_bytes: Some(limit_bytes),
            locked_bytes: 65536,
            exempt: false,
        };
        let [first_map, attach] = &locked(&guest, &[windows], &limit)[..] else {
            panic!("two modes")
        };
        assert_eq!((&*first_map.lock, &*attach.lock), ("first-map", "attach"));
        [first_map.verdict, attach.verdict]
    }

    #[test]
    fn the_limit_is_judged_to_the_byte_and_for_each_mode() {
        use Verdict::{Enough, EnoughToStart, TooLow};
        let (tables, region, used) = (6208 * 1024, 256 << 20, 65536);
        let v2 = |limit| verdicts(limit, IommuVersion::V2);
        assert_eq!(v2(GIB + tables + used), [Enough, Enough]);
        assert_eq!(v2(GIB + tables + used - 1), [EnoughToStart, TooLow]);
        assert_eq!(v2(region + tables + used), [EnoughToStart, TooLow]);
        assert_eq!(v2(region + tables + used - 1), [TooLow, TooLow]);
        let v1 = |limit| verdicts(limit, IommuVersion::V1);
        assert_eq!(v1(2 * GIB + (8 << 20) + used), [Enough, Enough]);
        assert_eq!(v1(2 * GIB + (8 << 20) + used - 1), [TooLow, TooLow]);
    }

    #[test]
    fn page_sizes_are_listed_in_bytes() {
        let info = IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 2 * GIB,
            page_sizes: 0x4021_1000,
            dynamic_windows: 2,
            levels: 5,
        };
        let sizes = Iommu::from(&info).page_sizes;
        assert_eq!(sizes, [4096, 65536, 2 << 20, GIB]);
    }
}
