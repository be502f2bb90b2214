//! A small machine for tests of RTAS services.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use spapr_hypercalls::address::{Liobn, PageShift};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::dma_windows::fake::{FakeBridge, FakeMachine};
use crate::dma_windows::{Addressing, Available, DmaWindowError, DynamicWindows, NewWindow};
use crate::pci::HostBridge;
#[cfg(test)]
use crate::pci::fake::FakeFunction;
use crate::pci::fake::{FakeEndpoint, Fixture};

/// Guest memory has a hole of a page in the middle.
pub(super) const MEMORY: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x2000), (GuestAddress(0x3000), 0x1000)];

pub(super) struct FakePlatform {
    pub(super) fixture: Fixture,
    pub(super) endpoint: Option<Arc<FakeEndpoint>>,
    pub(super) console: RefCell<Vec<u8>>,
    pub(super) console_busy: Cell<bool>,
    pub(super) started: RefCell<Vec<(u32, u64, u64)>>,
    pub(super) dma: FakeMachine,
    clock: TimeOfDayClock,
    pub(super) power: PowerEvents,
    error_injection: ErrorInjection,
}

impl FakePlatform {
    pub(super) fn new() -> Self {
        Self::with_bridge(0)
    }

    /// A machine whose one host bridge has `number`.
    pub(super) fn with_bridge(number: u8) -> Self {
        Self::on(Fixture::behind(number, |function| function), number)
    }

    #[cfg(test)]
    /// A machine with that function.
    pub(super) fn with(change: impl FnOnce(FakeFunction) -> FakeFunction) -> Self {
        Self::on(Fixture::with(change), 0)
    }

    /// The machine with EEH.
    pub(super) fn with_eeh() -> Self {
        let (fixture, endpoint) = Fixture::with_endpoint();
        Self {
            endpoint: Some(endpoint),
            ..Self::on(fixture, 0)
        }
    }

    fn on(fixture: Fixture, number: u8) -> Self {
        Self {
            fixture,
            endpoint: None,
            console: RefCell::default(),
            console_busy: Cell::new(false),
            started: RefCell::default(),
            dma: FakeMachine::new(&[FakeBridge::usual(number)]),
            clock: TimeOfDayClock::new(),
            power: PowerEvents::new().unwrap(),
            error_injection: ErrorInjection::default(),
        }
    }
}

impl Platform for FakePlatform {
    fn start_cpu(&self, server: u32, entry: u64, r3: u64) -> Result<(), StartCpuError> {
        match self.cpu_state(server) {
            Some(CpuState::Stopped) => {
                self.started.borrow_mut().push((server, entry, r3));
                Ok(())
            }
            Some(_) => Err(StartCpuError::NotStopped),
            None => Err(StartCpuError::NoSuchCpu),
        }
    }

    fn cpu_state(&self, server: u32) -> Option<CpuState> {
        [CpuState::Running, CpuState::Stopped, CpuState::Stopping]
            .get(usize::try_from(server).unwrap())
            .copied()
    }

    fn host_bridges(&self) -> &[HostBridge] {
        std::slice::from_ref(&self.fixture.bridge)
    }

    fn dynamic_windows(&self) -> &dyn DynamicWindows {
        self
    }

    fn console(&self, bytes: &[u8]) -> SinkStatus {
        if self.console_busy.get() {
            return SinkStatus::Busy;
        }
        self.console.borrow_mut().extend(bytes);
        SinkStatus::Accepted
    }

    fn clock(&self) -> &TimeOfDayClock {
        &self.clock
    }

    fn power_events(&self) -> &PowerEvents {
        &self.power
    }

    fn error_injection(&self) -> &ErrorInjection {
        &self.error_injection
    }

    fn uuid(&self) -> [u8; 16] {
        *b"0123456789abcdef"
    }

    fn memory_bytes(&self) -> u64 {
        1 << 30
    }

    fn cpu_count(&self) -> (u32, u32) {
        (3, 4)
    }
}

impl DynamicWindows for FakePlatform {
    fn available(&self, bridge: u8) -> Option<Available> {
        self.dma.windows.of(&self.dma.engine).available(bridge)
    }

    fn create(&self, bridge: u8, page: PageShift, bytes: u64) -> Result<NewWindow, DmaWindowError> {
        let windows = self.dma.windows.of(&self.dma.engine);
        windows.create(bridge, page, bytes)
    }

    fn remove(&self, liobn: Liobn) -> Result<(), DmaWindowError> {
        self.dma.windows.of(&self.dma.engine).remove(liobn)
    }

    fn reset(&self, bridge: u8, addressing: Addressing) -> Result<(), DmaWindowError> {
        let windows = self.dma.windows.of(&self.dma.engine);
        windows.reset(bridge, addressing)
    }
}

pub(super) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&MEMORY).unwrap()
}
