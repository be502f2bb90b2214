//! A VFIO container on POWER (`drivers/vfio/vfio_iommu_spapr_tce.c` in Linux): its IOMMU group, its
//! version, and what it can do. Its windows are in `window.rs`, its mappings in `dma.rs`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use log::Level;
use parking_lot::Mutex;
use spapr_hypercalls::address::{Ioba, PageShift};
use spapr_hypercalls::world::Geometry;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_IOMMU_SPAPR_INFO_DDW, VFIO_SPAPR_TCE_IOMMU, VFIO_SPAPR_TCE_v2_IOMMU,
    vfio_iommu_spapr_tce_info, vfio_iommu_spapr_tce_remove,
};
use vmm_sys_util::errno::Error as Errno;

use super::group::{Group, GroupError};
use super::limited::SharedWindow;
use super::memory_limit::MemoryLimitError;
use super::preflight::{HostPaths, Platform, PreflightError, no_permission};
use super::{argument_size, kernel};
use crate::guest_message;

/// Which of the kernel's two SPAPR interfaces a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IommuVersion {
    /// VFIO_SPAPR_TCE_IOMMU: one fixed window of 4 KiB pages; memory is locked page by page, and
    /// accounted for as the whole window at once. KVM handles no TCEs for it.
    V1,
    /// VFIO_SPAPR_TCE_v2_IOMMU: windows are made and removed, and memory is registered first.
    V2,
}

impl IommuVersion {
    /// The number that VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU take.
    const fn extension(self) -> u32 {
        match self {
            Self::V1 => VFIO_SPAPR_TCE_IOMMU,
            Self::V2 => VFIO_SPAPR_TCE_v2_IOMMU,
        }
    }
}

impl fmt::Display for IommuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Which version to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IommuPolicy {
    /// v2, or v1 where the kernel refuses v2 for the group.
    #[default]
    Auto,
    /// v1 and nothing else.
    V1,
    /// v2 and nothing else.
    V2,
}

impl IommuPolicy {
    const fn candidates(self) -> &'static [IommuVersion] {
        match self {
            Self::Auto => &[IommuVersion::V2, IommuVersion::V1],
            Self::V1 => &[IommuVersion::V1],
            Self::V2 => &[IommuVersion::V2],
        }
    }
}

/// What a container can do (VFIO_IOMMU_SPAPR_TCE_GET_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuInfo {
    /// Its version.
    pub version: IommuVersion,
    /// Who has its tables.
    pub platform: Platform,
    /// First bus address of the default window.
    pub window_start: Ioba,
    /// Size of the default window in bytes.
    pub window_bytes: u64,
    /// Page sizes that a window may have: bit `n` stands for pages of `1 << n` bytes.
    pub page_sizes: u64,
    /// How many windows there may be at a time, the default one included; 0 where that one is all: in a v1
    /// container, and on a platform that makes no others (an LPAR without ibm,ddw-applicable says −1).
    pub dynamic_windows: u32,
    /// How many levels a window's table may have, at least 1.
    pub levels: u32,
}

/// The most bytes of a default window whose size nobody chose, as in QEMU: Linux takes it for granted where there is
/// no other, and the host has to find room for its tables.
pub const USUAL_WINDOW_BYTES: u64 = 1 << 30;

impl IommuInfo {
    /// Whether a window may have pages of this size.
    pub const fn has_page_size(&self, page: PageShift) -> bool {
        self.page_sizes & page.bytes() != 0
    }

    /// The default window of a guest's host bridge, in pages of 4 KiB: it starts where the host's does, and has
    /// `wanted_bytes` (a power of two) or, if nobody chose, 1 GiB or as much less as the host has.
    ///
    /// # Errors
    /// When that is more than the host's, or the host does not tell how large its window is.
    pub fn default_window(
        &self,
        wanted_bytes: Option<u64>,
    ) -> Result<Geometry, DefaultWindowError> {
        if self.window_bytes < PageShift::SIZE_4K.bytes() {
            return Err(DefaultWindowError::Untold(self.window_bytes));
        }
        // The kernel makes windows of a power of two; so are the hosts' own.
        let most = 1 << self.window_bytes.ilog2();
        let wanted = wanted_bytes.unwrap_or(USUAL_WINDOW_BYTES.min(most));
        if wanted > most {
            return Err(DefaultWindowError::TooLarge { wanted, most });
        }
        Ok(Geometry {
            entries: wanted >> PageShift::SIZE_4K.get(),
            bus_offset: self.window_start,
            page_shift: PageShift::SIZE_4K,
        })
    }
}

