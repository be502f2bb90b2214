//! The kernels that hosts and guests run: Debian's, by release and page size.

use clap::{Args, ValueEnum};

/// The page size of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PageSize {
    #[value(name = "4k")]
    Pages4k,
    #[value(name = "64k")]
    Pages64k,
}

impl PageSize {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pages4k => "4k",
            Self::Pages64k => "64k",
        }
    }
}

/// The Debian release that a kernel is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelRelease {
    /// Debian 13's, Linux 6.12
    Trixie,
    /// The next Debian's, Linux 7.2 or later
    Forky,
    /// Debian 13's as built for Debian 12, Linux 6.12
    BookwormBackports,
    /// Debian 12's, Linux 6.1 with pages of 64 KiB: for guests only, it has no VFIO on POWER
    Bookworm,
}

/// A kernel that can run a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostKernel {
    /// Debian 13's, Linux 6.12
    Trixie,
    /// The next Debian's, Linux 7.2 or later
    Forky,
    /// Debian 13's as built for Debian 12, Linux 6.12
    BookwormBackports,
}

/// A kernel for a host or guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) release: KernelRelease,
    pub(crate) pages: PageSize,
}

/// Which kernels a host and its guests run.
#[derive(Debug, Clone, Copy, Args, PartialEq, Eq)]
pub(crate) struct KernelArgs {
    /// The kernel of the host; its page size is part of the host's name
    #[arg(long, value_enum, value_name = "NAME", default_value_t = HostKernel::Trixie)]
    pub(crate) kernel: HostKernel,
    /// The kernel of its guests; the host's, if not given
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) guest_kernel: Option<KernelRelease>,
    /// The page size of the guests' kernel; the host's, if not given and the guests' kernel has it
    #[arg(long, value_enum, value_name = "SIZE")]
    pub(crate) guest_pages: Option<PageSize>,
}

impl KernelRelease {
    const ALL: [Self; 4] = [
        Self::Trixie,
        Self::Forky,
        Self::BookwormBackports,
        Self::Bookworm,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
            Self::BookwormBackports => "bookworm-backports",
            Self::Bookworm => "bookworm",
        }
    }

    /// The page sizes that its kernels come with.
    fn page_sizes(self) -> &'static [PageSize] {
        match self {
            Self::Bookworm => &[PageSize::Pages64k],
            _ => &[PageSize::Pages4k, PageSize::Pages64k],
        }
    }
}

impl HostKernel {
    pub(crate) fn release(self) -> KernelRelease {
        match self {
            Self::Trixie => KernelRelease::Trixie,
            Self::Forky => KernelRelease::Forky,
            Self::BookwormBackports => KernelRelease::BookwormBackports,
        }
    }
}

impl Kernel {
    /// Every kernel there is.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        KernelRelease::ALL.into_iter().flat_map(|release| {
            let sizes = release.page_sizes().iter();
            sizes.map(move |pages| Self {
                release,
                pages: *pages,
            })
        })
    }

    /// Whether a host can run it: Debian 12's has no VFIO on POWER.
    pub(crate) fn runs_hosts(self) -> bool {
        self.release != KernelRelease::Bookworm
    }

    /// Its release and page size.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.release.name(), self.pages.name())
    }
}

impl Default for KernelArgs {
    fn default() -> Self {
        Self {
            kernel: HostKernel::Trixie,
            guest_kernel: None,
            guest_pages: None,
        }
    }
}

impl KernelArgs {
    /// What is special about them, for titles.
    pub(crate) fn title(&self) -> String {
        let mut title = self.kernel.release().name().to_owned();
        if let Some(release) = self.guest_kernel {
            title.push_str(&format!(", guests {}", release.name()));
        }
        if let Some(pages) = self.guest_pages {
            title.push_str(&format!(", guests' pages {}", pages.name()));
        }
        title
    }

    /// The kernel of a host whose kernel has pages of this size.
    pub(crate) fn of_host(&self, pages: PageSize) -> Kernel {
        Kernel {
            release: self.kernel.release(),
            pages,
        }
    }

    /// The kernel of the guests of such a host.
    ///
    /// # Errors
    /// What to type instead, when there is no such kernel.
    pub(crate) fn of_guests(&self, host_pages: PageSize) -> Result<Kernel, String> {
        let release = self.guest_kernel.unwrap_or(self.kernel.release());
        let sizes = release.page_sizes();
        let pages = match self.guest_pages {
            Some(pages) if !sizes.contains(&pages) => {
                let (name, pages) = (release.name(), pages.name());
                return Err(format!(
                    "Debian {name} has no kernel with pages of {pages}: leave --guest-pages {pages} out"
                ));
            }
            Some(pages) => pages,
            None if sizes.contains(&host_pages) => host_pages,
            None => sizes[0],
        };
        Ok(Kernel { release, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_run_the_hosts_kernel_unless_told_otherwise() {
        let kernels = KernelArgs {
            kernel: HostKernel::Forky,
            ..KernelArgs::default()
        };
        assert_eq!(kernels.of_host(PageSize::Pages4k).name(), "forky-4k");
        let guest = |kernels: KernelArgs| {
            let kernel = kernels.of_guests(PageSize::Pages4k);
            kernel.map(Kernel::name)
        };
        assert_eq!(guest(kernels).unwrap(), "forky-4k");
        let other = KernelArgs {
            guest_kernel: Some(KernelRelease::Trixie),
            guest_pages: Some(PageSize::Pages64k),
            ..kernels
        };
        assert_eq!(guest(other).unwrap(), "trixie-64k");
    }

    #[test]
    fn debian_12s_own_kernel_has_pages_of_64_kib_alone() {
        let mut kernels = KernelArgs {
            guest_kernel: Some(KernelRelease::Bookworm),
            ..KernelArgs::default()
        };
        let guest = kernels.of_guests(PageSize::Pages4k).unwrap();
        assert_eq!(guest.name(), "bookworm-64k");
        kernels.guest_pages = Some(PageSize::Pages4k);
        let error = kernels.of_guests(PageSize::Pages4k).unwrap_err();
        assert!(error.contains("--guest-pages 4k"), "{error}");
    }
}
