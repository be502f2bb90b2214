//! The host's side of a PCI host bridge: its VFIO container, and KVM's tables bound to its group.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::Level;
use spapr_devices::dma_windows::WindowHost;
use spapr_devices::error_chain::chain;
use spapr_devices::vfio::{
    Container, IommuVersion, LIMITED_START, MadeWindow, MemoryLimitError, Platform, RegisterError,
    WindowError, host_error, host_page_bytes,
};
use spapr_devices::{guest_activity, guest_message};
use spapr_hypercalls::address::{HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::{BindRefusal, Geometry, HostError, HostIommu, HostRange};
use spapr_kvm::tce_table::TceTable;
use spapr_kvm::vfio_device::VfioKvmDevice;
use spapr_kvm::vm::Vm;
use vmm_sys_util::errno::Error as Errno;

/// How long to wait before locking memory is tried again. The guest's processor waits with it.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(10)];

/// A container and the VM whose LIOBNs are bound to its group.
#[derive(Debug)]
pub struct GroupIommu {
    container: Arc<Container>,
    vm: Arc<Vm>,
    kvm_device: Arc<VfioKvmDevice>,
    /// Whether KVM says it can bind a LIOBN to a group.
    can_bind: bool,
}

impl GroupIommu {
    pub(crate) fn new(
        container: Arc<Container>,
        vm: Arc<Vm>,
        kvm_device: Arc<VfioKvmDevice>,
        can_bind: bool,
    ) -> Self {
        Self {
            container,
            vm,
            kvm_device,
            can_bind,
        }
    }

    /// The container.
    pub fn container(&self) -> &Container {
        &self.container
    }

    fn group(&self) -> String {
        format!("IOMMU group {}", self.container.group().number())
    }

    /// Says that the kernel did not map or unmap.
    #[cold]
    fn refused(&self, what: &str, ioba: Ioba, bytes: u64, errno: Errno) -> HostError {
        guest_message!(
            Level::Error,
            "{}: the kernel did not {what} {bytes:#x} bytes at bus address {ioba} \
             (VFIO_IOMMU_{}_DMA): {errno}; the guest gets an error",
            self.group(),
            what.to_uppercase()
        );
        host_error(errno)
    }

    /// The limit on locked memory, when it is what stood in the way, else what the kernel said.
    #[cold]
    fn why_not_locked(&self, range: HostRange, error: &RegisterError) -> String {
        match self.container.check_limit(range.bytes) {
            Err(limit) => chain(&limit),
            Ok(()) => chain(error),
        }
    }

    /// Registers memory, again after a while if the host says that it is out of memory and no limit is why.
    /// To pin pages for long, the kernel moves them out of areas that it keeps for other uses, and a page that
    /// someone else holds at that moment cannot be moved.
    fn register_patiently(&self, range: HostRange) -> Result<(), RegisterError> {
        let mut pauses = PAUSES.iter();
        loop {
            let error = match self.container.register_memory(range) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = matches!(HostError::from(error), HostError::OutOfResources(_));
            let is_limited = self.container.check_limit(range.bytes).is_err();
            let Some(pause) = pauses.next().filter(|_| may_pass && !is_limited) else {
                return Err(error);
            };
            guest_activity!(
                Level::Debug,
                "{}: locking memory is tried again: {error}",
                self.group()
            );
            thread::sleep(*pause);
        }
    }

    /// Unmaps through a container that refused because nothing has been registered with it. KVM may have mapped
    /// memory of another's there.
    #[cold]
    fn unmap_first(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        self.container.enable_unmapping().map_err(|error| {
            guest_message!(
                Level::Error,
                "{}: entries cannot be cleared: {}",
                self.group(),
                chain(&error)
            );
            HostError::from(error)
        })?;
        let outcome = self.container.unmap(ioba, bytes);
        outcome.map_err(|errno| self.refused("unmap", ioba, bytes, errno))
    }

    fn try_bind(&self, liobn: Liobn, geometry: Geometry) -> Result<TceTable, BindRefusal> {
        if let Some(reason) = self.never_binds() {
            return Err(reason);
        }
        if self.container.has_shared_window() && geometry.bus_offset == LIMITED_START {
            return Err(BindRefusal::InsideAnother);
        }
        let table = TceTable::new(&self.vm, liobn, geometry).map_err(|error| {
            guest_activity!(Level::Debug, "{error}");
            BindRefusal::TableRefused(error.errno())
        })?;
        self.kvm_device
            .set_spapr_tce(&self.container.group().as_fd(), &table)
            .map_err(|error| {
                guest_activity!(Level::Debug, "{error}");
                BindRefusal::SetSpaprTceRefused(error.errno())
            })?;
        Ok(table)
    }
}

/// Seen with Linux 6.12 in containers of both versions: the kernel asks its platform for a dynamic window where the
/// default one would do.
const NO_WINDOWS_IN_LPAR: &str = "; in an LPAR whose platform makes no dynamic DMA windows, Linux makes none for VFIO \
    at all: no device there can do DMA for a guest (docs/lpar.md)";

/// What its kernel does when the platform failed to make or to remove a window, and says from then on.
const BLACKLISTED_IN_LPAR: &str = "; the LPAR's kernel makes no DMA window for this device any more until the LPAR \
    restarts (docs/lpar.md)";

/// What else there is to say of a refusal in an LPAR whose group has so many windows.
fn why_none_in_lpar(dynamic_windows: u32, error: &WindowError) -> &'static str {
    match (dynamic_windows, error) {
        (0, _) => NO_WINDOWS_IN_LPAR,
        (_, WindowError::Create { source, .. }) if source.errno() == libc::ENODEV => {
            BLACKLISTED_IN_LPAR
        }
        _ => "",
    }
}

