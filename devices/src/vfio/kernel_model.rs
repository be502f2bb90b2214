//! A model of the kernel's VFIO that stands in for `kernel.rs` in tests: it keeps the state that a
//! container, a group and a device have, records every call, and fails the one it is told to.
//!
//! One for each thread, as tests run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::errno::Error as Errno;

use super::memory_limit::{MemoryLimit, MemoryLimitError};

#[path = "kernel_model_devices.rs"]
mod devices;

pub(super) use devices::*;

/// A call, with what matters of its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    GetApiVersion,
    CheckExtension(u32),
    SetIommu(u32),
    Enable,
    Disable,
    GetInfo,
    CreateWindow {
        shift: u32,
        bytes: u64,
        levels: u32,
    },
    RemoveWindow(u64),
    Register(u64, u64),
    Unregister(u64, u64),
    Map {
        iova: u64,
        vaddr: u64,
        bytes: u64,
        flags: u32,
    },
    Unmap {
        iova: u64,
        bytes: u64,
    },
    /// VFIO_EEH_PE_OP, with the operation.
    Eeh(u32),
    /// VFIO_EEH_PE_INJECT_ERR: type, function, address and mask.
    InjectError(u32, u32, u64, u64),
    GroupGetStatus,
    GroupSetContainer,
    GroupUnsetContainer,
    GroupGetDevice(String),
    DeviceGetInfo,
    DeviceGetRegionInfo(u32),
    DeviceGetIrqInfo(u32),
    DeviceSetIrqs {
        index: u32,
        flags: u32,
        count: u32,
        fds: Vec<i32>,
    },
    DeviceReset,
    DeviceHotResetInfo,
    DeviceHotReset(Vec<i32>),
}

/// The kernel's state, and how it shall behave.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Every call so far.
    pub(super) log: Vec<Call>,
    /// The call (counted from 0) that fails, and its errno.
    pub(super) fail: Option<(usize, i32)>,
    /// The limit on locked memory in bytes.
    pub(super) memory_limit: Option<u64>,
    /// What opening any node fails with.
    pub(super) open_errno: Option<i32>,
    pub(super) api_version: u32,
    pub(super) extensions: Vec<u32>,
    /// Extensions that VFIO_SET_IOMMU refuses although they are offered.
    pub(super) refused_iommus: Vec<u32>,
    pub(super) viable: bool,
    pub(super) has_container: bool,
    pub(super) iommu: Option<u32>,
    pub(super) default_window_pending: bool,
    pub(super) enabled: bool,
    /// Fewer levels than this find no contiguous memory.
    pub(super) levels_needed: u32,
    /// Start and size of the default window.
    pub(super) default_window: (u32, u32),
    /// How many windows there are at most; −1 where there are no dynamic ones.
    pub(super) most_windows: i32,
    /// Levels that the IOMMU says it has.
    pub(super) levels: u32,
    /// Where the next window goes, if not where the kernel would put it.
    pub(super) next_start: Option<u64>,
    /// Windows by start, with their size in bytes.
    pub(super) windows: BTreeMap<u64, u64>,
    pub(super) registered: Vec<(u64, u64)>,
    /// Whether it holds on to memory that is unregistered, having lost count of its mappings.
    pub(super) miscounts: bool,
    /// What it holds on to.
    pub(super) held: Vec<(u64, u64)>,
    /// What REGISTER_MEMORY returns instead of registering.
    pub(super) register_returns: Option<u32>,
    /// The VF token that opening the device takes.
    pub(super) vf_token: Option<&'static str>,
    /// The device's file, whose bytes are its regions.
    pub(super) device: Option<File>,
    pub(super) device_flags: u32,
    /// Words of each region's description, by index.
    pub(super) regions: BTreeMap<u32, Vec<u32>>,
    /// Vectors of each kind of interrupt, and its flags.
    pub(super) irqs: BTreeMap<u32, (u32, u32)>,
    /// Eventfds of each kind of interrupt.
    pub(super) eventfds: BTreeMap<u32, Vec<i32>>,
    /// Vectors that the host has left.
    pub(super) vectors_left: u32,
    /// Resets that find the device held by someone else.
    pub(super) resets_refused: usize,
    /// Functions on the device's bus, by group, domain, bus, and device and function; `None` for a root bus.
    pub(super) bus: Option<Vec<(u32, u16, u8, u8)>>,
    /// State of the group's endpoint (VFIO_EEH_PE_STATE_NORMAL and so on); `None` where it has none.
    pub(super) endpoint: Option<u32>,
}

