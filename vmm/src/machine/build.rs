//! Making a machine from its description.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use spapr_devices::board::Board;
use spapr_devices::dma::Windows;
use spapr_devices::dma_windows::DmaWindows;
use spapr_devices::interrupts::{ControllerKind, LisnAllocator};
use spapr_devices::pci::HostBridge;
use spapr_devices::rtas::KERNEL_SERVICES;
use spapr_devices::vfio::host_page_bytes;
use spapr_devices::virtio::disk::Disk;
use spapr_hypercalls::abi;
use spapr_hypercalls::engine::Engine;
use spapr_kvm::host::{Capabilities, Kvm, create_vm, require_radix};
use spapr_kvm::memory_slots::MemorySlots;
use spapr_kvm::vcpu::Vcpu;
use spapr_kvm::vm::Vm;

use super::bar_slots::BarSlots;
use super::bridges::{self, Attached};
use super::bulk_calls::{self, BulkCallSwitch};
use super::error::{KvmRefusal, MachineError};
use super::host::Host;
use super::kept::Kept;
use super::policy::policy;
use super::populator::Wake;
use super::{controller_kind, processor_facts};
use crate::boot::device_tree::{MachineTree, ProcessorFacts};
use crate::boot::kernel::Kernel;
use crate::boot::layout::room_for_kernel;
use crate::boot::{self, BootError, Entry, Payload};
use crate::control::Alarm;
use crate::memory::{self, GuestRam};
use crate::partition::bridge_iommu::BridgeIommu;
use crate::partition::interrupt_controller::InterruptController;
use crate::partition::lasting::Lasting;
use crate::random;
use crate::sandbox;
use crate::spec::MachineDescription;
use crate::speculation::Told;

/// A machine that is ready to run: the guest is loaded, devices are open.
///
/// Fields drop in this order: what uses the VM before the VM, devices before their groups.
pub struct Machine {
    pub(super) engine: Engine<GuestRam, BridgeIommu>,
    /// Readable when the engine is to take bulk calls back.
    pub(super) bulk_calls_due: Option<OwnedFd>,
    pub(super) populator: Wake,
    /// See [`Partition::settle`](crate::partition::Partition::settle).
    pub(super) settles: bool,
    pub(super) notices: Vec<Alarm>,
    pub(super) dma_windows: DmaWindows,
    /// By which devices of this process do DMA.
    pub(super) windows: Windows,
    pub(super) bridges: Vec<HostBridge>,
    pub(super) interrupts: Arc<InterruptController>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) entry: Entry,
    pub(super) speculation: Told,
    pub(super) capabilities: Capabilities,
    pub(super) vm: Arc<Vm>,
    pub(super) ram: GuestRam,
    pub(super) kept: Kept,
}

impl Machine {
    /// Makes the machine that `description` names, with what `lasting` and `kept` have of its former lives,
    /// and loads its guest. Nothing runs yet, and unless the description says otherwise, no memory is locked.
    ///
    /// # Errors
    /// What the host lacks or what of the description is impossible; all is given back then.
    pub fn new(
        description: &MachineDescription,
        lasting: &Lasting,
        kept: Kept,
    ) -> Result<Self, MachineError> {
        Self::on(&Host::this(), description, lasting, kept)
    }

    /// Its disks, in the order of its description. They outlast its lives.
    pub fn disks(&self) -> &[Arc<Disk>] {
        self.kept.open_disks()
    }

