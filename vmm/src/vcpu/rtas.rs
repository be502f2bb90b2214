//! RTAS calls: what the services of `spapr_devices` need of the machine.

use spapr_devices::dma_windows::{
    Addressing, Available, DmaWindowError, DynamicWindows, NewWindow,
};
use spapr_devices::pci::HostBridge;
use spapr_devices::rtas::{
    self, CpuState, ErrorInjection, Outcome, Platform, PowerEvents, StartCpuError, TimeOfDayClock,
};
use spapr_devices::vty::SinkStatus;
use spapr_hypercalls::abi::Arguments;
use spapr_hypercalls::address::{GuestPhysicalAddress, Liobn, PageShift};
use vm_memory::{Be32, Bytes, GuestAddress};

use super::hypercalls::Served;
use crate::lifecycle::End;
use crate::partition::Partition;
use crate::partition::processors::{StartAddress, StartError};

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

    fn error_injection(&self) -> &ErrorInjection {
        &self.rtas.error_injection
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

/// A window gets its table in the kernel, and then the group behind that. In between, the kernel takes entries
/// for it from whichever processor knows or guesses its LIOBN, says that it has them, and tells no hardware: so
/// no other processor may be in the guest.
impl DynamicWindows for Partition {
    fn available(&self, bridge: u8) -> Option<Available> {
        self.dma_windows.of(&self.engine).available(bridge)
    }

    fn create(&self, bridge: u8, page: PageShift, bytes: u64) -> Result<NewWindow, DmaWindowError> {
        self.alone(|| {
            self.dma_windows
                .of(&self.engine)
                .create(bridge, page, bytes)
        })
        .unwrap_or(Err(DmaWindowError::RunIsOver))
    }

    // The default window may come back.
    fn remove(&self, liobn: Liobn) -> Result<(), DmaWindowError> {
        self.alone(|| self.dma_windows.of(&self.engine).remove(liobn))
            .unwrap_or(Err(DmaWindowError::RunIsOver))
    }

    fn reset(&self, bridge: u8, addressing: Addressing) -> Result<(), DmaWindowError> {
        self.alone(|| {
            let windows = self.dma_windows.of(&self.engine);
            windows.reset(bridge, addressing)
        })
        .unwrap_or(Err(DmaWindowError::RunIsOver))
    }
}
