//! A host: a VFIO container of version 1 or 2, and KVM's tables and its H_PUT_TCE and H_GET_TCE.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::abi::ReturnCode;
use crate::address::{HostVirtualAddress, Ioba, Liobn, PageShift};
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use crate::tce::{Permission, Tce};
use crate::world::{
    BindRefusal, Geometry, GuestMemory, HostError, HostIommu, HostRange, KernelTable,
};

const EBUSY: HostError = HostError::Refused(16);
const EINVAL: HostError = HostError::Refused(22);
const ENXIO: HostError = HostError::Refused(6);

/// Version of a container (VFIO_SPAPR_TCE_IOMMU, VFIO_SPAPR_TCE_v2_IOMMU).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerVersion {
    /// Locks by itself; the kernel binds no LIOBN to it.
    V1,
    /// Memory is registered first.
    V2,
}

/// What a live entry of the hardware points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Host memory.
    pub host: HostVirtualAddress,
    /// What the device may do.
    pub permission: Permission,
}

/// A call of the host that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How many calls succeed before it.
    pub after: u64,
    /// What it says.
    pub error: HostError,
    /// Whether a map or unmap has cleared half of its range by then, as the kernel's undoing of a
    /// part-done map does (`tce_iommu_build` in drivers/vfio/vfio_iommu_spapr_tce.c).
    pub leaves_traces: bool,
}

#[derive(Debug)]
struct HostWindow {
    geometry: Geometry,
    entries: Vec<Option<Mapping>>,
}

#[derive(Debug, Default)]
struct State {
    windows: Vec<HostWindow>,
    registered: Vec<HostRange>,
    settled: Vec<HostRange>,
    tables: Vec<(Liobn, Geometry, Weak<[AtomicU64]>)>,
    faults: Vec<(u64, Fault)>,
    calls: u64,
    failures: u64,
    unmap_failures: u64,
    violations: Vec<String>,
    miscounts: bool,
    /// Bus address of the next window that may be anywhere.
    next_place: u64,
}

/// The host's side of a bridge.
#[derive(Debug)]
pub struct FakeHost {
    version: ContainerVersion,
    state: Mutex<State>,
}

/// A kernel table.
#[derive(Debug)]
pub struct FakeTable(Arc<[AtomicU64]>);