impl Kernel {
    fn new() -> Self {
        let eventfd = VFIO_IRQ_INFO_EVENTFD;
        Self {
            log: Vec::new(),
            fail: None,
            memory_limit: None,
            open_errno: None,
            api_version: 0,
            extensions: vec![VFIO_SPAPR_TCE_v2_IOMMU, VFIO_SPAPR_TCE_IOMMU],
            refused_iommus: Vec::new(),
            viable: true,
            has_container: false,
            iommu: None,
            default_window_pending: false,
            enabled: false,
            levels_needed: 1,
            default_window: (0, 0x8000_0000),
            most_windows: 2,
            levels: 5,
            next_start: None,
            windows: BTreeMap::new(),
            registered: Vec::new(),
            miscounts: false,
            held: Vec::new(),
            register_returns: None,
            vf_token: None,
            device: None,
            device_flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
            regions: BTreeMap::new(),
            irqs: BTreeMap::from([
                (
                    VFIO_PCI_INTX_IRQ_INDEX,
                    (1, eventfd | VFIO_IRQ_INFO_AUTOMASKED),
                ),
                (
                    VFIO_PCI_MSI_IRQ_INDEX,
                    (8, eventfd | VFIO_IRQ_INFO_NORESIZE),
                ),
                (
                    VFIO_PCI_MSIX_IRQ_INDEX,
                    (65, eventfd | VFIO_IRQ_INFO_NORESIZE),
                ),
                (VFIO_PCI_ERR_IRQ_INDEX, (1, eventfd)),
                (VFIO_PCI_REQ_IRQ_INDEX, (1, eventfd)),
            ]),
            eventfds: BTreeMap::new(),
            vectors_left: 1024,
            resets_refused: 0,
            bus: None,
            endpoint: None,
        }
    }

    /// Puts a fresh kernel in place for this thread, as `change` makes it.
    pub(super) fn install(change: impl FnOnce(&mut Self)) {
        let mut kernel = Self::new();
        change(&mut kernel);
        KERNEL.set(kernel);
    }

    pub(super) fn with<R>(use_it: impl FnOnce(&mut Self) -> R) -> R {
        KERNEL.with_borrow_mut(use_it)
    }

    /// Every call so far, and forgets them.
    pub(super) fn calls() -> Vec<Call> {
        Self::with(|kernel| std::mem::take(&mut kernel.log))
    }

    fn is_v2(&self) -> bool {
        self.iommu == Some(VFIO_SPAPR_TCE_v2_IOMMU)
    }

    /// Whether an access lies in a window.
    fn in_window(&self, iova: u64, bytes: u64) -> bool {
        self.windows
            .iter()
            .any(|(&start, &size)| iova >= start && iova + bytes <= start + size)
    }
}

thread_local! {
    static KERNEL: RefCell<Kernel> = RefCell::new(Kernel::new());
}

fn error<T>(errno: i32) -> Result<T, Errno> {
    Err(Errno::new(errno))
}

/// Records a call, fails it if it is the one to fail, and otherwise does `act`.
fn run<R>(call: Call, act: impl FnOnce(&mut Kernel) -> Result<R, Errno>) -> Result<R, Errno> {
    Kernel::with(|kernel| {
        let number = kernel.log.len();
        kernel.log.push(call);
        match kernel.fail {
            Some((failing, errno)) if failing == number => error(errno),
            _ => act(kernel),
        }
    })
}

pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    if let Some(errno) = Kernel::with(|kernel| kernel.open_errno) {
        return Err(io::Error::from_raw_os_error(errno));
    }
    File::open(path).map(OwnedFd::from)
}

pub(super) fn memory_limit() -> Result<MemoryLimit, MemoryLimitError> {
    Ok(MemoryLimit {
        limit_bytes: Kernel::with(|kernel| kernel.memory_limit),
        locked_bytes: 0,
        exempt: false,
    })
}

