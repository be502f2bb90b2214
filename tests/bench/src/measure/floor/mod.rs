//! The floors: a VM set up as spapr-vmm's is, whose one processor's loop does next to nothing about
//! the guest's hypercalls. What a VMM takes beyond that is its own.

mod serve;
mod tree;

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use spapr_devices::interrupts::ControllerKind;
use spapr_devices::rtas::KERNEL_SERVICES;
use spapr_devices::vfio::{Container, Group, HostPaths, IommuPolicy, PciAddress, host_page_bytes};
use spapr_hypercalls::abi;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::world::{Geometry, HostRange};
use spapr_kvm::host::{self, Capabilities};
use spapr_kvm::kick::VcpuKick;
use spapr_kvm::memory_slots::MemorySlots;
use spapr_kvm::tce_table::TceTable;
use spapr_kvm::vcpu::{EntryRegisters, Vcpu, lpcr, msr};
use spapr_kvm::vfio_device::VfioKvmDevice;
use spapr_kvm::vm::Vm;
use spapr_vmm::boot::files::BootFile;
use spapr_vmm::boot::kernel::Kernel;
use spapr_vmm::boot::layout::Layout;
use spapr_vmm::memory::{Backing, GuestRam};
use spapr_vmm::partition::interrupt_controller::InterruptController;
use spapr_vmm::spec::ByteSize;
use vm_memory::{Bytes, GuestAddress};

use super::AnyError;
use super::command_line::{Floor, FloorArguments, Iommu};
use super::peers::GUEST_BYTES;

use serve::Loop;

/// The window that spapr-vmm and QEMU give a guest at first: 1 GiB of 4 KiB pages.
const WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 1 << 18,
};
const LIOBN: Liobn = Liobn::of_pci_window(0, 0);
/// A window for LIOBNs that nobody uses.
const SMALL_WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 16,
};
/// Memory is locked in such pieces, as spapr-vmm does for a guest of this size; the guest maps pages of
/// the first one alone.
const REGION_BYTES: u64 = 256 << 20;

/// The device's group, ready for DMA. Fields drop in this order: the kernel's tables before the window.
pub(super) struct Attached {
    _tables: Vec<TceTable>,
    _kvm_device: VfioKvmDevice,
    pub(super) container: Container,
}

/// Runs the guest to its end.
///
/// # Errors
/// What the host lacks.
pub(crate) fn run(arguments: &FloorArguments) -> Result<(), AnyError> {
    let kvm = host::open()?;
    let vm = Arc::new(host::create_vm(&kvm)?);
    let capabilities = Capabilities::of(&vm);
    let ram = GuestRam::new(ByteSize(GUEST_BYTES), Backing::Anonymous)?;
    let slots = Arc::new(MemorySlots::new(
        Arc::clone(&vm),
        capabilities.max_memory_slots,
    ));
    let range = host_range(&ram)?;
    // SAFETY: the memory outlives the VM's run, which ends before this function does, and is
    // accessed as volatile guest memory alone.
    unsafe { slots.add(GuestPhysicalAddress(0), range.start, range.bytes) }?;
    // The one that spapr-vmm gives a guest by itself.
    let controller = match capabilities.check_xive(host_page_bytes()) {
        Ok(()) => ControllerKind::Xive,
        Err(_) => ControllerKind::Xics,
    };
    let ranges = ram.guest_ranges();
    let interrupts = InterruptController::new(controller, &vm, &slots, 1, ranges, || Ok(()))?;
    let vcpu = make_vcpu(&vm, &interrupts)?;
    if controller == ControllerKind::Xics {
        for service in KERNEL_SERVICES {
            vm.define_rtas_token(service.name, service.token)?;
        }
    }
    let attached = arguments
        .vfio
        .map(|device| attach(device, &vm, &ram, arguments))
        .transpose()?;
    let entry = load(&ram, &arguments.guest, &arguments.append)?;
    let mut work = Loop::new(arguments.floor, &ram, attached.as_ref());
    enter(vcpu, entry, &mut work)
}

fn make_vcpu(vm: &Vm, interrupts: &InterruptController) -> Result<Vcpu, AnyError> {
    let vcpu = vm.create_vcpu(0)?;
    vcpu.enable_papr()?;
    interrupts.connect_vcpu(&vcpu, 0)?;
    Ok(vcpu)
}

