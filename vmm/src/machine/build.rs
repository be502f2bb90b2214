//! Making a machine from its description.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use log::Level;
use spapr_devices::dma_windows::DmaWindows;
use spapr_devices::guest_message;
use spapr_devices::interrupts::{ControllerKind, LisnAllocator};
use spapr_devices::pci::{HostBridge, HostBridgeNode, Machine as PciMachine, PciError};
use spapr_devices::rtas::{self, KERNEL_SERVICES};
use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::abi;
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::engine::{Engine, EngineError, HostBridge as EngineBridge, WindowError};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::Policy;
use spapr_hypercalls::world::GuestRange;
use spapr_kvm::host::{Capabilities, HostError, Kvm, create_vm, require_radix};
use spapr_kvm::memory_slots::{MemorySlotError, MemorySlots};
use spapr_kvm::vcpu::{Vcpu, VcpuError};
use spapr_kvm::vfio_device::{VfioDeviceError, VfioKvmDevice};
use spapr_kvm::vm::{Vm, VmError};
use spapr_kvm::xive::XiveError;
use vmm_sys_util::errno;

use super::bar_slots::BarSlots;
use super::bulk_calls::{self, BulkCallSwitch};
use super::controller_kind;
use super::device_interrupts;
use super::dma_windows;
use super::host::Host;
use super::memory_check::{self, MemoryCheckError};
use super::passthrough::{self, AttachedGroup, PassthroughError};
use super::populator::Wake;
use super::processor_facts::{self, ProcessorError};
use crate::boot::kernel::Kernel;
use crate::boot::layout::room_for_kernel;
use crate::boot::{self, BootError, Entry, Payload, device_tree::MachineTree};
use crate::control::Alarm;
use crate::memory::{self, GuestRam, MemoryError};
use crate::partition::host_iommu::GroupIommu;
use crate::partition::interrupt_controller::{InterruptController, InterruptControllerError};
use crate::partition::lasting::Lasting;
use crate::random;
use crate::setting::Setting;
use crate::spec::{DEFAULT_WINDOW, MachineDescription};
use crate::speculation::{NotPromised, Told};

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This host cannot run it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// More processors than KVM runs.
    #[error("{asked} processors are more than this host's KVM runs ({most}); give fewer")]
    TooManyProcessors {
        /// As asked for.
        asked: u32,
        /// The most.
        most: u32,
    },
    /// The processors cannot be described to the guest.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The guest is to be told that its processor is safer than KVM knows.
    #[error(transparent)]
    Speculation(#[from] NotPromised),
    /// KVM refused a part of the machine.
    #[error("KVM cannot make the machine")]
    Kvm(#[from] KvmRefusal),
    /// A device cannot be passed through.
    #[error(transparent)]
    Passthrough(#[from] PassthroughError),
    /// A PCI host bridge cannot be made.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The DMA windows cannot be set up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Memory cannot be locked at the start.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The limit on locked memory is too low.
    #[error(transparent)]
    MemoryLimit(#[from] MemoryCheckError),
    /// The guest cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Descriptors, threads or random bytes are not to be had.
    #[error("cannot get {what}")]
    Resource {
        /// What is missing.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A processor's thread cannot be made.
    #[error(transparent)]
    Thread(#[from] crate::vcpu::thread::ThreadError),
}

/// Which part of a machine KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum KvmRefusal {
    /// A processor.
    #[error("processor {id}")]
    CreateVcpu {
        /// Its number.
        id: u32,
        /// Why.
        source: errno::Error,
    },
    /// A processor's state.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The VM's state.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The interrupt controller.
    #[error(transparent)]
    InterruptController(#[from] InterruptControllerError),
    /// Guest memory.
    #[error(transparent)]
    MemorySlot(#[from] MemorySlotError),
    /// The VFIO device.
    #[error(transparent)]
    VfioDevice(#[from] VfioDeviceError),
}

impl MachineError {
    /// The process' exit status: 2 when what was asked for cannot be run on this host, 1 when
    /// something failed on the way.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Kvm(_) | Self::Resource { .. } | Self::Thread(_) | Self::Engine(_) => 1,
            Self::Host(_)
            | Self::Memory(_)
            | Self::TooManyProcessors { .. }
            | Self::Processor(_)
            | Self::Speculation(_)
            | Self::Passthrough(_)
            | Self::Pci(_)
            | Self::Window(_)
            | Self::MemoryLimit(_)
            | Self::Boot(_) => 2,
        }
    }
}

impl MachineError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        use InterruptControllerError::Xive;
        match self {
            Self::Host(HostError::NoXive(_))
            | Self::Kvm(KvmRefusal::InterruptController(Xive(XiveError::Create(_)))) => {
                Some(Setting::InterruptController)
            }
            Self::Memory(error) => error.setting(),
            Self::TooManyProcessors { .. } => Some(Setting::Cpus),
            Self::Speculation(_) => Some(Setting::Speculation),
            Self::Processor(ProcessorError::OtherProcessor { .. }) => Some(Setting::Processor),
            Self::Passthrough(error) => error.setting(),
            Self::Boot(error) => error.setting(),
            _ => None,
        }
    }
}

/// A machine that is ready to run: the guest is loaded, devices are open.
///
/// Fields drop in this order: what uses the VM before the VM, devices before their groups.
pub struct Machine {
    pub(super) engine: Engine<GuestRam, GroupIommu>,
    /// Readable when the engine is to take bulk calls back.
    pub(super) bulk_calls_due: Option<OwnedFd>,
    pub(super) populator: Wake,
    /// See [`Partition::settle`](crate::partition::Partition::settle).
    pub(super) settles: bool,
    pub(super) notices: Vec<Alarm>,
    pub(super) dma_windows: DmaWindows,
    pub(super) bridges: Vec<HostBridge>,
    pub(super) interrupts: Arc<InterruptController>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) entry: Entry,
    pub(super) speculation: Told,
    pub(super) capabilities: Capabilities,
    pub(super) vm: Arc<Vm>,
    pub(super) ram: GuestRam,
}

impl Machine {
    /// Makes the machine that `description` names, with what `lasting` keeps of its former lives, and
    /// loads its guest. Nothing runs yet, and unless
    /// the description says otherwise, no memory is locked.
    ///
    /// # Errors
    /// What the host lacks or what of the description is impossible; all is given back then.
    pub fn new(description: &MachineDescription, lasting: &Lasting) -> Result<Self, MachineError> {
        Self::on(&Host::this(), description, lasting)
    }

    /// [`Machine::new`] on that host.
    pub(super) fn on(
        host: &Host<'_>,
        description: &MachineDescription,
        lasting: &Lasting,
    ) -> Result<Self, MachineError> {
        // First what needs nothing of the host.
        let room = room_for_kernel(description.memory.0);
        let files = lasting.boot_files(description)?;
        let kernel = Kernel::of(&files.kernel, room).map_err(BootError::from)?;
        let EmptyVm {
            vm,
            capabilities,
            controller,
            kvm,
            speculation,
        } = make_vm(host, description)?;
        let ram = make_ram(description)?;
        let slots = Arc::new(MemorySlots::new(
            Arc::clone(&vm),
            capabilities.max_memory_slots,
        ));
        let range = ram.host_range();
        // SAFETY: the memory lives as long as `ram`, of which the machine holds a clone until the
        // VM is gone; it is only ever accessed as volatile guest memory.
        unsafe { slots.add(GuestPhysicalAddress(0), range.start, range.bytes) }
            .map_err(KvmRefusal::from)?;
        let interrupts = Arc::new(
            InterruptController::new(controller, &vm, &slots, description.cpus, ram.bytes())
                .map_err(KvmRefusal::from)?,
        );
        let (vcpus, processor) = make_vcpus(host, &vm, &interrupts, description)?;
        if controller == ControllerKind::Xics {
            define_kernel_services(&vm)?;
        }
        let pci = PciMachine {
            mapper: Arc::new(BarSlots::new(slots)),
            lines: interrupts.clone(),
            lisns: Arc::new(LisnAllocator::new()),
            host_page_bytes: host_page_bytes(),
        };
        let Attached {
            engine,
            notices,
            dma_windows,
            bridges,
        } = attach_devices(description, &ram, &vm, &capabilities, controller, &pci)?;
        let tree = MachineTree {
            ram_bytes: ram.bytes(),
            cpus: description.cpus,
            threads_per_core: description.threads_per_core,
            processor,
            interrupt_controller: controller,
            vty: description.vty,
            host_bridges: bridges
                .iter()
                .map(|bridge| host_bridge_node(bridge, &dma_windows))
                .collect(),
            uuid: lasting.uuid.to_string(),
            rng_seed: rng_seed()?,
        };
        let payload = Payload {
            kernel,
            initrd: files.initrd.as_ref(),
            command_line: &description.command_line,
        };
        let entry = boot::load(&ram, payload, &tree)?;
        let Prepared {
            engine,
            bulk_calls_due,
            populator,
            settles,
        } = prepare_engine(engine, description, &kvm, &vm, &capabilities)?;
        Ok(Self {
            engine,
            populator,
            bulk_calls_due,
            settles,
            notices,
            dma_windows,
            bridges,
            interrupts,
            vcpus,
            entry,
            speculation,
            capabilities,
            vm,
            ram,
        })
    }
}

fn rng_seed() -> Result<[u8; 64], MachineError> {
    let mut seed = [0; 64];
    random::fill(&mut seed).map_err(|source| MachineError::Resource {
        what: "random bytes",
        source,
    })?;
    Ok(seed)
}

fn make_ram(description: &MachineDescription) -> Result<GuestRam, MemoryError> {
    warn_of_little_memory(description);
    match description.hugepages {
        Some(pages) => GuestRam::in_hugepages(description.memory, pages),
        None => GuestRam::new(description.memory),
    }
}

fn warn_of_little_memory(description: &MachineDescription) {
    let (cpus, memory) = (description.cpus, description.memory);
    if let Some(more) = memory::more_memory_for(cpus, memory.0) {
        guest_message!(
            Level::Warn,
            "{cpus} processors with {memory} of memory: Linux needs some MiB for each and may run out of \
             memory as it starts; give fewer, or {more}"
        );
    }
}

/// A VM without memory and processors.
struct EmptyVm {
    vm: Arc<Vm>,
    capabilities: Capabilities,
    controller: ControllerKind,
    kvm: Kvm,
    speculation: Told,
}

fn make_vm(host: &Host<'_>, description: &MachineDescription) -> Result<EmptyVm, MachineError> {
    let kvm = (host.open)()?;
    let vm = Arc::new(create_vm(&kvm)?);
    require_radix(&vm)?;
    let capabilities = Capabilities::of(&vm);
    let controller = controller_kind::choose(description.interrupt_controller, &capabilities)?;
    let bulk_calls = policy(description).tce.bulk_calls_in_kernel();
    capabilities.require(controller, bulk_calls)?;
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
        controller,
        kvm,
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
    engine: Engine<GuestRam, GroupIommu>,
    /// Becomes readable when the engine is to take lists back.
    bulk_calls_due: Option<OwnedFd>,
    /// Woken when the engine wants guest memory present.
    populator: Wake,
    /// The kernel is to be given no guest memory to hold on to before that was settled.
    settles: bool,
}

fn prepare_engine(
    mut engine: Engine<GuestRam, GroupIommu>,
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
) -> Result<(Vec<Vcpu>, boot::device_tree::ProcessorFacts), MachineError> {
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

fn host_bridge_node(bridge: &HostBridge, dma_windows: &DmaWindows) -> HostBridgeNode {
    let node = bridge.node(DEFAULT_WINDOW);
    if dma_windows.are_offered(bridge.index()) {
        node.with_dynamic_windows([rtas::DDW_APPLICABLE, rtas::DDW_EXTENSIONS])
    } else {
        node
    }
}

/// Passed-through devices, and how they do DMA.
struct Attached {
    engine: Engine<GuestRam, GroupIommu>,
    notices: Vec<Alarm>,
    dma_windows: DmaWindows,
    bridges: Vec<HostBridge>,
}

fn attach_devices(
    description: &MachineDescription,
    ram: &GuestRam,
    vm: &Arc<Vm>,
    capabilities: &Capabilities,
    controller: ControllerKind,
    pci: &PciMachine,
) -> Result<Attached, MachineError> {
    let policy = policy(description);
    let mut bridges = Vec::new();
    let mut engine_bridges = Vec::new();
    let mut notices = Vec::new();
    if !description.vfio.is_empty() {
        let kvm_device = Arc::new(VfioKvmDevice::new(vm).map_err(KvmRefusal::from)?);
        let groups = passthrough::attach(&description.vfio, description.iommu)?;
        let containers: Vec<_> = groups.iter().map(|group| &*group.container).collect();
        memory_check::check(&containers, ram, &policy, description.ddw)?;
        let can_bind = capabilities.spapr_tce_64 && capabilities.spapr_tce_vfio;
        for group in groups {
            let AttachedGroup {
                bridge: number,
                container,
                functions,
                notices: of_group,
            } = group;
            notices.extend(of_group);
            let bridge = HostBridge::new(number, pci, functions)?;
            device_interrupts::tell(&bridge, controller);
            bridges.push(bridge);
            let host = GroupIommu::new(container, Arc::clone(vm), kvm_device.clone(), can_bind);
            engine_bridges.push(EngineBridge {
                number,
                host,
                default_window: DEFAULT_WINDOW,
            });
        }
    }
    if policy.tce.bulk_calls_in_kernel() {
        bulk_calls::warn_of_risk();
        for call in [abi::H_PUT_TCE_INDIRECT, abi::H_STUFF_TCE] {
            vm.enable_hcall(call, true).map_err(KvmRefusal::from)?;
        }
    }
    let ram_range = GuestRange {
        start: GuestPhysicalAddress(0),
        bytes: ram.bytes(),
    };
    let engine = Engine::new(ram.clone(), &[ram_range], policy, engine_bridges)?;
    let dma_windows = offered_windows(description, &engine, ram, &bridges);
    Ok(Attached {
        engine,
        notices,
        dma_windows,
        bridges,
    })
}

/// What dynamic DMA windows the guest is offered behind each bridge.
fn offered_windows(
    description: &MachineDescription,
    engine: &Engine<GuestRam, GroupIommu>,
    ram: &GuestRam,
    bridges: &[HostBridge],
) -> DmaWindows {
    let backing = dma_windows::page_backed_by(ram.page_bytes());
    let largest_page = engine.largest_page().min(backing);
    let limits = bridges.iter().filter_map(|bridge| {
        let number = bridge.index();
        let info = engine.host(number)?.container().info();
        let limits = dma_windows::limits(description.ddw, info, largest_page, ram.bytes())?;
        Some((number, limits))
    });
    let kernel_tables = policy(description).tce.binds_kernel_table();
    DmaWindows::new(limits, DEFAULT_WINDOW, ram.bytes(), kernel_tables)
}

fn policy(description: &MachineDescription) -> Policy {
    Policy {
        tce: description.tce,
        lock: description.lock,
        region: description.lock_region,
        block: match description.hugepages {
            // They are present.
            Some(_) => None,
            None => Some(RegionSize::block_for(host_page_bytes())),
        },
    }
}