pub(super) fn container_get_api_version(_: BorrowedFd<'_>) -> Result<u32, Errno> {
    run(Call::GetApiVersion, |kernel| Ok(kernel.api_version))
}

pub(super) fn container_check_extension(_: BorrowedFd<'_>, number: u32) -> Result<bool, Errno> {
    run(Call::CheckExtension(number), |kernel| {
        Ok(kernel.extensions.contains(&number))
    })
}

pub(super) fn container_set_iommu(_: BorrowedFd<'_>, iommu: u32) -> Result<(), Errno> {
    run(Call::SetIommu(iommu), |kernel| {
        if !kernel.has_container || kernel.refused_iommus.contains(&iommu) {
            return error(libc::EPERM);
        }
        kernel.iommu = Some(iommu);
        kernel.default_window_pending = true;
        Ok(())
    })
}

pub(super) fn container_enable(_: BorrowedFd<'_>) -> Result<(), Errno> {
    run(Call::Enable, |kernel| {
        if kernel.enabled {
            return error(libc::EBUSY);
        }
        kernel.enabled = true;
        Ok(())
    })
}

pub(super) fn container_disable(_: BorrowedFd<'_>) -> Result<(), Errno> {
    run(Call::Disable, |kernel| {
        kernel.enabled = false;
        Ok(())
    })
}

pub(super) fn container_eeh_pe_op(
    _: BorrowedFd<'_>,
    operation: &vfio_eeh_pe_op,
) -> Result<u32, Errno> {
    assert_eq!((operation.argsz, operation.flags), (40, 0));
    let call = match operation.op {
        VFIO_EEH_PE_INJECT_ERR => {
            // SAFETY: this operation has an error in it.
            let error = unsafe { operation.__bindgen_anon_1.err };
            Call::InjectError(error.type_, error.func, error.addr, error.mask)
        }
        other => Call::Eeh(other),
    };
    let is_known = matches!(call, Call::InjectError(0 | 1, 0..20, _, _));
    run(call, |kernel| {
        let Some(state) = &mut kernel.endpoint else {
            return error(libc::ENODEV);
        };
        match operation.op {
            VFIO_EEH_PE_INJECT_ERR if !is_known => return error(libc::EINVAL),
            VFIO_EEH_PE_INJECT_ERR => *state = VFIO_EEH_PE_STATE_STOPPED,
            VFIO_EEH_PE_GET_STATE => return Ok(*state),
            VFIO_EEH_PE_UNFREEZE_IO if *state == VFIO_EEH_PE_STATE_STOPPED => {
                *state = VFIO_EEH_PE_STATE_STOPPED_DMA;
            }
            VFIO_EEH_PE_UNFREEZE_DMA | VFIO_EEH_PE_RESET_DEACTIVATE => {
                *state = VFIO_EEH_PE_STATE_NORMAL;
            }
            VFIO_EEH_PE_RESET_HOT | VFIO_EEH_PE_RESET_FUNDAMENTAL => {
                *state = VFIO_EEH_PE_STATE_RESET;
            }
            _ => {}
        }
        Ok(0)
    })
}

pub(super) fn container_get_info(
    _: BorrowedFd<'_>,
    info: &mut vfio_iommu_spapr_tce_info,
) -> Result<(), Errno> {
    assert_eq!(info.argsz, 32);
    run(Call::GetInfo, |kernel| {
        (info.dma32_window_start, info.dma32_window_size) = kernel.default_window;
        info.flags = 0;
        if kernel.is_v2() {
            info.flags = VFIO_IOMMU_SPAPR_INFO_DDW;
            info.ddw.pgsizes = 0x4021_1000;
            info.ddw.max_dynamic_windows_supported = kernel.most_windows.cast_unsigned();
            info.ddw.levels = kernel.levels;
        }
        Ok(())
    })
}