impl KernelTable for FakeTable {
    fn entries(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl State {
    fn violation(&mut self, what: &str) {
        self.violations.push(what.to_owned());
    }

    /// Counts a call, and fails it if a fault is due.
    fn call(&mut self) -> Result<(), Fault> {
        let number = self.calls;
        self.calls += 1;
        let Some(at) = self.faults.iter().position(|(at, _)| *at == number) else {
            return Ok(());
        };
        self.failures += 1;
        Err(self.faults.swap_remove(at).1)
    }

    fn entries(&mut self, ioba: Ioba, bytes: u64) -> Option<&mut [Option<Mapping>]> {
        self.windows.iter_mut().find_map(|window| {
            let count = bytes >> window.geometry.page_shift.get();
            let range = window.geometry.entries_at(ioba, count)?;
            window.entries.get_mut(range)
        })
    }

    fn is_registered(&self, host: HostRange) -> bool {
        self.registered.iter().any(|range| contains(*range, host))
    }
}

fn contains(range: HostRange, part: HostRange) -> bool {
    part.start >= range.start && part.start.0 + part.bytes <= range.start.0 + range.bytes
}

impl FakeHost {
    /// A host on which nothing is made.
    pub fn new(version: ContainerVersion) -> Self {
        let faults = Vec::with_capacity(16);
        Self {
            version,
            state: Mutex::new(State {
                faults,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes a call to come fail.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        let at = state.calls + fault.after;
        state.faults.push((at, fault));
    }

    /// From now on, a window that may be anywhere is put there.
    pub fn put_windows_at(&self, place: Ioba) {
        self.state().next_place = place.0;
    }

    /// From now on, memory that is unregistered stays with the host.
    pub fn miscount(&self) {
        self.state().miscounts = true;
    }

    /// Forgets faults that have not struck yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Calls that failed by injection, and how many of them were to unmap.
    pub fn failures(&self) -> (u64, u64) {
        let state = self.state();
        (state.failures, state.unmap_failures)
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What the engine did that it must never do.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// The hardware's entries of the window at `bus_offset`; `None` when there is no such window.
    pub fn hardware(&self, bus_offset: Ioba) -> Option<Vec<Option<Mapping>>> {
        let state = self.state();
        let window = state
            .windows
            .iter()
            .find(|window| window.geometry.bus_offset == bus_offset);
        window.map(|window| window.entries.clone())
    }

    /// Memory registered now.
    pub fn registered(&self) -> Vec<HostRange> {
        self.state().registered.clone()
    }

    /// Memory that was to be moved to where it may stay.
    pub fn settled(&self) -> Vec<HostRange> {
        self.state().settled.clone()
    }

    /// H_PUT_TCE as the kernel handles it; `None` when the call leaves the kernel.
    pub fn kernel_put<M: GuestMemory>(
        &self,
        liobn: u64,
        ioba: Ioba,
        tce: Tce,
        memory: &M,
    ) -> Option<ReturnCode> {
        let (geometry, table) = self.kernel_table(liobn)?;
        let Some(range) = geometry.entries_at(ioba, 1) else {
            return Some(ReturnCode::PARAMETER);
        };
        let mut state = self.state();
        let page = geometry.page_shift;
        let mapping = if tce.permission().is_none() {
            None
        } else {
            let host = memory
                .host_range(tce.address())
                .filter(|_| tce.is_page_aligned(page))?;
            if !state.is_registered(HostRange {
                start: host.start,
                bytes: page.bytes(),
            }) {
                return None;
            }
            Some(Mapping {
                host: host.start,
                permission: tce.permission(),
            })
        };
        match state.entries(ioba, page.bytes()) {
            Some(entries) => entries.fill(mapping),
            None => state.violation("a kernel table is in use without a host window"),
        }
        table.get(range.start)?.store(tce.0, Ordering::Relaxed);
        Some(ReturnCode::SUCCESS)
    }

    /// H_PUT_TCE_INDIRECT of `values`, or H_STUFF_TCE when they are all the same, as the kernel
    /// handles a call in which nothing is wrong; false when there is no table of that name, or
    /// something is wrong, or memory is not registered: a call that leaves the kernel.
    pub fn kernel_bulk<M: GuestMemory>(
        &self,
        liobn: u64,
        ioba: Ioba,
        values: &[u64],
        memory: &M,
    ) -> bool {
        let Some((geometry, table)) = self.kernel_table(liobn) else {
            return false;
        };
        let Some(range) = geometry.entries_at(ioba, values.len() as u64) else {
            return false;
        };
        let page = geometry.page_shift;
        let mut state = self.state();
        let mut mappings = Vec::with_capacity(values.len());
        for &value in values {
            let tce = Tce(value);
            if tce.permission().is_none() {
                mappings.push(None);
                continue;
            }
            let host = memory
                .host_range(tce.address())
                .filter(|_| tce.is_page_aligned(page));
            let registered = host.map(|host| HostRange {
                start: host.start,
                bytes: page.bytes(),
            });
            let Some(host) = registered.filter(|host| state.is_registered(*host)) else {
                return false;
            };
            mappings.push(Some(Mapping {
                host: host.start,
                permission: tce.permission(),
            }));
        }
        let bytes = page.bytes() * values.len() as u64;
        match state.entries(ioba, bytes) {
            Some(entries) => entries.copy_from_slice(&mappings),
            None => state.violation("a kernel table is in use without a host window"),
        }
        for (entry, &value) in table[range].iter().zip(values) {
            entry.store(value, Ordering::Relaxed);
        }
        true
    }

    /// H_GET_TCE as the kernel handles it; `None` when the call leaves the kernel.
    pub fn kernel_get(&self, liobn: u64, ioba: Ioba) -> Option<Result<Tce, ReturnCode>> {
        let (geometry, table) = self.kernel_table(liobn)?;
        let Some(range) = geometry.entries_at(ioba, 1) else {
            return Some(Err(ReturnCode::PARAMETER));
        };
        Some(Ok(Tce(table.get(range.start)?.load(Ordering::Relaxed))))
    }

    fn kernel_table(&self, liobn: u64) -> Option<(Geometry, Arc<[AtomicU64]>)> {
        let state = self.state();
        let named = |(name, geometry, table): &(Liobn, Geometry, Weak<[AtomicU64]>)| {
            (u64::from(name.0) == liobn)
                .then(|| Some((*geometry, table.upgrade()?)))
                .flatten()
        };
        state.tables.iter().find_map(named)
    }
}

impl HostIommu for FakeHost {
    type KernelTable = FakeTable;

    fn create_window(
        &self,
        page_shift: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<Ioba, HostError> {
        let mut state = self.state();
        state.call().map_err(|fault| fault.error)?;
        let geometry = Geometry {
            bus_offset: place.unwrap_or(Ioba(state.next_place)),
            page_shift,
            entries,
        };
        if state
            .windows
            .iter()
            .any(|window| window.geometry.bus_offset == geometry.bus_offset)
        {
            state.violation("a host window is made twice");
            return Err(EBUSY);
        }
        let entries = vec![None; usize::try_from(entries).map_err(|_| EINVAL)?];
        state.windows.push(HostWindow { geometry, entries });
        Ok(geometry.bus_offset)
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        let mut state = self.state();
        let alive = |(_, geometry, table): &(Liobn, Geometry, Weak<[AtomicU64]>)| {
            geometry.bus_offset == bus_offset && table.strong_count() > 0
        };
        if state.tables.iter().any(alive) {
            state.violation("a host window is removed while its kernel table lives");
        }
        state.call().map_err(|fault| fault.error)?;
        let here = |window: &HostWindow| window.geometry.bus_offset == bus_offset;
        let Some(at) = state.windows.iter().position(here) else {
            state.violation("a host window is removed that there is not");
            return Err(EINVAL);
        };
        state.windows.remove(at);
        Ok(())
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        (self.version == ContainerVersion::V1).then_some(BindRefusal::ContainerV1)
    }

    fn bind_kernel_table(
        &self,
        liobn: Liobn,
        geometry: Geometry,
    ) -> Result<FakeTable, BindRefusal> {
        let mut state = self.state();
        if self.version == ContainerVersion::V1 {
            return Err(BindRefusal::ContainerV1);
        }
        state.call().map_err(|fault| match fault.error {
            HostError::OutOfResources(errno) => BindRefusal::TableRefused(errno),
            HostError::Refused(errno) => BindRefusal::SetSpaprTceRefused(errno),
        })?;
        if !state
            .windows
            .iter()
            .any(|window| window.geometry == geometry)
        {
            state.violation("a kernel table is bound before the host window is made");
            return Err(BindRefusal::SetSpaprTceRefused(22));
        }
        let table: Arc<[AtomicU64]> = (0..geometry.entries).map(|_| AtomicU64::new(0)).collect();
        state
            .tables
            .retain(|(_, _, table)| table.strong_count() > 0);
        state.tables.push((liobn, geometry, Arc::downgrade(&table)));
        Ok(FakeTable(table))
    }

    fn registers_memory(&self) -> bool {
        self.version == ContainerVersion::V2
    }

    fn register_memory(&self, range: HostRange) -> Result<(), HostError> {
        let mut state = self.state();
        state.call().map_err(|fault| fault.error)?;
        let end = range.start.0 + range.bytes;
        let overlaps =
            |other: &HostRange| other.start.0 < end && range.start.0 < other.start.0 + other.bytes;
        if self.version == ContainerVersion::V1 || state.registered.iter().any(overlaps) {
            state.violation("memory is registered twice, or with a container of version 1");
            return Err(EBUSY);
        }
        state.registered.push(range);
        Ok(())
    }

    fn unregister_memory(&self, range: HostRange) -> Result<(), HostError> {
        let mut state = self.state();
        state.call().map_err(|fault| fault.error)?;
        let Some(at) = state.registered.iter().position(|known| *known == range) else {
            state.violation("memory is unregistered that is not registered");
            return Err(EINVAL);
        };
        let mut live = state
            .windows
            .iter()
            .flat_map(|window| window.entries.iter().flatten());
        if live.any(|mapping| {
            contains(
                range,
                HostRange {
                    start: mapping.host,
                    bytes: 1,
                },
            )
        }) {
            // The kernel says that it succeeded, and never lets go of the memory.
            state.violation("memory is unregistered that is mapped");
        }
        state.registered.swap_remove(at);
        Ok(())
    }

    fn holds_on_to(&self, _: HostRange) -> bool {
        self.state().miscounts
    }

    fn settle(&self, range: HostRange) {
        let mut state = self.state();
        let overlaps = |held: &HostRange| {
            held.start.0 < range.start.0 + range.bytes && range.start.0 < held.start.0 + held.bytes
        };
        if state.registered.iter().any(overlaps) {
            state.violation("registered memory is registered again");
        }
        state.settled.push(range);
    }

    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError> {
        let mut state = self.state();
        let fault = state.call().err();
        if host.bytes == 0 || permission.is_none() {
            state.violation("nothing is mapped");
        }
        if self.version == ContainerVersion::V2 && !state.is_registered(host) {
            state.violation("memory is mapped that is not in one registered region");
            return Err(EINVAL);
        }
        let Some(entries) = state.entries(ioba, host.bytes) else {
            state.violation("a map lies in no window");
            return Err(ENXIO);
        };
        let Some(page) = host.bytes.checked_div(entries.len() as u64) else {
            return Err(EINVAL);
        };
        if let Some(fault) = fault {
            let half = entries.len().div_ceil(2);
            if fault.leaves_traces {
                entries[..half].fill(None);
            }
            return Err(fault.error);
        }
        for (index, entry) in (0..).zip(entries) {
            let host = HostVirtualAddress(host.start.0 + index * page);
            *entry = Some(Mapping { host, permission });
        }
        Ok(())
    }

    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        let mut state = self.state();
        let fault = state.call().err();
        state.unmap_failures += u64::from(fault.is_some());
        let Some(entries) = state
            .entries(ioba, bytes)
            .filter(|entries| !entries.is_empty())
        else {
            state.violation("an unmap lies in no window, or is of nothing");
            return Err(ENXIO);
        };
        if let Some(fault) = fault {
            let half = entries.len().div_ceil(2);
            if fault.leaves_traces {
                entries[..half].fill(None);
            }
            return Err(fault.error);
        }
        entries.fill(None);
        Ok(())
    }
}
