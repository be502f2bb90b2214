//! A host that gives out its places for windows in order, as a POWER host's kernel does; or as an LPAR's kernel does,
//! whose platform decides where windows are and blacklists a device of which one cannot be made.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Engine, HostBridge};
use spapr_hypercalls::policy::Policy;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::testing::{ContainerVersion, FakeHost, FakeMemory, FakeTable};
use spapr_hypercalls::world::{BindRefusal, Geometry, GuestRange, HostError, HostIommu, HostRange};

use super::{DmaWindows, WindowHost, WindowLimits};
use crate::vfio::{IommuInfo, IommuVersion, LIMITED_START, MemoryLimitError, Platform};

pub(crate) const RAM_BYTES: u64 = 64 << 20;

pub(crate) const DEFAULT_WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 0x400,
};

/// A container's two places, and what is asked of the limit on locked memory.
#[derive(Debug)]
pub(crate) struct PlacedHost {
    pub(crate) inner: FakeHost,
    platform: Platform,
    default_window: Geometry,
    starts: [Ioba; 2],
    /// How many windows it has at a time.
    most: usize,
    taken: Mutex<[Option<Ioba>; 2]>,
    /// The most bytes of a window at limited addresses, where windows are to be or are there.
    shared: Mutex<Option<u64>>,
    /// How often it was asked for a window.
    creations: AtomicU64,
    is_blacklisted: AtomicBool,
    leaks: AtomicU64,
    /// The most entries of a dynamic window, in an LPAR.
    pub(crate) most_entries: Mutex<u64>,
    /// Bytes that may be locked.
    pub(crate) limit_bytes: Mutex<u64>,
    /// Memory and kernel tables that were asked for.
    pub(crate) asked: Mutex<Vec<(u64, bool)>>,
}

impl PlacedHost {
    fn new(bridge: &FakeBridge) -> Self {
        Self {
            inner: FakeHost::new(ContainerVersion::V2),
            platform: bridge.platform,
            default_window: bridge.default_window,
            starts: bridge.starts,
            most: bridge.places.max(1) as usize,
            taken: Mutex::default(),
            shared: Mutex::default(),
            creations: AtomicU64::new(0),
            is_blacklisted: AtomicBool::new(false),
            leaks: AtomicU64::new(0),
            most_entries: Mutex::new(u64::MAX),
            limit_bytes: Mutex::new(u64::MAX),
            asked: Mutex::default(),
        }
    }

    /// Where there are windows.
    pub(crate) fn windows(&self) -> [Option<Ioba>; 2] {
        *self.taken.lock()
    }

    /// How often it was asked for a window so far.
    pub(crate) fn creations(&self) -> u64 {
        self.creations.load(Ordering::Relaxed)
    }

    /// Whether a creation failed for which an LPAR's kernel makes the device no window any more (`failed_ddw_pdn_list`
    /// in arch/powerpc/platforms/pseries/iommu.c).
    pub(crate) fn is_blacklisted(&self) -> bool {
        self.is_blacklisted.load(Ordering::Relaxed)
    }

    /// How often an LPAR's kernel refused in a way that loses some of its memory.
    pub(crate) fn leaks(&self) -> u64 {
        self.leaks.load(Ordering::Relaxed)
    }

