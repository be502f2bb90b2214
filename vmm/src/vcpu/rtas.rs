//! RTAS calls: what the services of `spapr_devices` need of the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spapr_devices::dma_windows::{Available, DmaWindowError, DynamicWindows, NewWindow};
use spapr_devices::pci::HostBridge;
use spapr_devices::rtas::{
    self, CpuState, Outcome, Platform, PowerEvents, SERVICES, StartCpuError, TimeOfDayClock,
};
use spapr_devices::vty::SinkStatus;
use spapr_hypercalls::abi::Arguments;
use spapr_hypercalls::address::{GuestPhysicalAddress, Liobn, PageShift};
use uuid::Uuid;
use vm_memory::{Be32, Bytes, GuestAddress};

use super::hypercalls::Served;
use crate::machine::lasting::Lasting;
use crate::machine::lifecycle::End;
use crate::machine::partition::Partition;
use crate::machine::processors::{StartAddress, StartError};

/// The token of the first service; there are fewer than [`TOKENS`].
const FIRST_TOKEN: u32 = 0x2000;
const TOKENS: usize = 64;

/// What RTAS keeps between calls.
pub struct RtasState {
    clock: Arc<TimeOfDayClock>,
    uuid: Uuid,
    calls: [AtomicU64; TOKENS],
}

impl RtasState {
    /// The state of a machine that starts.
    pub fn new(lasting: &Lasting) -> Self {
        Self {
            clock: Arc::clone(&lasting.clock),
            uuid: lasting.uuid,
            calls: [const { AtomicU64::new(0) }; TOKENS],
        }
    }

    /// How often each service was called, those that were.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        SERVICES
            .iter()
            .filter_map(|service| {
                let calls = self
                    .calls
                    .get(index(service.token)?)?
                    .load(Ordering::Relaxed);
                (calls != 0).then(|| (service.name.to_owned(), calls))
            })
            .collect()
    }

    fn count(&self, token: u32) {
        if let Some(calls) = index(token).and_then(|index| self.calls.get(index)) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn index(token: u32) -> Option<usize> {
    usize::try_from(token.checked_sub(FIRST_TOKEN)?).ok()
}

/// Serves KVMPPC_H_RTAS, whose first argument is the address of an argument block, and writes its return code to
/// `ret`.
// Not inlined: it takes 14 registers, which every other hypercall would have to save.
#[inline(never)]
pub(super) fn serve(partition: &Partition, args: &Arguments, ret: &mut u64) -> Served {
    let block = GuestPhysicalAddress(args[0]);
    // Read again by the service; a guest that changes it meanwhile spoils its own statistics.
    if let Ok(token) = partition.ram.mmap().read_obj::<Be32>(GuestAddress(block.0)) {
        partition.rtas.count(token.to_native());
    }
    let (code, outcome) = rtas::handle(partition.ram.mmap(), partition, block);
    *ret = code.to_register();
    match outcome {
        Outcome::Done => Served::Resume,
        Outcome::StopSelf => Served::StopSelf,
        Outcome::PowerOff => Served::End(End::PowerOff),
        Outcome::Reboot => Served::End(End::Reboot),
        Outcome::OsTerm(message) => Served::End(End::OsTerm(message.map(String::from))),
    }
}

impl Platform for Partition {
    fn start_cpu(&self, server: u32, entry: u64, r3: u64) -> Result<(), StartCpuError> {
        self.processors
            .start(server, StartAddress { entry, r3 })
            .map_err(|error| match error {
                StartError::NoSuchProcessor(_) => StartCpuError::NoSuchCpu,
                StartError::AlreadyRunning(_) => StartCpuError::NotStopped,
            })
    }

    fn cpu_state(&self, server: u32) -> Option<CpuState> {
        let stopped = self.processors.is_stopped(server)?;
        Some(if stopped {
            CpuState::Stopped
        } else {
            CpuState::Running
        })
    }

    fn host_bridges(&self) -> &[HostBridge] {
        &self.bridges
    }

    fn dynamic_windows(&self) -> &dyn DynamicWindows {
        self
    }

    fn console(&self, bytes: &[u8]) -> SinkStatus {
        self.vty.write(bytes)
    }

    fn clock(&self) -> &TimeOfDayClock {
        &self.rtas.clock
    }

    fn power_events(&self) -> &PowerEvents {
        &self.power
    }

    fn uuid(&self) -> [u8; 16] {
        *self.rtas.uuid.as_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.ram.bytes()
    }

    fn cpu_count(&self) -> (u32, u32) {
        (self.processors.count(), self.processors.count())
    }
}

impl DynamicWindows for Partition {
    fn available(&self, bridge: u8) -> Option<Available> {
        self.dma_windows.of(&self.engine).available(bridge)
    }

    fn create(&self, bridge: u8, page: PageShift, bytes: u64) -> Result<NewWindow, DmaWindowError> {
        self.dma_windows
            .of(&self.engine)
            .create(bridge, page, bytes)
    }

    fn remove(&self, liobn: Liobn) -> Result<(), DmaWindowError> {
        self.dma_windows.of(&self.engine).remove(liobn)
    }

    fn reset(&self, bridge: u8) -> Result<(), DmaWindowError> {
        self.dma_windows.of(&self.engine).reset(bridge)
    }
}