/// Why a bridge can have no such default window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefaultWindowError {
    /// It is larger than the host's.
    #[error(
        "a DMA window of {} MiB is more than the host has, {} MiB (VFIO_IOMMU_SPAPR_TCE_GET_INFO); give less",
        .wanted >> 20, .most >> 20
    )]
    TooLarge {
        /// As asked for, in bytes.
        wanted: u64,
        /// What the host has.
        most: u64,
    },
    /// The host's number of bytes, of 32 bits, is that of no window. To try one would be to risk what an LPAR's kernel
    /// does after a failure: the device gets no window any more until the LPAR restarts.
    #[error(
        "the host says that its DMA window has {0} bytes (VFIO_IOMMU_SPAPR_TCE_GET_INFO): one of 4 GiB or more, as \
         of some virtual functions, cannot be told there, and the device cannot be passed through"
    )]
    Untold(u64),
}

/// Why there is no container for a group.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The container's node is missing or closed to this user.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The container's node cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel speaks another VFIO than we do.
    #[error("the kernel's VFIO has API version {found}; version {VFIO_API_VERSION} is needed")]
    ApiVersion {
        /// What the kernel has.
        found: u32,
    },
    /// The kernel's VFIO offers no SPAPR IOMMU at all.
    #[error(
        "the host's VFIO has no SPAPR TCE support (neither VFIO_SPAPR_TCE_v2_IOMMU nor \
         VFIO_SPAPR_TCE_IOMMU): on a POWER host run `modprobe vfio_iommu_spapr_tce` as root; on \
         any other, devices cannot be passed through to a pseries guest"
    )]
    NoSpapr,
    /// The kernel does not offer the version asked for.
    #[error("the host's VFIO offers no {version} SPAPR TCE container (VFIO_CHECK_EXTENSION)")]
    NotOffered {
        /// The version.
        version: IommuVersion,
    },
    /// The group cannot be put into a container.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The kernel refused every version that was tried.
    #[error("the kernel refused a {version} SPAPR TCE container (VFIO_SET_IOMMU) for {group}")]
    SetIommu {
        /// The last version tried.
        version: IommuVersion,
        /// The group, for the message.
        group: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Another ioctl of the container failed.
    #[error("{call} failed for the VFIO container")]
    Call {
        /// Its name.
        call: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// A VFIO container with its one IOMMU group, ready for windows.
///
/// One group for each container: a v1 container takes no more, and EEH operations on a container
/// act on all its groups.
///
/// Closing order: the fields drop as they stand here, so the group leaves the container before
/// the container closes. An open device holds the container alive, so every device is closed
/// before that. KVM's TCE tables go before the windows they are bound to, which is for the
/// machine to see to.
#[derive(Debug)]
pub struct Container {
    group: Group,
    fd: OwnedFd,
    info: IommuInfo,
    /// Whether a v1 container is enabled, that is, has its window accounted for.
    pub(super) enabled: Mutex<bool>,
    /// The limit on locked memory that is enough for the guest, in bytes; 0 until it is known.
    enough: AtomicU64,
    /// The one window of a v2 container whose guest has its windows inside it.
    pub(super) shared_window: Mutex<Option<SharedWindow>>,
}

impl Container {
    /// Makes a container, puts `group` into it and chooses the IOMMU version.
    ///
    /// Nothing is locked or mapped yet. A v2 container has no window at first: the default one is
    /// removed before it is made, for otherwise the kernel makes it beside the first one asked for.
    ///
    /// # Errors
    /// What the host lacks, or what the kernel refused; the group is closed then.
    pub fn attach(
        host: &HostPaths,
        group: Group,
        policy: IommuPolicy,
    ) -> Result<Self, ContainerError> {
        let fd = open(host)?;
        let versions = offered(fd.as_fd(), policy)?;
        // Bound after `fd`, so that on an error the group leaves the container first.
        let mut group = group;
        group.set_container(fd.as_fd())?;
        let version = set_iommu(fd.as_fd(), &group, &versions)?;
        let container = Self {
            info: query(fd.as_fd(), version, host.platform())?,
            group,
            fd,
            enabled: Mutex::new(false),
            enough: AtomicU64::new(0),
            shared_window: Mutex::new(None),
        };
        if version == IommuVersion::V2 {
            // One that is not made yet goes by start 0, wherever it would be (`def_window_pending` in
            // drivers/vfio/vfio_iommu_spapr_tce.c).
            container
                .remove(Ioba(0))
                .map_err(call("VFIO_IOMMU_SPAPR_TCE_REMOVE"))?;
        }
        Ok(container)
    }

    /// The IOMMU group in this container, whose file descriptor KVM wants.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What the container can do.
    pub fn info(&self) -> &IommuInfo {
        &self.info
    }

    /// The container's version.
    pub fn version(&self) -> IommuVersion {
        self.info.version
    }

    /// Has refusals for want of locked memory name `bytes` as the limit to set: what is enough for
    /// all that the guest can come to lock, in whatever containers.
    pub fn advise_limit(&self, bytes: u64) {
        self.enough.store(bytes, Ordering::Relaxed);
    }

    /// Whether `needed` more bytes may be locked.
    ///
    /// # Errors
    /// [`MemoryLimitError`], with the limit to set.
    pub fn check_limit(&self, needed: u64) -> Result<(), MemoryLimitError> {
        let enough = self.enough.load(Ordering::Relaxed);
        kernel::memory_limit()?.check(needed, enough)
    }

    /// Removes the v2 window that starts at `start`.
    pub(super) fn remove(&self, start: Ioba) -> Result<(), Errno> {
        kernel::container_remove_window(
            self.as_fd(),
            &vfio_iommu_spapr_tce_remove {
                argsz: argument_size::<vfio_iommu_spapr_tce_remove>(),
                flags: 0,
                start_addr: start.0,
            },
        )
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn call(call: &'static str) -> impl FnOnce(Errno) -> ContainerError {
    move |source| ContainerError::Call { call, source }
}

fn open(host: &HostPaths) -> Result<OwnedFd, ContainerError> {
    let path = host.container_node();
    let fd = match kernel::open(&path) {
        Ok(fd) => fd,
        Err(source) => {
            return Err(match source.raw_os_error() {
                Some(libc::EACCES) => no_permission(&path).into(),
                Some(libc::ENOENT | libc::ENODEV) => PreflightError::NoContainerNode(path).into(),
                _ => ContainerError::Open { path, source },
            });
        }
    };
    let found =
        kernel::container_get_api_version(fd.as_fd()).map_err(call("VFIO_GET_API_VERSION"))?;
    if found != VFIO_API_VERSION {
        return Err(ContainerError::ApiVersion { found });
    }
    Ok(fd)
}

/// The versions of the policy that the kernel offers, best first. (It offers both whatever the
/// group; only VFIO_SET_IOMMU tells.)
fn offered(
    container: BorrowedFd<'_>,
    policy: IommuPolicy,
) -> Result<Vec<IommuVersion>, ContainerError> {
    let check = |version: IommuVersion| {
        kernel::container_check_extension(container, version.extension())
            .map_err(call("VFIO_CHECK_EXTENSION"))
    };
    let mut any = false;
    let mut versions = Vec::new();
    for version in [IommuVersion::V2, IommuVersion::V1] {
        if check(version)? {
            any = true;
            if policy.candidates().contains(&version) {
                versions.push(version);
            }
        }
    }
    match (versions.is_empty(), any, policy.candidates()) {
        (false, _, _) => Ok(versions),
        (true, true, &[version]) => Err(ContainerError::NotOffered { version }),
        _ => Err(ContainerError::NoSpapr),
    }
}

fn set_iommu(
    container: BorrowedFd<'_>,
    group: &Group,
    versions: &[IommuVersion],
) -> Result<IommuVersion, ContainerError> {
    let mut refusal = ContainerError::NoSpapr;
    for &version in versions {
        match kernel::container_set_iommu(container, version.extension()) {
            Ok(()) => return Ok(version),
            Err(source) => {
                guest_message!(
                    Level::Info,
                    "IOMMU group {}: no {version} container: {source}",
                    group.number()
                );
                refusal = ContainerError::SetIommu {
                    version,
                    group: format!("IOMMU group {}", group.number()),
                    source,
                };
            }
        }
    }
    Err(refusal)
}

fn query(
    container: BorrowedFd<'_>,
    version: IommuVersion,
    platform: Platform,
) -> Result<IommuInfo, ContainerError> {
    let mut info = vfio_iommu_spapr_tce_info {
        argsz: argument_size::<vfio_iommu_spapr_tce_info>(),
        ..Default::default()
    };
    kernel::container_get_info(container, &mut info)
        .map_err(call("VFIO_IOMMU_SPAPR_TCE_GET_INFO"))?;
    let dynamic = info.flags & VFIO_IOMMU_SPAPR_INFO_DDW != 0;
    Ok(IommuInfo {
        version,
        platform,
        window_start: Ioba(u64::from(info.dma32_window_start)),
        window_bytes: u64::from(info.dma32_window_size),
        page_sizes: if dynamic {
            info.ddw.pgsizes
        } else {
            PageShift::SIZE_4K.bytes()
        },
        dynamic_windows: if dynamic {
            count_of(info.ddw.max_dynamic_windows_supported)
        } else {
            0
        },
        levels: if dynamic { info.ddw.levels.max(1) } else { 1 },
    })
}

/// The kernel has a signed number there (`max_dynamic_windows_supported` of struct iommu_table_group), and −1 where
/// the platform makes no windows.
fn count_of(max_dynamic_windows_supported: u32) -> u32 {
    u32::try_from(max_dynamic_windows_supported.cast_signed()).unwrap_or(0)
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
