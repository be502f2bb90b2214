//! A host that gives out its places for windows in order, as a POWER host's kernel does.

use std::sync::Mutex;

use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Engine, HostBridge};
use spapr_hypercalls::policy::Policy;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::testing::{ContainerVersion, FakeHost, FakeMemory, FakeTable};
use spapr_hypercalls::world::{BindRefusal, Geometry, GuestRange, HostError, HostIommu, HostRange};

use super::{DmaWindows, WindowHost, WindowLimits};
use crate::vfio::{IommuInfo, IommuVersion, MemoryLimitError};

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
        *self.taken.lock().unwrap()
    }
}

impl HostIommu for PlacedHost {
    type KernelTable = FakeTable;

    fn create_window(&self, geometry: Geometry) -> Result<(), HostError> {
        let mut taken = self.taken.lock().unwrap();
        let free = taken.iter().position(Option::is_none);
        let free = free.ok_or(HostError::Refused(libc::ENOSPC))?;
        let found = self.starts[free];
        if found != geometry.bus_offset {
            *self.misplaced.lock().unwrap() = Some(found);
            return Err(HostError::Refused(libc::EINVAL));
        }
        self.inner.create_window(geometry)?;
        taken[free] = Some(found);
        Ok(())
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        self.inner.remove_window(bus_offset)?;
        let mut taken = self.taken.lock().unwrap();
        for place in &mut *taken {
            place.take_if(|start| *start == bus_offset);
        }
        Ok(())
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
        self.asked
            .lock()
            .unwrap()
            .push((memory_bytes, kernel_table));
        let limit = *self.limit_bytes.lock().unwrap();
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
        self.misplaced.lock().unwrap().take()
    }
}

/// A machine of one bridge with dynamic windows.
pub(crate) struct FakeMachine {
    pub(crate) engine: Engine<FakeMemory, PlacedHost>,
    pub(crate) windows: DmaWindows,
}

impl FakeMachine {
    /// A container of `places` windows, the second at `second`, with windows of at most `bytes`.
    pub(crate) fn new(places: u32, first: Ioba, second: Ioba, bytes: u64) -> Self {
        let ram = GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: RAM_BYTES,
        };
        let memory = FakeMemory::new(vec![ram], GuestPhysicalAddress(0x1000), 1);
        let host = PlacedHost::new([first, second]);
        let bridge = HostBridge {
            number: 0,
            host,
            default_window: DEFAULT_WINDOW,
        };
        let engine = Engine::new(memory, &[ram], Policy::default(), vec![bridge]).unwrap();
        let info = IommuInfo {
            version: IommuVersion::V2,
            window_start: Ioba(0),
            window_bytes: 2 << 30,
            page_sizes: 0x1_1000,
            dynamic_windows: places,
            levels: 5,
        };
        let limits = WindowLimits::new(&info, PageShift::SIZE_64K, bytes);
        Self {
            engine,
            windows: DmaWindows::new(vec![limits], DEFAULT_WINDOW, RAM_BYTES, true),
        }
    }

    /// As a POWER host is, with windows of up to the size of memory.
    pub(crate) fn usual() -> Self {
        Self::new(2, Ioba(0), Ioba(1 << 59), RAM_BYTES)
    }

    pub(crate) fn host(&self) -> &PlacedHost {
        self.engine.host(0).unwrap()
    }

    /// Where the guest's windows are, by LIOBN's last digit.
    pub(crate) fn guest_windows(&self) -> [Option<Geometry>; 2] {
        let snapshot = self.engine.snapshot();
        [0, 1].map(|place| snapshot.windows[place].geometry)
    }
}