/// Takes the device's group, makes the window and registers memory; for the kernel's floor, also
/// binds a table and has the kernel handle all calls.
fn attach(
    device: PciAddress,
    vm: &Vm,
    ram: &GuestRam,
    arguments: &FloorArguments,
) -> Result<Attached, AnyError> {
    let paths = HostPaths::default();
    let group = Group::open(&paths, paths.find_device(device)?)?;
    let kvm_device = VfioKvmDevice::new(vm)?;
    let policy = match arguments.iommu {
        Iommu::V1 => IommuPolicy::V1,
        Iommu::V2 => IommuPolicy::V2,
    };
    let container = Container::attach(&paths, group, policy)?;
    kvm_device.add_group(&container.group().as_fd().as_raw_fd())?;
    container.create_window(WINDOW.page_shift, WINDOW.entries, Some(WINDOW.bus_offset))?;
    if arguments.iommu == Iommu::V2 {
        register(&container, ram, arguments.regions)?;
    }
    let mut tables = Vec::new();
    if arguments.floor == Floor::Kernel {
        let made = TceTable::new(vm, LIOBN, WINDOW)?;
        kvm_device.set_spapr_tce(&container.group().as_fd().as_raw_fd(), &made)?;
        tables.push(made);
        // Unbound ones of other LIOBNs, which nobody uses.
        for number in 1..arguments.liobns {
            tables.push(TceTable::new(vm, Liobn(LIOBN.0 + number), SMALL_WINDOW)?);
        }
        for call in [abi::H_PUT_TCE_INDIRECT, abi::H_STUFF_TCE] {
            vm.enable_hcall(call, true)?;
        }
    }
    Ok(Attached {
        _tables: tables,
        _kvm_device: kvm_device,
        container,
    })
}

/// Where this process has guest memory, all of which is one block.
fn host_range(ram: &GuestRam) -> Result<HostRange, AnyError> {
    let block = ram.blocks().next().ok_or("guest memory has no block")?;
    Ok(block.host_range())
}

/// Registers the memory that the guest maps, and `regions` - 1 other pieces of a page each. The kernel
/// puts each new one at the head of its list, so that the first comes last.
fn register(container: &Container, ram: &GuestRam, regions: u32) -> Result<(), AnyError> {
    let all = host_range(ram)?;
    let page = host_page_bytes();
    let first = HostRange {
        start: all.start,
        bytes: REGION_BYTES.min(all.bytes),
    };
    container.register_memory(first)?;
    for number in 1..u64::from(regions) {
        // Every other page: neighbours could be taken for one.
        let offset = first.bytes + 2 * number * page;
        container.register_memory(HostRange {
            start: HostVirtualAddress(all.start.0 + offset),
            bytes: page,
        })?;
    }
    Ok(())
}

/// Loads the guest and a device tree; the registers with which it starts.
fn load(ram: &GuestRam, guest: &Path, command_line: &str) -> Result<EntryRegisters, AnyError> {
    let layout = Layout::for_memory(ram.bytes());
    let loaded = Kernel::of(&BootFile::open(guest)?, ram.bytes())?.load(ram, &layout)?;
    let tree = tree::build(command_line, ram.bytes(), LIOBN, WINDOW)?;
    ram.mmap()
        .write_slice(&tree, GuestAddress(layout.device_tree))?;
    let mut gpr = [0; 32];
    gpr[3] = layout.device_tree;
    Ok(EntryRegisters {
        pc: loaded.entry,
        msr: msr::SF | msr::ME,
        gpr,
    })
}

/// Runs the processor as spapr-vmm's thread for it does.
fn enter(mut vcpu: Vcpu, entry: EntryRegisters, work: &mut Loop<'_>) -> Result<(), AnyError> {
    let kick = VcpuKick::new(&vcpu)?;
    let running = kick.enter_thread()?;
    vcpu.modify_lpcr(lpcr::LD, lpcr::LD)?;
    vcpu.set_online(true)?;
    vcpu.set_entry(&entry)?;
    let result = work.run(&mut vcpu);
    drop(running);
    result
}