impl HostIommu for GroupIommu {
    type KernelTable = TceTable;

    fn create_window(
        &self,
        page_shift: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<Ioba, HostError> {
        match self.container.create_window(page_shift, entries, place) {
            Ok(MadeWindow { start, levels }) => {
                guest_message!(
                    Level::Info,
                    "{}: made a DMA window of {entries} pages of {page_shift} at bus address \
                     {start}, {levels} table levels",
                    self.group()
                );
                Ok(start)
            }
            Err(error) => {
                let mut reason = chain(&error);
                let info = self.container.info();
                if info.platform == Platform::Lpar {
                    reason.push_str(why_none_in_lpar(info.dynamic_windows, &error));
                }
                let place =
                    place.map_or_else(String::new, |place| format!(" at bus address {place}"));
                guest_message!(
                    Level::Error,
                    "{}: no DMA window{place}: {reason}",
                    self.group()
                );
                Err(HostError::from(&error))
            }
        }
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        self.container.remove_window(bus_offset).map_err(|error| {
            guest_message!(
                Level::Error,
                "{}: the DMA window at bus address {bus_offset} stays: {}",
                self.group(),
                chain(&error)
            );
            HostError::from(&error)
        })
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        if self.container.version() == IommuVersion::V1 {
            Some(BindRefusal::ContainerV1)
        } else if !self.can_bind {
            Some(BindRefusal::NoCapability)
        } else {
            None
        }
    }

    fn bind_kernel_table(&self, liobn: Liobn, geometry: Geometry) -> Result<TceTable, BindRefusal> {
        let result = self.try_bind(liobn, geometry);
        match &result {
            Ok(_) => guest_message!(
                Level::Info,
                "LIOBN {liobn} is bound to {} in the kernel",
                self.group()
            ),
            Err(reason) => guest_message!(
                // A window that is mapped once needs no more.
                if *reason == BindRefusal::InsideAnother {
                    Level::Info
                } else {
                    Level::Warn
                },
                "TCE calls of LIOBN {liobn} ({}) are all served in user space: {reason}",
                self.group()
            ),
        }
        result
    }

    fn registers_memory(&self) -> bool {
        self.container.version() == IommuVersion::V2
    }

    fn register_memory(&self, range: HostRange) -> Result<(), HostError> {
        self.register_patiently(range).map_err(|error| {
            guest_message!(
                Level::Error,
                "{}: cannot lock {} bytes of guest memory for DMA: {}; the guest's driver gets an \
                 error",
                self.group(),
                range.bytes,
                self.why_not_locked(range, &error)
            );
            error.into()
        })
    }

    fn unregister_memory(&self, range: HostRange) -> Result<(), HostError> {
        self.container.unregister_memory(range).map_err(|errno| {
            guest_message!(
                Level::Error,
                "{}: {} bytes of memory stay locked: {errno}",
                self.group(),
                range.bytes
            );
            host_error(errno)
        })
    }

    fn holds_on_to(&self, range: HostRange) -> bool {
        self.container.holds_on_to(range)
    }

    fn settle(&self, range: HostRange) {
        let page_bytes = host_page_bytes();
        let start = range.start.0 & !(page_bytes - 1);
        let end = (range.start.0 + range.bytes).next_multiple_of(page_bytes);
        let pages = HostRange {
            start: HostVirtualAddress(start),
            bytes: end - start,
        };
        let registered = self.container.register_memory(pages);
        let unregister = |()| {
            let outcome = self.container.unregister_memory(pages);
            outcome.map_err(RegisterError::Refused)
        };
        if let Err(error) = registered.and_then(unregister) {
            guest_activity!(
                Level::Debug,
                "{}: {} bytes of guest memory stay where they may not be locked later on: {error}",
                self.group(),
                pages.bytes
            );
        }
    }

    #[inline]
    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError> {
        // SAFETY: the engine passes ranges of guest RAM alone, which lives as long as the machine
        // and to which no reference is ever made: devices are part of what may change it.
        unsafe { self.container.map(ioba, host, permission) }
            .map_err(|errno| self.refused("map", ioba, host.bytes, errno))
    }

    #[inline]
    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        match self.container.unmap(ioba, bytes) {
            Err(errno) if errno.errno() == libc::EPERM && self.registers_memory() => {
                self.unmap_first(ioba, bytes)
            }
            outcome => outcome.map_err(|errno| self.refused("unmap", ioba, bytes, errno)),
        }
    }
}

impl WindowHost for GroupIommu {
    fn check_limit(
        &self,
        page_shift: PageShift,
        entries: u64,
        memory_bytes: u64,
        kernel_table: bool,
    ) -> Result<(), MemoryLimitError> {
        let in_kernel = kernel_table && self.can_bind;
        let need = self
            .container
            .window_need(page_shift, entries, memory_bytes, in_kernel);
        self.container.check_limit(need.total_bytes())
    }

    fn share_window(&self, bytes: u64) -> Result<(), HostError> {
        self.container.share_window(bytes).map_err(host_error)
    }

    fn unshare_window(&self) {
        self.container.unshare_window();
    }
}
