//! The emulated hosts: what kinds there are, and how one is booted and run.

mod channels;
mod code_log;
mod console;
mod device_tree;
mod devices;
mod emulator;
mod live;
mod lpar;
mod outcome;
mod qemu;
mod run;
mod stall;

use clap::ValueEnum;

use crate::kernels::{HostKernel, PageSize};

pub(crate) use code_log::CodeLog;
pub(crate) use devices::{DeviceKind, Files};
pub(crate) use emulator::EmulatorRelease;
pub(crate) use lpar::LparOption;
pub(crate) use outcome::{HostError, Input, Output};
pub(crate) use run::{HostRun, fresh_copy};

/// A kind of host, by CPU and page size of its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostKind {
    /// POWER9, kernel with 64 KiB pages
    #[value(name = "p9-64k")]
    P9Pages64k,
    /// POWER9, kernel with 4 KiB pages
    #[value(name = "p9-4k")]
    P9Pages4k,
    /// POWER10, kernel with 64 KiB pages
    #[value(name = "p10-64k")]
    P10Pages64k,
    /// An LPAR of a POWER9 (nested KVM), kernel with 64 KiB pages
    #[value(name = "lpar9-64k")]
    Lpar9Pages64k,
    /// An LPAR of a POWER9, kernel with 4 KiB pages
    #[value(name = "lpar9-4k")]
    Lpar9Pages4k,
    /// An LPAR of a POWER10 (nested KVM, API version 2), kernel with 64 KiB pages
    #[value(name = "lpar10-64k")]
    Lpar10Pages64k,
}

/// What runs a host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platform {
    /// Nothing: the machine is its own, and skiboot its firmware.
    BareMetal,
    /// A hypervisor that lets its guests run guests (nested KVM); SLOF is the firmware.
    Lpar,
}

impl HostKind {
    /// Every kind, the usual one first, and those next whose tests take longest.
    pub(crate) const ALL: [Self; 6] = [
        Self::P9Pages64k,
        Self::P9Pages4k,
        Self::Lpar9Pages64k,
        Self::P10Pages64k,
        Self::Lpar9Pages4k,
        Self::Lpar10Pages64k,
    ];

    /// The name used on the command line and in `LAB_HOST`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P9Pages64k => "p9-64k",
            Self::P9Pages4k => "p9-4k",
            Self::P10Pages64k => "p10-64k",
            Self::Lpar9Pages64k => "lpar9-64k",
            Self::Lpar9Pages4k => "lpar9-4k",
            Self::Lpar10Pages64k => "lpar10-64k",
        }
    }

    /// The page size of the host's kernel.
    pub(crate) fn page_size(self) -> PageSize {
        match self {
            Self::P9Pages64k | Self::P10Pages64k | Self::Lpar9Pages64k | Self::Lpar10Pages64k => {
                PageSize::Pages64k
            }
            Self::P9Pages4k | Self::Lpar9Pages4k => PageSize::Pages4k,
        }
    }

    /// Why the host cannot do its work with this kernel, if it cannot.
    ///
    /// Seen with QEMU 10.0 and 11.1 and Linux 7.2, with guests of ours and of QEMU's, with and without a
    /// device: when a guest has two processors, one of the emulated POWER10's stays at an instruction of
    /// the guest's for ever and takes no interrupt, not even the hypervisor's decrementer's.
    pub(crate) fn defect_with(self, kernel: HostKernel) -> Option<&'static str> {
        match (self, kernel) {
            (Self::P10Pages64k, HostKernel::Forky) => Some(
                "an emulated POWER10 with Linux 7.2 hangs when a guest has more than one processor, \
                 whatever VMM runs it",
            ),
            _ => None,
        }
    }

    /// Whether it is an LPAR.
    pub(crate) fn is_lpar(self) -> bool {
        self.platform() == Platform::Lpar
    }

    /// What runs its kernel.
    pub(super) fn platform(self) -> Platform {
        match self {
            Self::P9Pages64k | Self::P9Pages4k | Self::P10Pages64k => Platform::BareMetal,
            Self::Lpar9Pages64k | Self::Lpar9Pages4k | Self::Lpar10Pages64k => Platform::Lpar,
        }
    }

    /// QEMU's name for an LPAR's processor, which QEMU would have as new as can be.
    fn lpar_processor(self) -> &'static str {
        match self {
            Self::Lpar10Pages64k => "power10",
            _ => "power9",
        }
    }

    /// QEMU's name for the machine, with its options.
    fn machine(self) -> &'static str {
        match self {
            Self::P9Pages64k | Self::P9Pages4k => "powernv9",
            Self::P10Pages64k => "powernv10",
            // An emulated processor has none of the defences that pseries machines promise.
            Self::Lpar9Pages64k | Self::Lpar9Pages4k => {
                "pseries,cap-nested-hv=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken"
            }
            Self::Lpar10Pages64k => {
                "pseries,cap-nested-papr=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken"
            }
        }
    }
}
