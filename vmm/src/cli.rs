//! The command line of `spapr-vmm`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use spapr_devices::vfio::PciAddress;

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
}

/// Arguments of `spapr-vmm run`.
///
/// Exit status: 0 when the guest powers off, 2 for a wrong command line or missing host support,
/// 1 for any other failure.
#[derive(Args, Clone, Debug)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArguments {
    /// Kernel: an ELF vmlinux for ppc64 or ppc64le, as distributions ship it in /boot.
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// Initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line, for example "console=hvc0 root=/dev/nvme0n1".
    #[arg(long, value_name = "STRING", default_value = "console=hvc0")]
    pub append: String,

    /// Guest memory: a number with suffix M, G or T (powers of 1024), a multiple of 16M.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: ByteSize,

    /// Number of virtual CPUs.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: u32,

    /// PCI device to pass through, bound to vfio-pci, as DDDD:BB:DD.F; may be repeated.
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub vfio: Vec<PciAddress>,

    /// Who serves the guest's TCE hypercalls (H_PUT_TCE and its kin).
    #[arg(long, value_enum, default_value_t = TceMode::Auto, value_name = "MODE")]
    pub tce: TceMode,

    /// When guest memory is locked for DMA.
    #[arg(long, value_enum, default_value_t = LockMode::FirstMap, value_name = "MODE")]
    pub lock: LockMode,

    /// Version of the VFIO container.
    #[arg(long, value_enum, default_value_t = IommuMode::Auto, value_name = "VERSION")]
    pub iommu: IommuMode,

    /// Where the guest's terminal is: stdio (raw terminal; leave with Ctrl-A x), file=PATH, pty.
    #[arg(long, value_name = "stdio|file=PATH|pty", default_value = "stdio")]
    pub console: ConsoleKind,

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

Exit status: 0 when the guest powers off, 2 for a wrong command line or missing host support,
1 for any other failure.";

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
    /// Every rare event.
    Debug,
    /// More than anyone wants.
    Trace,
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
    /// Single entries in the kernel, lists in this process; all in this process when the kernel cannot.
    Auto,
    /// All in the kernel, as far as it can.
    Kernel,
    /// All in this process.
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

/// A number of bytes, written with a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected a number with suffix K, M, G or T, for example 2G".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| expected())?;
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err(expected()),
        };
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| "more than 64 bits can count".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
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
    fn sizes_take_suffixes_and_print_them() {
        assert_eq!("1G".parse(), Ok(ByteSize(1 << 30)));
        assert_eq!("512m".parse(), Ok(ByteSize(512 << 20)));
        assert_eq!("2GiB".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!(ByteSize(3 << 30).to_string(), "3G");
        assert_eq!(ByteSize(0).to_string(), "0");
        assert!("1X".parse::<ByteSize>().is_err());
        assert!("G".parse::<ByteSize>().is_err());
        assert!("99999999T".parse::<ByteSize>().is_err());
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
