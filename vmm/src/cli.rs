//! The command line of `spapr-vmm`.

pub mod config;
mod deferred;

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use log::LevelFilter;
use spapr_devices::vfio::{GroupNumber, IommuPolicy, PciAddress};
use spapr_devices::vty::DEFAULT_UNIT_ADDRESS;
use spapr_hypercalls::policy::{LockPolicy, TcePolicy};

pub use deferred::Deferred;

use crate::setting::Setting;
use crate::spec::choice::{self, Choice};
use crate::spec::speculation::Wanted;
use crate::spec::{
    BalloonDescription, ByteSize, ConsoleKind, DdwMode, DiskArgument, DiskBus, DiskDescription,
    DmaWindowSize, DmaWindowSizes, FsDescription, HugepageSize, InterruptControllerMode, LEAST_CID,
    LockRegion, MachineDescription, NetDescription, PassedThroughDevice, PortDescription,
    PortOutlet, ScsiDescription, SerialPort, VhostSource, VirtualDevice, VirtualDeviceKind,
    VsockDescription,
};

/// A VMM for ppc64le KVM (pseries) guests with passed-through PCI devices.
#[derive(Debug, Parser)]
#[command(name = "spapr-vmm", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to log on standard error.
    #[arg(long, global = true, default_value = "warn", value_name = "LEVEL", value_parser = one_of(&choice::LOG))]
    pub log: LevelFilter,
}

impl CommandLine {
    /// All that can be typed, with the subcommands' options: for those who show them or look one up.
    pub fn described() -> clap::Command {
        let mut command = Self::command();
        command.build();
        command
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest and run it until it powers off.
    Run(Box<RunArguments>),
    /// Tell what IOMMU groups can do and how much memory a guest with their devices locks.
    Iommu(Deferred<IommuArguments>),
}

/// Arguments of `spapr-vmm run`.
///
/// Exit status: 0 when the guest powers off or the user leaves it with Ctrl-A x, 2 for a wrong command
/// line or missing host support, 1 for any other failure.
#[derive(Args, Clone, Debug)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArguments {
    /// Take options from FILE, in TOML, under their names here without the dashes: memory = "4G",
    /// vfio = ["0001:01:00.0"], sandbox = true. Options that are typed win over the file's.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write the options that are given, here and in the file of --config, as such a file, with all others as
    /// comments, and run nothing.
    #[arg(long)]
    pub print_config: bool,

    /// Kernel: an ELF vmlinux for ppc64le, as distributions ship it in /boot, as it is or compressed by
    /// gzip, xz or zstd.
    #[arg(long, value_name = "FILE", required = false, required_unless_present_any = ["config", "print_config"])]
    pub kernel: PathBuf,

    /// Initial RAM disk, compressed in whatever way the kernel can unpack.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line, for example "console=hvc0 root=/dev/nvme0n1".
    #[arg(long, value_name = "STRING", default_value = "console=hvc0")]
    pub append: String,

    /// Guest memory: a number with unit M, G or T (powers of 1024; 1.5G, 1GB and 1GiB will do, too), a
    /// multiple of 16M. Without a unit it is in bytes.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: ByteSize,

    /// Number of virtual CPUs.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: u32,

    /// PCI device to pass through, bound to vfio-pci, as DDDD:BB:DD.F; may be repeated. As lspci writes
    /// it: without DDDD it is in domain 0, without F it is function 0. vf-token: for a virtual function whose physical
    /// function is bound to vfio-pci, too, the UUID that this one's user has set; for the physical function, the one
    /// to set. rombar=1: the guest finds the device's expansion ROM, of which it has none otherwise; romfile: the image
    /// in this file in place of the device's own (a comma in its name is written twice).
    #[arg(long, value_name = "DDDD:BB:DD.F[,OPTION=VALUE]...")]
    pub vfio: Vec<PassedThroughDevice>,

