//! Host bridges with what is behind them: passed-through devices and those that this process makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use spapr_devices::board::Board;
use spapr_devices::dma::Windows;
use spapr_devices::dma_windows::DmaWindows;
use spapr_devices::interrupts::LisnAllocator;
use spapr_devices::pci::{DeviceFunction, FunctionBackend, HostBridge};
use spapr_devices::rtas;
use spapr_devices::tree::Node;
use spapr_devices::vfio::{USUAL_WINDOW_BYTES, VfioEndpoint, host_page_bytes, kvm_table_bytes};
use spapr_hypercalls::abi;
use spapr_hypercalls::address::{Ioba, PageShift};
use spapr_hypercalls::engine::{Engine, HostBridge as EngineBridge};
use spapr_hypercalls::world::Geometry;
use spapr_kvm::host::Capabilities;
use spapr_kvm::vfio_device::VfioKvmDevice;
use spapr_kvm::vm::Vm;

use super::device_resets::DeviceResets;
use super::error::{KvmRefusal, MachineError};
use super::kept::Kept;
use super::passthrough::{AttachedGroup, PassthroughError, TakenGroup};
use super::policy::policy;
use super::virtual_devices::{self, PlacedFunction};
use super::{bulk_calls, device_interrupts, dma_windows, memory_check};
use crate::control::Alarm;
use crate::memory::GuestRam;
use crate::partition::bridge_iommu::{BridgeIommu, VirtualIommu};
use crate::partition::host_iommu::GroupIommu;
use crate::spec::MachineDescription;

/// What the device tree says of them.
pub(super) fn describe(
    bridges: &[HostBridge],
    engine: &Engine<GuestRam, BridgeIommu>,
    dma_windows: &DmaWindows,
) -> Vec<Node> {
    let wanted: Vec<u32> = bridges.iter().map(HostBridge::wanted_vectors).collect();
    let vectors = LisnAllocator::shares(&wanted);
    let describe = |(bridge, vectors): (&HostBridge, u32)| {
        let number = bridge.index();
        let extensions = rtas::ddw_extensions(dma_windows.can_be_limited(number));
        let services = (rtas::DDW_APPLICABLE, extensions);
        let offered = dma_windows.are_offered(number);
        let window = engine.default_window(number)?;
        Some(bridge.describe(window, vectors, offered.then_some(services)))
    };
    bridges.iter().zip(vectors).filter_map(describe).collect()
}

/// Devices, and how they do DMA.
pub(super) struct Attached {
    pub(super) engine: Engine<GuestRam, BridgeIommu>,
    pub(super) notices: Vec<Alarm>,
    pub(super) dma_windows: DmaWindows,
    /// By which devices of this process do DMA.
    pub(super) windows: Windows,
    pub(super) bridges: Vec<HostBridge>,
}

/// What is behind a bridge.
struct Behind {
    iommu: BridgeIommu,
    /// What the host freezes and resets as one.
    endpoint: Option<VfioEndpoint>,
    default_window: Geometry,
    functions: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)>,
}

/// The default window of a bridge without hardware, which no host bounds.
fn virtual_window(wanted_bytes: Option<u64>) -> Geometry {
    Geometry {
        bus_offset: Ioba(0),
        page_shift: PageShift::SIZE_4K,
        entries: wanted_bytes.unwrap_or(USUAL_WINDOW_BYTES) >> PageShift::SIZE_4K.get(),
    }
}

/// Makes the host bridges with their devices, and the engine for their DMA windows.
///
/// # Errors
/// Why a device cannot be part of the machine; all is given back then.
pub(super) fn attach_devices(
    description: &MachineDescription,
    ram: &GuestRam,
    kept: &mut Kept,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
    board: &Board,
) -> Result<Attached, MachineError> {
    let mut behind = BTreeMap::new();
    let notices = pass_through(description, ram, kept, vm, capabilities, &mut behind)?;
    let windows = make_virtual(description, ram, kept, vm, capabilities, &mut behind)?;
    let policy = policy(description);
    let mut bridges = Vec::new();
    let mut engine_bridges = Vec::new();
    for (number, it) in behind {
        let mut bridge = HostBridge::new(number, board, it.functions)?;
        if let Some(endpoint) = it.endpoint {
            bridge = bridge.with_endpoint(Arc::new(endpoint));
        }
        device_interrupts::tell(&bridge);
        bridges.push(bridge);
        engine_bridges.push(EngineBridge {
            number,
            host: it.iommu,
            default_window: it.default_window,
        });
    }
    if policy.tce.bulk_calls_in_kernel() {
        bulk_calls::warn_of_risk();
        for call in [abi::H_PUT_TCE_INDIRECT, abi::H_STUFF_TCE] {
            vm.enable_hcall(call, true).map_err(KvmRefusal::from)?;
        }
    }
    let engine = Engine::new(ram.clone(), &ram.guest_ranges(), policy, engine_bridges)?;
    let dma_windows = offered_windows(description, &engine, ram, &bridges);
    Ok(Attached {
        engine,
        notices,
        dma_windows,
        windows,
        bridges,
    })
}

