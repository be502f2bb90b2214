//! A small machine for tests of RTAS services.

use std::cell::{Cell, RefCell};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::pci::HostBridge;
use crate::pci::fake::Fixture;

/// Guest memory has a hole of a page in the middle.
pub(super) const MEMORY: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x2000), (GuestAddress(0x3000), 0x1000)];

pub(super) struct FakePlatform {
    pub(super) fixture: Fixture,
    pub(super) console: RefCell<Vec<u8>>,
    pub(super) console_busy: Cell<bool>,
    pub(super) started: RefCell<Vec<(u32, u64, u64)>>,
    clock: TimeOfDayClock,
}

impl FakePlatform {
    pub(super) fn new() -> Self {
        Self {
            fixture: Fixture::new(),
            console: RefCell::default(),
            console_busy: Cell::new(false),
            started: RefCell::default(),
            clock: TimeOfDayClock::new(),
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

pub(super) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&MEMORY).unwrap()
}