    /// Give the guest a virtio disk; may be repeated. FILE is an image or a block device; a comma in its name is
    /// written twice. Options: format=raw (the default; an image that begins as another format is refused) or qcow2;
    /// cache=writeback (the default: through the host's page cache), none (past it), writethrough and directsync (as
    /// those, each write being on stable storage before the guest hears of it) or unsafe (never flushed); readonly;
    /// serial=TEXT; queues=COUNT; bus=virtio (the default) or scsi (a target of a virtio SCSI controller);
    /// discard=unmap (the default: the host gets back what the guest discards) or ignore; aio=io_uring (the default,
    /// where the host has it) or threads; werror=enospc (the default: a guest is paused while
    /// the host has no room for what it writes, and SIGCONT has it go on), report (it is told that the write failed), stop
    /// (it is paused for any error) or ignore; rerror=report (the default) or one of the same, for reads.
    #[arg(long, value_name = "FILE[,OPTION[=VALUE]]...")]
    pub disk: Vec<DiskArgument>,

    /// Give the guest a CD drive with FILE, an image of a CD or DVD, in it; may be repeated. The drives are targets of
    /// the SCSI controller that disks with bus=scsi have, behind them.
    #[arg(long, value_name = "FILE")]
    pub cdrom: Vec<PathBuf>,

    /// Give the guest a virtio network card; may be repeated. Its frames are those of the TAP interface NAME of this
    /// host, of the TAP interface that was left open as file descriptor NUMBER (NUMBER:NUMBER and so on for one of several
    /// queues), or of the program that listens at
    /// SOCKET (passt, which takes no privileges). Options: mac=ADDRESS (when not given, one that stays the same for
    /// that interface or socket of this host); mtu=BYTES, which the guest is told; queues=COUNT, 1 (the default) to 64 pairs
    /// of queues, for guests with many processors, of an interface that was made with multi_queue; vhost=on: this
    /// host's kernel passes the frames of a TAP interface by itself (/dev/vhost-net), with bus addresses it cannot.
    #[arg(long, value_name = "tap=NAME|fd=NUMBER|passt=SOCKET[,OPTION=VALUE]...")]
    pub net: Vec<NetDescription>,

    /// Give the guest a virtio balloon, by which it gives back to this host what memory it has no use for at the moment
    /// (free-page reporting). Beside passed-through devices, and with --hugepages, nothing is given back.
    #[arg(long)]
    pub balloon: bool,

    /// Give the guest a port of a virtio serial device, called NAME, on a Unix socket that is made at SOCKET; may be
    /// repeated. Who connects there, one after the other, talks with whoever has opened the port in the guest:
    /// /dev/virtio-ports/NAME in Linux. A guest agent's is called org.qemu.guest_agent.0.
    #[arg(long, value_name = "NAME=SOCKET")]
    pub serial_port: Vec<SerialPort>,

    /// Give the guest a virtio socket device with context ID CID, 3 to 4294967294, which no other guest of this host has:
    /// programs of the guest and of this host have connections to each other (AF_VSOCK, vsock(7)), which this host's
    /// kernel passes (/dev/vhost-vsock).
    #[arg(long, value_name = "CID", value_parser = clap::value_parser!(u32).range(i64::from(LEAST_CID)..i64::from(u32::MAX)))]
    pub vsock: Option<u32>,

    /// Give the guest a folder of this host's, which the program serves that listens at SOCKET (virtiofsd
    /// --socket-path=SOCKET --shared-dir=FOLDER, which is started first); may be repeated. The guest mounts it with
    /// `mount -t virtiofs NAME FOLDER`. Guest memory is then a file that this program gets, all of it, and the host makes
    /// transparent huge pages of it only where shmem_enabled says so. Options: queue-size=ENTRIES, a power of two from 2 to
    /// 1024 (128 when not given).
    #[arg(long, value_name = "SOCKET,tag=NAME[,queue-size=ENTRIES]")]
    pub fs: Vec<FsDescription>,

    /// Give the guest a virtio entropy device, with random bytes of this host's kernel.
    #[arg(long)]
    pub rng: bool,

    /// Have virtio devices do DMA by bus addresses, through their host bridge's DMA window
    /// (VIRTIO_F_ACCESS_PLATFORM), as passed-through devices do: slower, and they reach what the guest maps alone.
    #[arg(long)]
    pub iommu_platform: bool,