    /// Whether the windows that there are lie inside one.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.lock().is_some() && self.windows() != [None, None]
    }

    /// The place and the start of a window to come.
    fn next_place(
        &self,
        taken: [Option<Ioba>; 2],
        page_shift: PageShift,
        entries: u64,
    ) -> Result<(usize, Ioba), HostError> {
        if let Some(most) = *self.shared.lock() {
            return Ok(match (taken, entries << page_shift.get()) {
                ([None, None], _) => (0, Ioba(0)),
                ([Some(_), None], bytes) if bytes <= most => (1, LIMITED_START),
                _ => return Err(HostError::Refused(libc::EINVAL)),
            });
        }
        let free = taken.iter().position(Option::is_none);
        let free = free.filter(|_| taken.iter().flatten().count() < self.most);
        match self.platform {
            Platform::BareMetal => {
                let free = free.ok_or(HostError::Refused(libc::ENOSPC))?;
                Ok((free, self.starts[free]))
            }
            Platform::Lpar => self.next_place_in_lpar(taken, free, page_shift, entries),
        }
    }

    /// An LPAR's kernel takes what could be its default window for that one, which it gives back alone; makes dynamic
    /// ones where the platform wants; has a property of one name for those; and blacklists the device when the
    /// platform or that property refuses (`spapr_tce_create_table`, `is_default_window_request`).
    fn next_place_in_lpar(
        &self,
        taken: [Option<Ioba>; 2],
        free: Option<usize>,
        page_shift: PageShift,
        entries: u64,
    ) -> Result<(usize, Ioba), HostError> {
        if self.is_blacklisted() {
            return Err(HostError::Refused(libc::ENODEV));
        }
        let blacklist = |errno| {
            self.is_blacklisted.store(true, Ordering::Relaxed);
            HostError::Refused(errno)
        };
        let leak = |errno| {
            self.leaks.fetch_add(1, Ordering::Relaxed);
            HostError::Refused(errno)
        };
        let free = free.ok_or_else(|| blacklist(libc::ENODEV))?;
        let default = self.default_window;
        let mut dynamic = taken.iter().flatten();
        let has_dynamic = dynamic.any(|start| *start != default.bus_offset);
        if free == 0 && has_dynamic {
            return Err(leak(libc::EPERM));
        }
        if free == 0 && page_shift == default.page_shift && entries <= default.entries {
            return Ok((0, default.bus_offset));
        }
        if entries > *self.most_entries.lock() {
            return Err(leak(libc::EINVAL));
        }
        if has_dynamic {
            return Err(blacklist(libc::EEXIST));
        }
        Ok((free, self.starts[0]))
    }
}

impl HostIommu for PlacedHost {
    type KernelTable = FakeTable;

    fn create_window(
        &self,
        page_shift: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<Ioba, HostError> {
        self.creations.fetch_add(1, Ordering::Relaxed);
        let mut taken = self.taken.lock();
        let (free, found) = self.next_place(*taken, page_shift, entries)?;
        if place.is_some_and(|place| place != found) {
            return Err(HostError::Refused(libc::EINVAL));
        }
        self.inner.create_window(page_shift, entries, Some(found))?;
        taken[free] = Some(found);
        Ok(found)
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        self.inner.remove_window(bus_offset)?;
        let mut taken = self.taken.lock();
        for place in &mut *taken {
            place.take_if(|start| *start == bus_offset);
        }
        if *taken == [None, None] {
            *self.shared.lock() = None;
        }
        Ok(())
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        self.inner.never_binds()
    }

    fn bind_kernel_table(
        &self,
        liobn: Liobn,
        geometry: Geometry,
    ) -> Result<FakeTable, BindRefusal> {
        if self.is_shared() && geometry.bus_offset != Ioba(0) {
            return Err(BindRefusal::InsideAnother);
        }
        self.inner.bind_kernel_table(liobn, geometry)
    }

    fn registers_memory(&self) -> bool {
        self.inner.registers_memory()
    }

    fn register_memory(&self, range: HostRange) -> Result<(), HostError> {
        self.inner.register_memory(range)
    }

    fn unregister_memory(&self, range: HostRange) -> Result<(), HostError> {
        self.inner.unregister_memory(range)
    }

    fn holds_on_to(&self, range: HostRange) -> bool {
        self.inner.holds_on_to(range)
    }

    fn settle(&self, range: HostRange) {
        self.inner.settle(range);
    }

    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError> {
        self.inner.map(ioba, host, permission)
    }

    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        self.inner.unmap(ioba, bytes)
    }
}

impl WindowHost for PlacedHost {
    fn check_limit(
        &self,
        _page_shift: PageShift,
        _entries: u64,
        memory_bytes: u64,
        kernel_table: bool,
    ) -> Result<(), MemoryLimitError> {
        self.asked.lock().push((memory_bytes, kernel_table));
        let limit = *self.limit_bytes.lock();
        if memory_bytes <= limit {
            return Ok(());
        }
        Err(MemoryLimitError::TooLow {
            needed: memory_bytes,
            available: limit,
            limit,
            locked: 0,
            enough: memory_bytes,
        })
    }