pub(super) fn container_create_window(
    _: BorrowedFd<'_>,
    window: &mut vfio_iommu_spapr_tce_create,
) -> Result<(), Errno> {
    assert_eq!((window.argsz, window.flags), (40, 0));
    let call = Call::CreateWindow {
        shift: window.page_shift,
        bytes: window.window_size,
        levels: window.levels,
    };
    run(call, |kernel| {
        let (default_start, default_bytes) = kernel.default_window;
        let default_start = u64::from(default_start);
        if kernel.default_window_pending {
            kernel
                .windows
                .insert(default_start, u64::from(default_bytes));
            kernel.default_window_pending = false;
        }
        if kernel.windows.len() == 2 {
            return error(libc::ENOSPC);
        }
        if window.levels < kernel.levels_needed {
            return error(libc::ENOMEM);
        }
        let usual = if kernel.windows.contains_key(&default_start) {
            1 << 59
        } else {
            default_start
        };
        window.start_addr = kernel.next_start.take().unwrap_or(usual);
        kernel.windows.insert(window.start_addr, window.window_size);
        Ok(())
    })
}

pub(super) fn container_remove_window(
    _: BorrowedFd<'_>,
    window: &vfio_iommu_spapr_tce_remove,
) -> Result<(), Errno> {
    assert_eq!((window.argsz, window.flags), (16, 0));
    run(Call::RemoveWindow(window.start_addr), |kernel| {
        if kernel.default_window_pending && window.start_addr == 0 {
            kernel.default_window_pending = false;
            return Ok(());
        }
        match kernel.windows.remove(&window.start_addr) {
            Some(_) => Ok(()),
            None => error(libc::EINVAL),
        }
    })
}

pub(super) fn container_register_memory(
    _: BorrowedFd<'_>,
    memory: &vfio_iommu_spapr_register_memory,
) -> Result<u32, Errno> {
    assert_eq!((memory.argsz, memory.flags), (24, 0));
    let range = (memory.vaddr, memory.size);
    run(Call::Register(range.0, range.1), |kernel| {
        if let Some(number) = kernel.register_returns {
            return Ok(number);
        }
        if kernel.registered.contains(&range) {
            return error(libc::EBUSY);
        }
        let overlaps = |held: &(u64, u64)| held.0 < range.0 + range.1 && range.0 < held.0 + held.1;
        if kernel.held.iter().any(overlaps) {
            return error(libc::EINVAL);
        }
        kernel.registered.push(range);
        kernel.enabled = true;
        Ok(0)
    })
}

pub(super) fn container_unregister_memory(
    _: BorrowedFd<'_>,
    memory: &vfio_iommu_spapr_register_memory,
) -> Result<(), Errno> {
    let range = (memory.vaddr, memory.size);
    run(Call::Unregister(range.0, range.1), |kernel| {
        let before = kernel.registered.len();
        kernel.registered.retain(|other| *other != range);
        if kernel.registered.len() == before {
            return error(libc::ENOENT);
        }
        if kernel.miscounts {
            kernel.held.push(range);
        }
        Ok(())
    })
}

/// # Safety
/// None is needed: no device reaches anything. It is unsafe as the real one is.
pub(super) unsafe fn container_map_dma(
    _: BorrowedFd<'_>,
    map: &vfio_iommu_type1_dma_map,
) -> Result<(), Errno> {
    assert_eq!(map.argsz, 32);
    let call = Call::Map {
        iova: map.iova,
        vaddr: map.vaddr,
        bytes: map.size,
        flags: map.flags,
    };
    run(call, |kernel| {
        if !kernel.in_window(map.iova, map.size) {
            return error(libc::ENXIO);
        }
        Ok(())
    })
}

pub(super) fn container_unmap_dma(
    _: BorrowedFd<'_>,
    unmap: &mut vfio_iommu_type1_dma_unmap,
) -> Result<(), Errno> {
    assert_eq!((unmap.argsz, unmap.flags), (24, 0));
    let call = Call::Unmap {
        iova: unmap.iova,
        bytes: unmap.size,
    };
    run(call, |kernel| {
        if kernel.iommu == Some(VFIO_SPAPR_TCE_v2_IOMMU) && !kernel.enabled {
            return error(libc::EPERM);
        }
        if !kernel.in_window(unmap.iova, unmap.size) {
            return error(libc::ENXIO);
        }
        Ok(())
    })
}