    /// [`Machine::new`] on that host.
    pub(super) fn on(
        host: &Host<'_>,
        description: &MachineDescription,
        lasting: &Lasting,
        mut kept: Kept,
    ) -> Result<Self, MachineError> {
        // First what needs nothing of the host.
        let room = room_for_kernel(description.memory.0);
        let files = lasting.boot_files(description)?;
        let kernel = Kernel::of(&files.kernel, room).map_err(BootError::from)?;
        let EmptyVm {
            vm,
            capabilities,
            controller,
            speculation,
        } = make_vm(host, description, &mut kept)?;
        let ram = kept.cleared_ram(description)?;
        let slots = slots_with(&ram, &vm, &capabilities)?;
        let (cpus, ranges) = (description.cpus, ram.guest_ranges());
        let prepare = sandbox::enter_lines;
        let interrupts = InterruptController::new(controller, &vm, &slots, cpus, ranges, prepare);
        let interrupts = Arc::new(interrupts.map_err(KvmRefusal::from)?);
        let (vcpus, processor) = make_vcpus(host, &vm, &interrupts, description)?;
        if controller == ControllerKind::Xics {
            define_kernel_services(&vm)?;
        }
        let board = board(&vm, slots, &interrupts);
        let attached =
            bridges::attach_devices(description, &ram, &mut kept, &vm, &capabilities, &board)?;
        let tree = tree_of(description, lasting, &ram, processor, controller, &attached)?;
        let payload = Payload {
            kernel,
            initrd: files.initrd.as_ref(),
            command_line: &description.command_line,
        };
        let entry = boot::load(&ram, payload, &tree)?;
        let kvm = kept.kvm(host)?;
        let prepared = prepare_engine(attached.engine, description, kvm, &vm, &capabilities)?;
        Ok(Self {
            engine: prepared.engine,
            populator: prepared.populator,
            bulk_calls_due: prepared.bulk_calls_due,
            settles: prepared.settles,
            notices: attached.notices,
            dma_windows: attached.dma_windows,
            windows: attached.windows,
            bridges: attached.bridges,
            interrupts,
            vcpus,
            entry,
            speculation,
            capabilities,
            vm,
            ram,
            kept,
        })
    }
}

/// What the guest is told of a machine of that description with `attached` to it.
fn tree_of(
    description: &MachineDescription,
    lasting: &Lasting,
    ram: &GuestRam,
    processor: ProcessorFacts,
    interrupt_controller: ControllerKind,
    attached: &Attached,
) -> Result<MachineTree, MachineError> {
    let bridges = &attached.bridges;
    Ok(MachineTree {
        ram: ram.guest_ranges(),
        cpus: description.cpus,
        threads_per_core: description.threads_per_core,
        processor,
        interrupt_controller,
        vty: description.vty,
        host_bridges: bridges::describe(bridges, &attached.engine, &attached.dma_windows),
        has_eeh: bridges.iter().any(HostBridge::has_eeh),
        uuid: lasting.uuid.to_string(),
        rng_seed: rng_seed()?,
    })
}

fn rng_seed() -> Result<[u8; 64], MachineError> {
    let mut seed = [0; 64];
    random::fill(&mut seed).map_err(|source| MachineError::Resource {
        what: "random bytes",
        source,
    })?;
    Ok(seed)
}

/// The memory slots of `vm`, with the blocks of `ram` in the first ones.
fn slots_with(
    ram: &GuestRam,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
) -> Result<Arc<MemorySlots>, KvmRefusal> {
    let slots = MemorySlots::new(Arc::clone(vm), capabilities.max_memory_slots);
    for block in ram.blocks() {
        let host = block.host_range();
        // SAFETY: the memory lives as long as `ram`, of which the machine holds a clone until the
        // VM is gone; it is only ever accessed as volatile guest memory.
        unsafe { slots.add(block.guest_range().start, host.start, host.bytes) }?;
    }
    Ok(Arc::new(slots))
}

/// A VM without memory and processors.
struct EmptyVm {
    vm: Arc<Vm>,
    capabilities: Capabilities,
    controller: ControllerKind,
    speculation: Told,
}

fn make_vm(
    host: &Host<'_>,
    description: &MachineDescription,
    kept: &mut Kept,
) -> Result<EmptyVm, MachineError> {
    let vm = Arc::new(create_vm(kept.kvm(host)?)?);
    require_radix(&vm)?;
    let capabilities = Capabilities::of(&vm);
    let controller = controller_kind::choose(description.interrupt_controller, &capabilities)?;
    let bulk_calls = policy(description).tce.bulk_calls_in_kernel();
    capabilities.require(controller.kind, bulk_calls)?;
    if let Some(why) = controller.why_not_xive {
        kept.tell_of_xics(why);
    }
    if description.cpus > capabilities.max_vcpus {
        let most = capabilities.max_vcpus;
        return Err(MachineError::TooManyProcessors {
            asked: description.cpus,
            most,
        });
    }
    let threads = description.threads_per_core;
    if threads > 1 {
        vm.set_threads_per_core(threads).map_err(KvmRefusal::from)?;
    }
    let known = processor_facts::known_of_speculation(&vm, &capabilities);
    let speculation = Told::as_wanted(&known, &description.speculation)?;
    Ok(EmptyVm {
        vm,
        capabilities,
        controller: controller.kind,
        speculation,
    })
}

