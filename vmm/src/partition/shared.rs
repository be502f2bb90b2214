//! What hypercalls and RTAS calls of any processor act on.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use spapr_devices::dma::Translate;
use spapr_devices::dma_windows::DmaWindows;
use spapr_devices::pci::HostBridge;
use spapr_devices::rtas::PowerEvents;
use spapr_devices::vty::Vty;
use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba};
use spapr_hypercalls::engine::Engine;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::GuestRange;
use spapr_kvm::host::Capabilities;
use spapr_kvm::vm::Vm;

use super::bridge_iommu::BridgeIommu;
use super::interrupt_controller::InterruptController;
use super::modes::Modes;
use super::pause::Pause;
use super::process_table::ProcessTable;
use super::processors::Processors;
use super::rtas_state::RtasState;
use crate::console::OutputQueue;
use crate::dump::SavedRegisters;
use crate::lifecycle::Lifecycle;
use crate::memory::GuestRam;
use crate::speculation::Told;

/// The logical partition: what hypercalls and RTAS calls of any processor act on.
///
/// Nothing here is behind one lock: the engine locks one DMA window, a host bridge one function,
/// the vty its queue, each for the time of one call and none while another is held.
pub struct Partition {
    /// Which processors run.
    pub processors: Processors,
    /// Whether they may be in the guest.
    pub pause: Pause,
    /// Their registers when they were last paused.
    pub registers: SavedRegisters,
    /// Requests about the guest's power.
    pub power: PowerEvents,
    /// How the run ends.
    pub lifecycle: Arc<Lifecycle>,
    /// Modes that the guest set for all processors.
    pub modes: Modes,
    /// Where the guest keeps its process table.
    pub process_table: ProcessTable,
    /// The guest's terminal.
    pub vty: Arc<Vty<OutputQueue>>,
    /// The DMA windows.
    pub engine: Engine<GuestRam, BridgeIommu>,
    /// Which of them the guest may make itself.
    pub dma_windows: DmaWindows,
    /// The PCI host bridges.
    pub bridges: Vec<HostBridge>,
    /// Guest RAM.
    pub ram: GuestRam,
    /// What RTAS keeps beyond that: clock, identity, number of calls.
    pub rtas: RtasState,
    /// The interrupt controller. KVM takes it away when its descriptor closes.
    pub interrupts: Arc<InterruptController>,
    pub(crate) vm: Arc<Vm>,
    pub(crate) capabilities: Capabilities,
    /// The host's kernel moves memory before it locks it, and cannot move what it holds on to otherwise.
    pub(crate) settles: bool,
    /// What the guest is told of attacks by speculation.
    pub(crate) speculation: Told,
    pub(crate) first_entry: OnceLock<Instant>,
}

impl Translate for Partition {
    fn translate(&self, bridge: u8, ioba: Ioba, wanted: Permission) -> Option<GuestRange> {
        self.engine.translate(bridge, ioba, wanted)
    }
}

impl Partition {
    /// Notes that a processor is about to enter the guest.
    pub fn mark_first_entry(&self) {
        let _already_noted = self.first_entry.set(Instant::now());
    }

    /// Serves a read of guest memory that is no RAM.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        let address = GuestPhysicalAddress(address);
        match self.bridge_at(address) {
            Some(bridge) => bridge.mmio_read(address, data),
            None => data.fill(0xff),
        }
    }

    /// Serves a write to guest memory that is no RAM.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        let address = GuestPhysicalAddress(address);
        if let Some(bridge) = self.bridge_at(address) {
            bridge.mmio_write(address, data);
        }
    }

    /// Has the devices of this process leave guest memory alone, or go on.
    pub fn hold_devices(&self, held: bool) {
        self.bridges.iter().for_each(|bridge| bridge.hold(held));
    }

    /// Does `work` for a processor while no other one is in the guest; nothing once the run is over.
    pub fn alone<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        self.pause.alone(|| self.processors.kick_all(None), work)
    }

    /// To be called before the host's kernel is given guest memory to hold on to.
    pub fn settle(&self, address: u64, bytes: u64) {
        if self.settles && bytes != 0 {
            let address = GuestPhysicalAddress(address);
            self.alone(|| self.engine.settle(address, bytes));
        }
    }

    fn bridge_at(&self, address: GuestPhysicalAddress) -> Option<&HostBridge> {
        self.bridges.iter().find(|bridge| bridge.contains(address))
    }
}
