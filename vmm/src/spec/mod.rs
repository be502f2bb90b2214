//! What a machine is to be, in plain types: the same whatever front end it came from.

pub mod byte_size;
pub mod choice;
pub mod speculation;

mod console;
mod disk;
mod dma;
mod filesystem;
mod net;
mod passed_through;
mod scsi;
mod serial;
mod words;

use std::path::PathBuf;

use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::IommuPolicy;
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::policy::{LockPolicy, TcePolicy};
use uuid::Uuid;

pub use byte_size::ByteSize;
pub use console::ConsoleKind;
pub use disk::{
    Aio, CacheMode, DiskArgument, DiskBus, DiskDescription, DiskError, MOST_DISK_QUEUES,
};
pub use dma::{DdwMode, DmaWindowSize, DmaWindowSizes, LockRegion};
pub use filesystem::{FsDescription, FsWordError, USUAL_FS_ENTRIES, is_queue_size};
pub use net::{
    LEAST_MTU, MOST_NET_PAIRS, NetBackend, NetDescription, NetError, USUAL_NET_ENTRIES, VhostSource,
};
pub use passed_through::{ExpansionRom, PassedThroughDevice, PassedThroughError};
pub use scsi::{COMMANDS_PER_UNIT, ScsiDescription, ScsiUnit};
pub use serial::{
    MOST_PORT_NAME_BYTES, PortDescription, PortOutlet, SerialPort, SerialPortError, is_port_name,
};

/// A machine as the user asked for it.
#[derive(Clone, Debug)]
pub struct MachineDescription {
    /// Kernel to boot.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: String,
    /// Guest memory.
    pub memory: ByteSize,
    /// Number of processors.
    pub cpus: u32,
    /// How many of them are threads of one core, as the guest sees it: 1, 2, 4 or 8.
    pub threads_per_core: u32,
    /// The processor that the host has to have; `None` for whatever it has.
    pub processor: Option<ProcessorModel>,
    /// How safe from attacks by speculation the guest is told that its processor is.
    pub speculation: speculation::Wanted,
    /// PCI devices to pass through.
    pub vfio: Vec<PassedThroughDevice>,
    /// Devices that this process makes.
    pub virtual_devices: Vec<VirtualDevice>,
    /// Who serves TCE hypercalls.
    pub tce: TcePolicy,
    /// When memory is locked.
    pub lock: LockPolicy,
    /// The regions in which it is locked; chosen by its size when not given.
    pub lock_region: Option<RegionSize>,
    /// Version of the VFIO containers.
    pub iommu: IommuPolicy,
    /// Which dynamic DMA windows the guest is offered.
    pub ddw: DdwMode,
    /// The default DMA windows of its host bridges.
    pub dma_windows: DmaWindowSizes,
    /// The interrupt controller.
    pub interrupt_controller: InterruptControllerMode,
    /// Huge pages behind guest memory; `None` for pages as the host has them.
    pub hugepages: Option<HugepageSize>,
    /// Unit address of the terminal.
    pub vty: u32,
    /// What the machine calls itself; `None` for a name of its own.
    pub uuid: Option<Uuid>,
    /// How far the guest's clock starts ahead of the host's.
    pub clock_offset_seconds: i64,
}

/// A device that this process makes: a virtio one behind a PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualDevice {
    /// What it is.
    pub kind: VirtualDeviceKind,
    /// How messages name it.
    pub name: String,
    /// Where the guest finds it; `None` for the next place behind a host bridge without passed-through devices.
    pub place: Option<GuestPlace>,
    /// Whether its driver gives it bus addresses, through the DMA windows of its bridge
    /// (VIRTIO_F_ACCESS_PLATFORM), in place of guest addresses.
    pub by_bus_address: bool,
}

/// A kind of device that this process makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtualDeviceKind {
    /// An entropy device, with random bytes of the host's kernel.
    Rng,
    /// A disk.
    Disk(Box<DiskDescription>),
    /// A SCSI controller, with disks and CD drives.
    Scsi(ScsiDescription),
    /// A network card.
    Net(Box<NetDescription>),
    /// A memory balloon.
    Balloon(BalloonDescription),
    /// A device of sockets between the guest and the host.
    Vsock(VsockDescription),
    /// A file system device.
    FileSystem(FsDescription),
    /// A serial device, with its ports.
    Serial(Vec<PortDescription>),
}

