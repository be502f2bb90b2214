//! The command line of `spapr-bench`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use spapr_devices::vfio::PciAddress;

/// Measures spapr-vmm beside QEMU and beside what the kernel alone costs.
#[derive(Debug, Parser)]
#[command(name = "spapr-bench")]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure all, and write the results as JSON
    Run(Box<RunArguments>),
    /// Run a guest in a VM that does next to nothing: the floor
    Floor(FloorArguments),
    /// In a Linux guest: read a block device, and print how long that takes
    Read(ReadArguments),
    /// In a Linux guest: exchange data with its host over a network, and print how long that takes
    Exchange(ExchangeArguments),
}

/// What to measure with.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArguments {
    /// Where the results go
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The bare-metal guest that measures hypercalls
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: PathBuf,
    /// spapr-vmm
    #[arg(long, value_name = "PROGRAM", default_value = "spapr-vmm")]
    pub(crate) vmm: PathBuf,
    /// QEMU; what is not there is not measured
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-ppc64")]
    pub(crate) qemu: PathBuf,
    /// The next Debian's QEMU; without it, it is not measured
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) next_qemu: Option<PathBuf>,
    /// PCI device to pass through, bound to vfio-pci; without one no TCE calls are measured
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub(crate) vfio: Option<PciAddress>,
    /// A second one, in another group
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub(crate) second: Option<PciAddress>,
    /// An NVMe whose guests are interrupted by its line, if it is not that of --vfio
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub(crate) by_line: Option<PciAddress>,
    /// A Linux guest's kernel; without one no boots and no reads are measured
    #[arg(long, value_name = "FILE", requires = "initrd")]
    pub(crate) kernel: Option<PathBuf>,
    /// A Linux guest's initial RAM disk, as the lab makes it
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// A folder with a Debian system for that kernel, disk.qcow2 and initrd, as the lab makes them; without one no
    /// logins are measured
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    pub(crate) system: Option<PathBuf>,
    /// Which kernel that is, for the report, if not the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) guest_kernel: Option<String>,
    /// What the report says of the packages that host and guests are made of
    #[arg(long, value_name = "TEXT")]
    pub(crate) packages: Option<String>,
    /// The host's clock counts instructions
    #[arg(long)]
    pub(crate) counts_instructions: bool,
    /// Measure only what has this in its title; given several times, what has any of them
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
}

/// What to read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadArguments {
    /// The block device
    pub(crate) device: PathBuf,
    /// Keep the processor busy while a read is under way, and tell what the read takes besides: for
    /// clocks that count instructions
    #[arg(long)]
    pub(crate) busy: bool,
}

/// Whom to exchange data with.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExchangeArguments {
    /// The host's address
    pub(crate) host: Ipv4Addr,
    /// As for `read`
    #[arg(long)]
    pub(crate) busy: bool,
}

/// A floor to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct FloorArguments {
    /// What is done about a hypercall
    #[arg(value_enum)]
    pub(crate) floor: Floor,
    /// The bare-metal guest
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: PathBuf,
    /// The guest's command line
    #[arg(long, value_name = "STRING", default_value = "")]
    pub(crate) append: String,
    /// PCI device whose group is taken
    #[arg(long, value_name = "DDDD:BB:DD.F")]
    pub(crate) vfio: Option<PciAddress>,
    /// Version of the VFIO container
    #[arg(long, value_enum, default_value_t = Iommu::V2)]
    pub(crate) iommu: Iommu,
    /// Pieces of memory that are registered
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) regions: u32,
    /// LIOBNs that have a table in the kernel
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) liobns: u32,
}

/// Version of a VFIO container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Iommu {
    /// Version 1
    V1,
    /// Version 2
    V2,
}

/// What a floor does about a TCE hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Floor {
    /// Nothing: the return value is set
    Exit,
    /// The VFIO calls that it takes
    Map,
    /// Nothing: the kernel does it
    Kernel,
}
