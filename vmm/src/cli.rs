//! The command line of `spapr-vmm`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use spapr_devices::vfio::{GroupNumber, PciAddress};
use spapr_hypercalls::locking::RegionSize;

pub use crate::byte_size::ByteSize;
use crate::byte_size::SizeError;
use crate::hugepages::HugepageSize;
use crate::setting::Setting;

/// A VMM for ppc64le KVM (pseries) guests with passed-through PCI devices.
#[derive(Debug, Parser)]
#[command(name = "spapr-vmm", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Warn, value_name = "LEVEL")]
    pub log: LogLevel,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest and run it until it powers off.
    Run(Box<RunArguments>),
    /// Tell what IOMMU groups can do and how much memory a guest with their devices locks.
    Iommu(IommuArguments),
}

/// Arguments of `spapr-vmm run`.
///
/// Exit status: 0 when the guest powers off or the user leaves it with Ctrl-A x, 2 for a wrong command
/// line or missing host support, 1 for any other failure.
#[derive(Args, Clone, Debug)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArguments {
    /// Kernel: an ELF vmlinux for ppc64le, as distributions ship it in /boot, as it is or compressed by
    /// gzip, xz or zstd.
    #[arg(long, value_name = "FILE")]
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
    /// it: without DDDD it is in domain 0, without F it is function 0.
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub vfio: Vec<PciAddress>,

    /// Who serves the guest's TCE hypercalls (H_PUT_TCE and its kin).
    #[arg(long, value_enum, default_value_t = TceMode::Auto, value_name = "MODE")]
    pub tce: TceMode,

    /// When guest memory is locked for DMA.
    #[arg(long, value_enum, default_value_t = LockMode::FirstMap, value_name = "MODE")]
    pub lock: LockMode,

    /// The regions in which guest memory is locked, a power of two from 16M; when not given, 256M, or
    /// as much more as leaves 8 regions. Small ones lock less; many make every TCE dearer.
    #[arg(long, value_name = "SIZE")]
    pub lock_region: Option<LockRegion>,

    /// Version of the VFIO container.
    #[arg(long, value_enum, default_value_t = IommuMode::Auto, value_name = "VERSION")]
    pub iommu: IommuMode,

    /// Dynamic DMA windows: auto (up to the size of guest memory), off, or the most bytes that one
    /// may have, a power of two. Linux maps all of its memory in a window that is large enough; in
    /// a smaller one it maps what it uses.
    #[arg(long, value_name = "auto|off|SIZE", default_value = "auto")]
    pub ddw: DdwMode,

    /// The guest's interrupt controller.
    #[arg(long, value_enum, default_value_t = InterruptControllerMode::Auto, value_name = "KIND")]
    pub interrupt_controller: InterruptControllerMode,

    /// Back guest memory by huge pages of the host, taken from its pool at the start.
    #[arg(long, value_enum, value_name = "SIZE")]
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
        Setting::Console => "--console",
        Setting::Stats => "--stats",
        Setting::Processor | Setting::Speculation => return None,
    })
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What ends the VMM or a device's work.
    Error,
    /// What works less well than it could.
    Warn,
    /// What was set up, and how.
    Info,
    /// Rare events, and what the guest asks for: hypercalls other than TCE calls, RTAS calls, changes of
    /// configuration space; of each kind two a second at most.
    Debug,
    /// Also reads of configuration space and accesses to BARs that are served here, of each kind two a
    /// second at most.
    Trace,
}

/// Arguments of `spapr-vmm iommu`.
///
/// Exit status: 0 when there is an answer, 2 when there is no such device or group or the host has
/// none, 1 for any other failure.
#[derive(Args, Clone, Debug)]
#[command(after_help = IOMMU_EXAMPLES)]
pub struct IommuArguments {
    /// IOMMU group, by its number, or PCI device as DDDD:BB:DD.F; all groups when not given.
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

    /// Huge pages behind guest memory, as for `run`; the host's own pages when not given.
    #[arg(long, value_enum, value_name = "SIZE")]
    pub hugepages: Option<HugepageSize>,

    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

const IOMMU_EXAMPLES: &str = "\
Examples:
  All IOMMU groups of the host, for a guest of 1 GiB:
    spapr-vmm iommu

  What passing one device through to a guest of 32 GiB takes:
    spapr-vmm iommu 0001:01:00.0 --memory 32G