impl VirtualDeviceKind {
    /// The images of disks and media that it has, in the order in which they are opened.
    pub fn disks(&self) -> impl Iterator<Item = &DiskDescription> {
        let (own, units) = match self {
            Self::Disk(disk) => (Some(&**disk), [].as_slice()),
            Self::Scsi(scsi) => (None, scsi.units.as_slice()),
            _ => (None, [].as_slice()),
        };
        let of_units = units.iter().filter_map(|unit| unit.disk.as_deref());
        own.into_iter().chain(of_units)
    }
}

impl MachineDescription {
    /// Whether there is a memory balloon.
    pub fn has_balloon(&self) -> bool {
        let mut devices = self.virtual_devices.iter();
        devices.any(|device| matches!(device.kind, VirtualDeviceKind::Balloon(_)))
    }

    /// The ports of each serial device among the devices that this process makes, in their order.
    pub fn serial_devices(&self) -> impl Iterator<Item = &[PortDescription]> {
        self.virtual_devices.iter().filter_map(|device| {
            let VirtualDeviceKind::Serial(ports) = &device.kind else {
                return None;
            };
            Some(ports.as_slice())
        })
    }

    /// The disks of the devices that this process makes.
    pub fn disks(&self) -> impl Iterator<Item = &DiskDescription> {
        let devices = self.virtual_devices.iter();
        devices.flat_map(|device| device.kind.disks())
    }

    /// The socket devices among them.
    pub fn vsocks(&self) -> impl Iterator<Item = (&VirtualDevice, VsockDescription)> {
        self.virtual_devices.iter().filter_map(|device| {
            let VirtualDeviceKind::Vsock(vsock) = &device.kind else {
                return None;
            };
            Some((device, *vsock))
        })
    }

    /// The file system devices among them.
    pub fn filesystems(&self) -> impl Iterator<Item = &FsDescription> {
        self.virtual_devices.iter().filter_map(|device| {
            let VirtualDeviceKind::FileSystem(filesystem) = &device.kind else {
                return None;
            };
            Some(filesystem)
        })
    }

    /// Whether programs that serve devices share guest memory.
    pub fn shares_memory(&self) -> bool {
        self.filesystems().next().is_some()
    }

    /// The network cards among them.
    pub fn nics(&self) -> impl Iterator<Item = (&VirtualDevice, &NetDescription)> {
        self.virtual_devices.iter().filter_map(|device| {
            let VirtualDeviceKind::Net(net) = &device.kind else {
                return None;
            };
            Some((device, &**net))
        })
    }
}

/// A socket device as the user asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockDescription {
    /// The guest's context ID: 3 to 4294967294.
    pub cid: u32,
    /// By which the host's kernel passes packets.
    pub vhost: VhostSource,
}

/// The least context ID of a guest (vsock(7)); the greatest is one less than [`u32::MAX`].
pub const LEAST_CID: u32 = 3;

/// A memory balloon as the user asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonDescription {
    /// The guest takes pages back by itself before it ends programs.
    pub deflates_on_oom: bool,
    /// The guest gives back pages that it has no use for.
    pub reports_free_pages: bool,
}

/// Where a guest finds a function of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPlace {
    /// Number of the host bridge.
    pub bridge: u8,
    /// Device and function on its bus.
    pub function: DeviceFunction,
}

/// A processor by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorModel {
    /// POWER9.
    Power9,
    /// POWER10.
    Power10,
    /// Power11.
    Power11,
}

impl ProcessorModel {
    /// The name that the guest's device tree has for it.
    pub const fn node_name(self) -> &'static str {
        match self {
            Self::Power9 => "PowerPC,POWER9",
            Self::Power10 => "PowerPC,POWER10",
            Self::Power11 => "PowerPC,POWER11",
        }
    }
}

/// The guest's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptControllerMode {
    /// XIVE where the host can: KVM offers it (not in a nested host), and pages have 64 KiB. Else XICS.
    Auto,
    /// XIVE, native exploitation mode: the guest takes and ends interrupts without hypercalls.
    Xive,
    /// XICS, on any host.
    Xics,
}

/// Size of the huge pages behind guest memory; a radix host has these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugepageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}