    fn share_window(&self, bytes: u64) -> Result<(), HostError> {
        assert_eq!(self.windows(), [None, None]);
        let before = self.shared.lock().replace(bytes);
        assert_eq!(before, None);
        Ok(())
    }

    fn unshare_window(&self) {
        if self.windows() == [None, None] {
            *self.shared.lock() = None;
        }
    }
}

/// A host bridge of a [`FakeMachine`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FakeBridge {
    pub(crate) number: u8,
    /// Whose windows its container has.
    pub(crate) platform: Platform,
    /// How many windows its container has at a time; with 0 it offers none.
    pub(crate) places: u32,
    /// Where the container puts its two windows; in an LPAR, those that are not the default one.
    pub(crate) starts: [Ioba; 2],
    /// The most bytes of a window.
    pub(crate) bytes: u64,
    /// What the guest has from the start.
    pub(crate) default_window: Geometry,
}

impl FakeBridge {
    /// As on a POWER host, with windows of up to the size of memory.
    pub(crate) fn usual(number: u8) -> Self {
        Self {
            number,
            platform: Platform::BareMetal,
            places: 2,
            starts: [Ioba(0), Ioba(1 << 59)],
            bytes: RAM_BYTES,
            default_window: DEFAULT_WINDOW,
        }
    }

    fn limits(self) -> Option<(u8, WindowLimits, Geometry)> {
        let info = IommuInfo {
            version: IommuVersion::V2,
            platform: self.platform,
            window_start: Ioba(0),
            window_bytes: 2 << 30,
            page_sizes: 0x1_1000,
            dynamic_windows: self.places,
            levels: 5,
        };
        let limits = WindowLimits::new(&info, PageShift::SIZE_64K, self.bytes)?;
        Some((self.number, limits, self.default_window))
    }
}

/// A machine of bridges with dynamic windows, of which most tests use one.
pub(crate) struct FakeMachine {
    pub(crate) engine: Engine<FakeMemory, PlacedHost>,
    pub(crate) windows: DmaWindows,
    /// The number of the bridge that tests use.
    pub(crate) bridge: u8,
}

impl FakeMachine {
    /// A machine with `bridges` in that order; tests use the first.
    pub(crate) fn new(bridges: &[FakeBridge]) -> Self {
        let ram = GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: RAM_BYTES,
        };
        let memory = FakeMemory::new(vec![ram], GuestPhysicalAddress(0x1000), 1);
        let of_engine = bridges.iter().map(|bridge| HostBridge {
            number: bridge.number,
            host: PlacedHost::new(bridge),
            default_window: bridge.default_window,
        });
        let engine = Engine::new(memory, &[ram], Policy::default(), of_engine.collect()).unwrap();
        engine.prepare().unwrap();
        let limits = bridges.iter().filter_map(|bridge| bridge.limits());
        Self {
            engine,
            windows: DmaWindows::new(limits, RAM_BYTES, true),
            bridge: bridges[0].number,
        }
    }

    /// As a POWER host is, with bridge 0 alone.
    pub(crate) fn usual() -> Self {
        Self::new(&[FakeBridge::usual(0)])
    }

    pub(crate) fn host(&self) -> &PlacedHost {
        self.engine.host(self.bridge).unwrap()
    }

    /// Where the guest's windows are, by LIOBN's last digit.
    pub(crate) fn guest_windows(&self) -> [Option<Geometry>; 2] {
        self.windows_of(self.bridge)
    }

    /// Where the guest's windows behind bridge `number` are.
    pub(crate) fn windows_of(&self, number: u8) -> [Option<Geometry>; 2] {
        let snapshot = self.engine.snapshot();
        [0, 1].map(|place| {
            let liobn = Liobn::of_pci_window(number, place);
            let mut windows = snapshot.windows.iter();
            windows.find(|window| window.liobn == liobn)?.geometry
        })
    }
}