/// Whether the guest's lists may be handed over to the kernel. When all else of the machine is made,
/// the kernel is tried for it.
fn adapts_lists(description: &MachineDescription, kvm: &Kvm, capabilities: &Capabilities) -> bool {
    policy(description).tce.adapts_bulk_calls()
        && !description.vfio.is_empty()
        && bulk_calls::kernel_may_take_lists(kvm, capabilities)
}

/// An engine that the guest may call.
struct Prepared {
    engine: Engine<GuestRam, BridgeIommu>,
    /// Becomes readable when the engine is to take lists back.
    bulk_calls_due: Option<OwnedFd>,
    /// Woken when the engine wants guest memory present.
    populator: Wake,
    /// The kernel is to be given no guest memory to hold on to before that was settled.
    settles: bool,
}

fn prepare_engine(
    mut engine: Engine<GuestRam, BridgeIommu>,
    description: &MachineDescription,
    kvm: &Kvm,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
) -> Result<Prepared, MachineError> {
    let mut bulk_calls_due = None;
    if adapts_lists(description, kvm, capabilities) {
        let (switch, due) = BulkCallSwitch::new(Arc::clone(vm)).map_err(|source| {
            let what = "a timer";
            MachineError::Resource { what, source }
        })?;
        engine = engine.with_kernel_handlers(switch);
        bulk_calls_due = Some(due);
    }
    let populator = Wake::new();
    let wake = populator.clone();
    let engine = engine.with_populator(move || wake.wake());
    engine.prepare()?;
    let moves = engine.registers_memory() && memory::has_contiguous_areas();
    Ok(Prepared {
        engine,
        bulk_calls_due,
        populator,
        // A kernel that serves H_REGISTER_VPA come what may holds on to what it likes.
        settles: moves && vm.enable_hcall(abi::H_REGISTER_VPA, false).is_ok(),
    })
}

/// Has the kernel serve the RTAS calls of an XICS.
fn define_kernel_services(vm: &Vm) -> Result<(), KvmRefusal> {
    for service in KERNEL_SERVICES {
        vm.define_rtas_token(service.name, service.token)?;
    }
    Ok(())
}

/// Makes the processors, connected to the interrupt controller.
fn make_vcpus(
    host: &Host<'_>,
    vm: &Vm,
    interrupts: &InterruptController,
    description: &MachineDescription,
) -> Result<(Vec<Vcpu>, ProcessorFacts), MachineError> {
    let count = description.cpus;
    let mut vcpus = Vec::new();
    let mut facts = None;
    for id in 0..count {
        let vcpu = vm
            .create_vcpu(id)
            .map_err(|source| KvmRefusal::CreateVcpu { id, source })?;
        vcpu.enable_papr().map_err(KvmRefusal::from)?;
        let facts = match &facts {
            Some(facts) => facts,
            None => {
                let pvr = vcpu.pvr().map_err(KvmRefusal::from)?;
                let facts_of_host =
                    processor_facts::describe(host.cpus, vm, pvr, description.processor)?;
                facts.insert(facts_of_host)
            }
        };
        vcpu.set_arch_compat(facts.cpu_version)
            .map_err(KvmRefusal::from)?;
        interrupts
            .connect_vcpu(&vcpu, id)
            .map_err(KvmRefusal::from)?;
        vcpus.push(vcpu);
    }
    let facts = facts.ok_or(MachineError::TooManyProcessors {
        asked: count,
        most: 0,
    })?;
    Ok((vcpus, facts))
}

/// What the machine hands out to its devices.
fn board(vm: &Arc<Vm>, slots: Arc<MemorySlots>, interrupts: &Arc<InterruptController>) -> Board {
    Board {
        space: Arc::new(BarSlots::new(Arc::clone(vm), slots)),
        lines: interrupts.clone(),
        lisns: Arc::new(LisnAllocator::new()),
        host_page_bytes: host_page_bytes(),
    }
}