/// Opens the passed-through devices behind the bridges of their groups; what the host may say of them.
fn pass_through(
    description: &MachineDescription,
    ram: &GuestRam,
    kept: &mut Kept,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
    behind: &mut BTreeMap<u8, Behind>,
) -> Result<Vec<Alarm>, MachineError> {
    let mut notices = Vec::new();
    if description.vfio.is_empty() {
        return Ok(notices);
    }
    let kvm_device = Arc::new(VfioKvmDevice::new(vm).map_err(KvmRefusal::from)?);
    let groups = kept.groups(description)?;
    let windows: Vec<_> = groups
        .iter()
        .map(|group| Ok((group.container(), group.windows(&description.dma_windows)?)))
        .collect::<Result<_, PassthroughError>>()?;
    let numbers: Vec<u8> = groups.iter().map(TakenGroup::bridge).collect();
    let beside = virtual_tables_bytes(description, capabilities, &numbers);
    memory_check::check(&windows, beside, ram, &policy(description), description.ddw)?;
    let can_bind = capabilities.spapr_tce_64 && capabilities.spapr_tce_vfio;
    let mut resets = DeviceResets::new(groups.iter().map(|group| group.container().group()));
    for (group, (_, windows)) in groups.iter().zip(&windows) {
        let AttachedGroup {
            bridge,
            container,
            functions,
            notices: of_group,
        } = group.open(&mut resets)?;
        notices.extend(of_group);
        let endpoint = VfioEndpoint::of(&container);
        let host = GroupIommu::new(container, Arc::clone(vm), kvm_device.clone(), can_bind);
        let it = Behind {
            iommu: BridgeIommu::Group(host),
            endpoint,
            default_window: windows.default_window,
            functions,
        };
        behind.insert(bridge, it);
    }
    Ok(notices)
}

/// What KVM's tables of bridges without hardware get locked, beside those of `groups`.
fn virtual_tables_bytes(
    description: &MachineDescription,
    capabilities: &Capabilities,
    groups: &[u8],
) -> u64 {
    if !has_virtual_tables(description, capabilities) {
        return 0;
    }
    let table_bytes = |bridge| {
        let window = virtual_window(description.dma_windows.bytes_of(bridge));
        kvm_table_bytes(window.entries, host_page_bytes())
    };
    let bridges = virtual_devices::bridges(&description.virtual_devices, groups);
    bridges.into_iter().map(table_bytes).sum()
}

/// Whether KVM makes tables for bridges without hardware: where no device looks at them, they would only count as
/// locked memory.
fn has_virtual_tables(description: &MachineDescription, capabilities: &Capabilities) -> bool {
    let mut devices = description.virtual_devices.iter();
    capabilities.spapr_tce_64 && devices.any(|device| device.by_bus_address)
}

/// Makes the devices that this process has, behind bridges of their own or of groups; by what they do DMA.
fn make_virtual(
    description: &MachineDescription,
    ram: &GuestRam,
    kept: &mut Kept,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
    behind: &mut BTreeMap<u8, Behind>,
) -> Result<Windows, MachineError> {
    let windows = Windows::default();
    let groups: Vec<u8> = behind.keys().copied().collect();
    kept.open_all_disks(description, ram)?;
    let made = virtual_devices::make(
        description,
        &groups,
        kept.open_disks(),
        kept.attachments(),
        ram,
        &windows,
    );
    let made = made.map_err(|source| MachineError::Resource {
        what: "descriptors and threads for virtio devices",
        source,
    })?;
    let has_tables = has_virtual_tables(description, capabilities);
    for PlacedFunction { place, backend } in made {
        let Behind { functions, .. } = behind.entry(place.bridge).or_insert_with(|| {
            let iommu = VirtualIommu::new(Arc::clone(vm), has_tables);
            Behind {
                iommu: BridgeIommu::Virtual(iommu),
                endpoint: None,
                default_window: virtual_window(description.dma_windows.bytes_of(place.bridge)),
                functions: Vec::new(),
            }
        });
        functions.push((place.function, backend));
    }
    Ok(windows)
}

/// What dynamic DMA windows the guest is offered behind each bridge.
fn offered_windows(
    description: &MachineDescription,
    engine: &Engine<GuestRam, BridgeIommu>,
    ram: &GuestRam,
    bridges: &[HostBridge],
) -> DmaWindows {
    let backing = dma_windows::page_backed_by(ram.page_bytes());
    let largest_page = engine.largest_page().min(backing);
    let limits = bridges.iter().filter_map(|bridge| {
        let number = bridge.index();
        let info = engine.host(number)?.container()?.info();
        let limits = dma_windows::limits(description.ddw, info, largest_page, ram.end())?;
        Some((number, limits, engine.default_window(number)?))
    });
    let kernel_tables = policy(description).tce.binds_kernel_table();
    DmaWindows::new(limits, ram.bytes(), kernel_tables)
}