    /// Who serves the guest's TCE hypercalls (H_PUT_TCE and its kin).
    #[arg(long, default_value = "auto", value_name = "MODE", value_parser = one_of(&choice::TCE))]
    pub tce: TcePolicy,

    /// When guest memory is locked for DMA.
    #[arg(long, default_value = "first-map", value_name = "MODE", value_parser = one_of(&choice::LOCK))]
    pub lock: LockPolicy,

    /// The regions in which guest memory is locked, a power of two from 16M; when not given, 256M, or
    /// as much more as leaves 8 regions; with --tce kernel 2G, or more. Small ones lock less; many make
    /// every TCE dearer.
    #[arg(long, value_name = "SIZE")]
    pub lock_region: Option<LockRegion>,

    /// Version of the VFIO container.
    #[arg(long, default_value = "auto", value_name = "VERSION", value_parser = one_of(&choice::IOMMU))]
    pub iommu: IommuPolicy,

    /// Dynamic DMA windows: auto (up to the size of guest memory), off, or the most bytes that one
    /// may have, a power of two. Linux maps all of its memory in a window that is large enough; in
    /// a smaller one it maps what it uses.
    #[arg(long, value_name = "auto|off|SIZE", default_value = "auto")]
    pub ddw: DdwMode,

    /// The DMA window that each host bridge has from the start, a power of two, up to what the host has
    /// (`spapr-vmm iommu` says how much). When not given, 1G, or as much less as the host has. A larger one
    /// takes larger tables: 24 bytes for each 4 KiB.
    #[arg(long, value_name = "SIZE")]
    pub dma_window: Option<DmaWindowSize>,

    /// The guest's interrupt controller.
    #[arg(long, default_value = "auto", value_name = "KIND", value_parser = one_of(&choice::INTERRUPT_CONTROLLER))]
    pub interrupt_controller: InterruptControllerMode,

    /// Back guest memory by huge pages of the host, taken from its pool at the start.
    #[arg(long, value_name = "SIZE", value_parser = one_of(&choice::HUGEPAGES))]
    pub hugepages: Option<HugepageSize>,

    /// Where the guest's terminal is: stdio (raw terminal; leave with Ctrl-A x), file=PATH, pty.
    #[arg(long, value_name = "stdio|file=PATH|pty", default_value = "stdio")]
    pub console: ConsoleKind,

    /// Let each thread make only the system calls that it needs and find only its files; anything
    /// else kills the process.
    #[arg(long)]
    pub sandbox: bool,

    /// Write counters (exits, TCE calls by path, ioctls, locked memory) to FILE as JSON at the end.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
}

const RUN_EXAMPLES: &str = "\
Examples:
  Boot a distribution's kernel with its initrd, console on this terminal:
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd.img --memory 2G --cpus 2

  Pass an NVMe drive through; it has to be bound to vfio-pci first:
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd.img --vfio 0001:01:00.0

  A disk, and a network card in a bridge of this host's:
    ip tuntap add dev vm0 mode tap user $USER; ip link set vm0 master br0 up
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd.img --disk disk.img --net tap=vm0

  Write options into a file, and run a guest from that:
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd.img --vfio 0001:01:00.0 \
        --print-config > guest.toml
    spapr-vmm run --config guest.toml

Exit status: 0 when the guest powers off or you leave it with Ctrl-A x, 2 for a wrong command line
or missing host support, 1 for any other failure.";

/// The option that is about a setting, if there is one.
pub const fn option_of(setting: Setting) -> Option<&'static str> {
    Some(match setting {
        Setting::Memory => "--memory",
        Setting::Hugepages => "--hugepages",
        Setting::Cpus => "--cpus",
        Setting::InterruptController => "--interrupt-controller",
        Setting::KernelCommandLine => "--append",
        Setting::Device | Setting::HostBridge => "--vfio",
        Setting::Disk => "--disk",
        Setting::SerialPort => "--serial-port",
        Setting::Vsock => "--vsock",
        Setting::FileSystem => "--fs",
        Setting::Network => "--net",
        Setting::DmaWindow => "--dma-window",
        Setting::Console => "--console",
        Setting::Stats => "--stats",
        Setting::Processor | Setting::Speculation => return None,
    })
}