  The most that a guest with IOMMU group 1 can lock, from a version 2 container, in bytes:
    spapr-vmm iommu 1 --json | jq '.groups[0].containers[0].locked[0].most_bytes'

Groups are opened for a moment and left as they were: nothing is locked or mapped.

Exit status: 0 when there is an answer, 2 when there is no such device or group or the host has
none, 1 for any other failure.";

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

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// Who serves the TCE hypercalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TceMode {
    /// Wherever it is cheaper and safe: single entries in the kernel, ranges in this process, scattered
    /// lists in the kernel if it checks where they end; all in this process when the kernel cannot. A guest
    /// that changes one entry from two processors at once can make Linux keep some of its memory locked after
    /// its end, until the host restarts; that is then told, and ends in an error.
    Auto,
    /// All in the kernel, as far as it can. For guests that you trust: before Linux 7, a guest can write
    /// behind the kernel's tables with it.
    Kernel,
    /// All in this process: dearer for single entries, and leaves a hostile guest no bug of the kernel's
    /// handlers to use.
    User,
}

/// When guest memory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LockMode {
    /// Region by region, when the guest first maps a page of it for DMA.
    FirstMap,
    /// All of it, before the guest starts.
    Attach,
}

/// Version of the VFIO container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IommuMode {
    /// Version 2, or 1 where the host has no 2.
    Auto,
    /// Version 1: every TCE call is served in this process, pages are locked one by one.
    V1,
    /// Version 2: memory is registered before it is mapped.
    V2,
}

/// The guest's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InterruptControllerMode {
    /// XIVE where the host can: KVM offers it (not in a nested host), and pages have 64 KiB. Else XICS.
    Auto,
    /// XIVE, native exploitation mode: the guest takes and ends interrupts without hypercalls.
    Xive,
    /// XICS, on any host.
    Xics,
}

/// Size of the regions in which guest memory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRegion(pub RegionSize);

impl LockRegion {
    /// The least that may be asked for: guest memory is a multiple of it.
    pub const LEAST: ByteSize = ByteSize(16 << 20);
}

impl FromStr for LockRegion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size: ByteSize = text.parse().map_err(|why: SizeError| why.to_string())?;
        RegionSize::new(size.0)
            .filter(|_| size >= Self::LEAST)
            .map(Self)
            .ok_or_else(|| format!("a region is a power of two, at least {}", Self::LEAST))
    }
}

/// How large dynamic DMA windows may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DdwMode {
    /// As large as guest memory.
    Auto,
    /// The guest is offered none.
    Off,
    /// At most this, a power of two.
    AtMost(ByteSize),
}

impl DdwMode {
    /// The least that a window may be bounded to: one page of the largest size that QEMU offers.
    pub const LEAST: ByteSize = ByteSize(16 << 20);
}

impl fmt::Display for DdwMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Off => formatter.write_str("off"),
            Self::AtMost(size) => size.fmt(formatter),
        }
    }
}

impl FromStr for DdwMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let size: ByteSize = text.parse().map_err(|why| match why {
            SizeError::NoSize => "expected auto, off, or a size such as 512M".to_owned(),
            why => why.to_string(),
        })?;
        if size < Self::LEAST {
            return Err(format!("a window has at least {}", Self::LEAST));
        }
        if !size.0.is_power_of_two() {
            let below = ByteSize(1 << size.0.ilog2());
            return Err(format!(
                "a window's size is a power of two, such as {below}"
            ));
        }
        Ok(Self::AtMost(size))
    }
}

/// Where the guest's terminal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// Standard input and output.
    Stdio,
    /// Output to a file; no input.
    File(PathBuf),
    /// A new pseudo-terminal, whose name is printed.
    Pty,
}

impl FromStr for ConsoleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "pty" => Ok(Self::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err("expected stdio, pty, or file=PATH".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

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

    #[test]
    fn dynamic_windows_are_bounded_to_powers_of_two() {
        assert_eq!("auto".parse(), Ok(DdwMode::Auto));
        assert_eq!("off".parse(), Ok(DdwMode::Off));
        let bound = DdwMode::AtMost(ByteSize(512 << 20));
        assert_eq!("512M".parse(), Ok(bound));
        let refusal = |text: &str| text.parse::<DdwMode>().unwrap_err();
        assert!(refusal("3G").contains("such as 2G"));
        assert!(refusal("8M").contains("at least 16M"));
        assert!(refusal("0").contains("at least 16M"));
        assert!(refusal("on").contains("auto, off"));
    }

    #[test]
    fn regions_are_powers_of_two_from_16_mib() {
        let region = "64M".parse::<LockRegion>().unwrap();
        assert_eq!(region.0.bytes(), 64 << 20);
        for wrong in ["8M", "0", "24M", "region"] {
            assert!(wrong.parse::<LockRegion>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn consoles_are_named_as_the_help_says() {
        assert_eq!("stdio".parse(), Ok(ConsoleKind::Stdio));
        assert_eq!("pty".parse(), Ok(ConsoleKind::Pty));
        assert_eq!(
            "file=/tmp/x".parse(),
            Ok(ConsoleKind::File(PathBuf::from("/tmp/x")))
        );
        assert!("file=".parse::<ConsoleKind>().is_err());
        assert!("socket".parse::<ConsoleKind>().is_err());
    }
}
