//! Why there is no machine.

use std::io;

use spapr_devices::pci::PciError;
use spapr_hypercalls::engine::{EngineError, WindowError};
use spapr_kvm::host::HostError;
use spapr_kvm::memory_slots::MemorySlotError;
use spapr_kvm::vcpu::VcpuError;
use spapr_kvm::vfio_device::VfioDeviceError;
use spapr_kvm::vm::VmError;
use spapr_kvm::xive::XiveError;
use vmm_sys_util::errno;

use super::disks::DiskRefusal;
use super::memory_check::MemoryCheckError;
use super::passthrough::PassthroughError;
use super::processor_facts::ProcessorError;
use crate::boot::BootError;
use crate::memory::MemoryError;
use crate::partition::interrupt_controller::InterruptControllerError;
use crate::setting::Setting;
use crate::speculation::NotPromised;

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
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskRefusal),
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
    /// The kernel gives no descriptors, threads or random bytes.
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
            | Self::Disk(_)
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
            Self::Disk(_) => Some(Setting::Disk),
            Self::Boot(error) => error.setting(),
            _ => None,
        }
    }
}