/// Arguments of `spapr-vmm iommu`.
///
/// Exit status: 0 when there is an answer, 2 when there is no such device or group or the host has
/// none, 1 for any other failure. With --short, 3 when the answer is no.
#[derive(Args, Clone, Debug)]
#[command(after_help = IOMMU_EXAMPLES)]
pub struct IommuArguments {
    /// IOMMU group, by its number, or PCI device as DDDD:BB:DD.F; all groups when not given. Of one, it is
    /// also told what each device will have in a guest, and what it will miss.
    #[arg(value_name = "GROUP|DEVICE")]
    pub target: Option<IommuTarget>,

    /// Memory of the guest to reckon for, as for `run`.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: ByteSize,

    /// Regions in which its memory is locked, as for `run`.
    #[arg(long, value_name = "SIZE")]
    pub lock_region: Option<LockRegion>,

    /// Dynamic DMA windows of the guest, as for `run`.
    #[arg(long, value_name = "auto|off|SIZE", default_value = "auto")]
    pub ddw: DdwMode,

    /// The DMA window that each host bridge has from the start, as for `run`.
    #[arg(long, value_name = "SIZE")]
    pub dma_window: Option<DmaWindowSize>,

    /// Huge pages behind guest memory, as for `run`; the host's own pages when not given.
    #[arg(long, value_name = "SIZE", value_parser = one_of(&choice::HUGEPAGES))]
    pub hugepages: Option<HugepageSize>,

    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,

    /// Say in a line whether the devices of a group can be passed to the guest now, and what to type if not; the
    /// exit status is 3 then.
    #[arg(long, conflicts_with = "json")]
    pub short: bool,
}

const IOMMU_EXAMPLES: &str = "\
Examples:
  All IOMMU groups of the host, for a guest of 1 GiB:
    spapr-vmm iommu

  What passing one device through to a guest of 32 GiB takes:
    spapr-vmm iommu 0001:01:00.0 --memory 32G

  Whether that device can be passed to that guest, in a line:
    spapr-vmm iommu 0001:01:00.0 --memory 32G --short

  The most that a guest with IOMMU group 1 can lock, from a version 2 container, in bytes:
    spapr-vmm iommu 1 --json | jq '.groups[0].containers[0].locked[0].most_bytes'

Groups are opened for a moment and left as they were: nothing is locked or mapped.

Exit status: 0 when there is an answer, 2 when there is no such device or group or the host has
none, 1 for any other failure. With --short, 3 when the answer is no.";

/// What `spapr-vmm iommu` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IommuTarget {
    /// A group.
    Group(GroupNumber),
    /// The group of a device.
    Device(PciAddress),
}

impl FromStr for IommuTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && let Ok(number) = text.parse() {
            return Ok(Self::Group(GroupNumber(number)));
        }
        text.parse()
            .map(Self::Device)
            .map_err(|error| format!("no number of an IOMMU group, and {error}"))
    }
}

/// Reads the name of one of some choices; help has them all.
fn one_of<T: Copy + Send + Sync>(
    choices: &'static [Choice<T>],
) -> impl TypedValueParser<Value = T> {
    let values = choices
        .iter()
        .map(|choice| PossibleValue::new(choice.name).help(choice.help));
    PossibleValuesParser::new(values)
        .try_map(|name| choice::find(choices, &name).ok_or("there is no such choice"))
}

impl From<&RunArguments> for MachineDescription {
    fn from(arguments: &RunArguments) -> Self {
        Self {
            kernel: arguments.kernel.clone(),
            initrd: arguments.initrd.clone(),
            command_line: arguments.append.clone(),
            memory: arguments.memory,
            cpus: arguments.cpus,
            threads_per_core: 1,
            processor: None,
            speculation: Wanted::default(),
            vfio: arguments.vfio.clone(),
            virtual_devices: virtual_devices(arguments),
            tce: arguments.tce,
            lock: arguments.lock,
            lock_region: arguments.lock_region.map(|region| region.0),
            iommu: arguments.iommu,
            ddw: arguments.ddw,
            dma_windows: DmaWindowSizes {
                of_all: arguments.dma_window,
                ..DmaWindowSizes::default()
            },
            interrupt_controller: arguments.interrupt_controller,
            hugepages: arguments.hugepages,
            vty: DEFAULT_UNIT_ADDRESS,
            uuid: None,
            clock_offset_seconds: 0,
        }
    }
}

