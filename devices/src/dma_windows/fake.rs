//! A host that gives out its places for windows in order, as a POWER host's kernel does.

use parking_lot::Mutex;

use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Engine, HostBridge};
use spapr_hypercalls::policy::Policy;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::testing::{ContainerVersion, FakeHost, FakeMemory, FakeTable};
use spapr_hypercalls::world::{BindRefusal, Geometry, GuestRange, HostError, HostIommu, HostRange};

use super::{DmaWindows, WindowHost, WindowLimits};
use crate::vfio::{IommuInfo, IommuVersion, MemoryLimitError, Platform};

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
    starts: [Ioba; 2],
    taken: Mutex<[Option<Ioba>; 2]>,
    misplaced: Mutex<Option<Ioba>>,
    /// Bytes that may be locked.
    pub(crate) limit_bytes: Mutex<u64>,
    /// Memory and kernel tables that were asked for.
    pub(crate) asked: Mutex<Vec<(u64, bool)>>,
}

impl PlacedHost {
    fn new(starts: [Ioba; 2]) -> Self {
        Self {
            inner: FakeHost::new(ContainerVersion::V2),
            starts,
            taken: Mutex::default(),
            misplaced: Mutex::default(),
            limit_bytes: Mutex::new(u64::MAX),
            asked: Mutex::default(),
        }
    }

    /// Where there are windows.
    pub(crate) fn windows(&self) -> [Option<Ioba>; 2] {
        *self.taken.lock()
    }
}

impl HostIommu for PlacedHost {
    type KernelTable = FakeTable;

    fn create_window(&self, geometry: Geometry) -> Result<(), HostError> {
        let mut taken = self.taken.lock();
        let free = taken.iter().position(Option::is_none);
        let free = free.ok_or(HostError::Refused(libc::ENOSPC))?;
        let found = self.starts[free];
        if found != geometry.bus_offset {
            *self.misplaced.lock() = Some(found);
            return Err(HostError::Refused(libc::EINVAL));
        }
        self.inner.create_window(geometry)?;
        taken[free] = Some(found);
        Ok(())
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        self.inner.remove_window(bus_offset)?;
        let mut taken = self.taken.lock();
        for place in &mut *taken {
            place.take_if(|start| *start == bus_offset);
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
        _geometry: Geometry,
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

    fn take_misplaced(&self) -> Option<Ioba> {
        self.misplaced.lock().take()
    }
}

/// A host bridge of a [`FakeMachine`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FakeBridge {
    pub(crate) number: u8,
    /// How many windows its container has at a time; with 0 it offers none.
    pub(crate) places: u32,
    /// Where the container puts its two windows.
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
            places: 2,
            starts: [Ioba(0), Ioba(1 << 59)],
            bytes: RAM_BYTES,
            default_window: DEFAULT_WINDOW,
        }
    }

    fn limits(self) -> Option<(u8, WindowLimits, Geometry)> {
        let info = IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
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
            host: PlacedHost::new(bridge.starts),
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