/// The one serial device that has all ports, if there are any.
fn serial(ports: &[SerialPort]) -> Option<(VirtualDeviceKind, String)> {
    // Number 0 is for a console.
    let ports: Vec<PortDescription> = (1..)
        .zip(ports)
        .map(|(number, port)| PortDescription {
            id: None,
            number,
            name: port.name.clone(),
            is_console: false,
            outlet: PortOutlet::Listen(port.socket.clone()),
        })
        .collect();
    (!ports.is_empty()).then(|| (VirtualDeviceKind::Serial(ports), "--serial-port".to_owned()))
}

fn virtual_devices(arguments: &RunArguments) -> Vec<VirtualDevice> {
    let on_bus = |bus| {
        let disks = arguments.disk.iter().filter(move |disk| disk.bus == bus);
        disks.map(|argument| argument.disk.clone())
    };
    let disks = on_bus(DiskBus::Virtio).map(|disk| {
        let name = format!("--disk {}", disk.image.path.display());
        (VirtualDeviceKind::Disk(Box::new(disk)), name)
    });
    let discs = arguments.cdrom.iter().cloned().map(|path| {
        let mut disc = DiskDescription::new(path);
        disc.image.read_only = true;
        disc
    });
    let scsi = ScsiDescription::of_targets(on_bus(DiskBus::Scsi), discs);
    let scsi = (!scsi.units.is_empty()).then(|| {
        (
            VirtualDeviceKind::Scsi(scsi),
            "the SCSI controller".to_owned(),
        )
    });
    let nics = arguments.net.iter().map(|net| {
        let name = format!("--net {}", net.backend);
        (VirtualDeviceKind::Net(Box::new(net.clone())), name)
    });
    let rng = (VirtualDeviceKind::Rng, "--rng".to_owned());
    let devices = disks
        .chain(scsi)
        .chain(nics)
        .chain(arguments.rng.then_some(rng));
    let balloon = VirtualDeviceKind::Balloon(BalloonDescription {
        deflates_on_oom: false,
        reports_free_pages: true,
    });
    let balloon = (balloon, "--balloon".to_owned());
    let devices = devices.chain(serial(&arguments.serial_port));
    let devices = devices.chain(arguments.balloon.then_some(balloon));
    let vsock = arguments.vsock.map(|cid| {
        let vhost = VhostSource::Path;
        let kind = VirtualDeviceKind::Vsock(VsockDescription { cid, vhost });
        (kind, "--vsock".to_owned())
    });
    let filesystems = arguments.fs.iter().map(|filesystem| {
        let name = format!("--fs {}", filesystem.socket.display());
        (VirtualDeviceKind::FileSystem(filesystem.clone()), name)
    });
    let devices = devices.chain(vsock).chain(filesystems);
    devices
        .map(|(kind, name)| VirtualDevice {
            // A balloon's driver gives it no addresses of buffers alone, but pages: Linux refuses bus addresses. Those of
            // sockets the host's kernel would have to know.
            by_bus_address: arguments.iommu_platform
                && !matches!(
                    kind,
                    VirtualDeviceKind::Balloon(_) | VirtualDeviceKind::Vsock(_)
                ),
            kind,
            name,
            place: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_iommu_is_asked_about_by_group_or_device() {
        let group = IommuTarget::Group(GroupNumber(12));
        assert_eq!("12".parse(), Ok(group));
        let device = "0001:01:00.0".parse().unwrap();
        assert_eq!("0001:01:00.0".parse(), Ok(IommuTarget::Device(device)));
        assert_eq!("1:01:0".parse(), Ok(IommuTarget::Device(device)));
        for wrong in ["", "-1", "+1", "4294967296", "group", "01:00.8"] {
            let message = wrong.parse::<IommuTarget>().unwrap_err();
            assert!(message.contains("IOMMU group"), "{message}");
            assert!(message.contains("DDDD:BB:DD.F"), "{message}");
        }
    }
}
