//! A machine while its guest runs, and the way down.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use log::Level;
use spapr_devices::dma::Translate;
use spapr_devices::guest_message;
use spapr_devices::interrupts::{InterruptLines, Lisn, LisnBlock};
use spapr_devices::rtas::PowerEvents;
use spapr_kvm::time_base;
use vmm_sys_util::eventfd::EventFd;

use super::build::Machine;
use super::error::MachineError;
use super::freeze_watch::{self, Timer};
use super::kept::Kept;
use super::populator::{Populator, Wake};
use super::report;
use crate::console::Terminal;
use crate::control::Alarm;
use crate::dump::{SavedRegisters, Snapshot};
use crate::lifecycle::{End, Lifecycle};
use crate::partition::Partition;
use crate::partition::counters::Counters;
use crate::partition::lasting::Lasting;
use crate::partition::modes::Modes;
use crate::partition::pause::Pause;
use crate::partition::process_table::ProcessTable;
use crate::partition::processor_threads::ProcessorThreads;
use crate::partition::processors::{Processors, StartAddress};
use crate::partition::rtas_state::RtasState;
use crate::stats::Statistics;
use crate::vcpu::thread::Processor;
use spapr_devices::error_chain::chain;

/// A machine whose processors have threads.
pub struct RunningMachine {
    /// It works on the partition, so it ends first.
    populator: Option<Populator>,
    pub(super) partition: Arc<Partition>,
    threads: Arc<ProcessorThreads>,
    /// How many of them have work.
    working: u32,
    lifecycle: Arc<Lifecycle>,
    bulk_calls_due: Option<OwnedFd>,
    notices: Vec<Alarm>,
    freeze_watch: Option<Timer>,
    /// After the partition, which uses it.
    kept: Kept,
}

impl Machine {
    /// Starts the first processor, on the first of `threads`, which are as many as there are
    /// processors; or has it wait for [`MachineControls::resume`], when it is to start `paused`.
    ///
    /// # Errors
    /// When there are no threads or descriptors left; all is given back then.
    pub fn start(
        self,
        terminal: &Terminal,
        lasting: &Lasting,
        threads: &Arc<ProcessorThreads>,
        paused: bool,
    ) -> Result<RunningMachine, MachineError> {
        // What making the machine took and gave back goes back to the host.
        // SAFETY: the call takes no pointer, and frees nothing that is in use.
        unsafe { libc::malloc_trim(0) };
        let resource = |what| move |source| MachineError::Resource { what, source };
        let lifecycle = Lifecycle::new().map_err(resource("an eventfd"))?;
        let lifecycle = Arc::new(lifecycle);
        let vty = terminal.attach(&lifecycle);
        self.connect(Lisn::VIO, vty.interrupt())
            .map_err(resource("the terminal's interrupt"))?;
        let power = PowerEvents::new().map_err(resource("an eventfd"))?;
        self.connect(Lisn::EPOW, power.interrupt())
            .map_err(resource("the power events' interrupt"))?;
        let cpus = u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX);
        let partition = Arc::new(Partition {
            processors: Processors::new(cpus),
            pause: Pause::new(paused, time_base::now()),
            registers: SavedRegisters::new(cpus),
            power,
            lifecycle: Arc::clone(&lifecycle),
            modes: Modes::default(),
            process_table: ProcessTable::default(),
            vty,
            engine: self.engine,
            dma_windows: self.dma_windows,
            bridges: self.bridges,
            ram: self.ram,
            settles: self.settles,
            rtas: RtasState::new(lasting),
            speculation: self.speculation,
            capabilities: self.capabilities,
            interrupts: self.interrupts,
            vm: self.vm,
            first_entry: OnceLock::new(),
        });
        let translate: Weak<dyn Translate> = Arc::<Partition>::downgrade(&partition);
        self.windows.connect(translate);
        let populator = populator(self.populator, &partition);
        let freeze_watch = freeze_watch::timer(&partition.bridges).map_err(resource("a timer"))?;
        let mut running = RunningMachine {
            populator,
            partition,
            threads: Arc::clone(threads),
            working: 0,
            lifecycle,
            bulk_calls_due: self.bulk_calls_due,
            notices: self.notices,
            freeze_watch,
            kept: self.kept,
        };
        for (server, vcpu) in (0..).zip(self.vcpus) {
            let processor = Processor::new(vcpu, server, Arc::clone(&running.partition))?;
            threads
                .start(server, Box::new(move || processor.run()))
                .map_err(resource("a thread for a processor"))?;
            running.working += 1;
        }
        let start = StartAddress {
            entry: self.entry.address,
            r3: self.entry.device_tree,
        };
        // A machine has a first processor, and it is stopped.
        let _started = running.partition.processors.start(0, start);
        Ok(running)
    }

    fn connect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        self.interrupts.make(LisnBlock::of_one(lisn))?;
        self.interrupts.connect(lisn, event)
    }
}

/// The thread that makes memory present ahead of mappings, if there is a device to map for.
fn populator(wake: Wake, partition: &Arc<Partition>) -> Option<Populator> {
    if !partition.engine.registers_memory() {
        return None;
    }
    let machine = Arc::downgrade(partition);
    let populate_some = move || {
        machine
            .upgrade()
            .is_some_and(|partition| partition.engine.populate_some())
    };
    Populator::start(wake, populate_some)
        .inspect_err(|error| {
            guest_message!(
                Level::Warn,
                "first mappings of guest memory take longer: no thread to make it present: {error}"
            );
        })
        .ok()
}

impl RunningMachine {
    /// How the run ends.
    pub fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    /// The ways to pause the machine, to signal its guest and to see what it holds, from any thread.
    pub fn controls(&self) -> MachineControls {
        MachineControls(Arc::downgrade(&self.partition))
    }

    /// What the control plane has to do for the machine beside waiting for its end. To be dropped
    /// before the machine is stopped; each is there once.
    pub fn alarms(&mut self) -> Vec<Alarm> {
        let mut alarms = std::mem::take(&mut self.notices);
        if let Some(due) = self.bulk_calls_due.take() {
            let partition = Arc::clone(&self.partition);
            let take_back = move || partition.engine.take_back_calls();
            alarms.push(Alarm::new(due, take_back));
        }
        if let Some(timer) = self.freeze_watch.take() {
            alarms.push(freeze_watch::alarm(timer, &self.partition));
        }
        alarms
    }

    /// Stops the processors, adds what was counted to `statistics`, and gives back devices, windows,
    /// locked memory and the VM, in this order: memory that a window maps must stay where it is. `started` is
    /// when this process began.
    ///
    /// Returns how the run ended, and what the machine's next life takes over if all the rest could be given
    /// back: that a device cannot be stopped or a window not be removed is an error, though the kernel does
    /// it when the process ends.
    pub fn stop(
        mut self,
        started: Instant,
        statistics: &mut Statistics,
    ) -> (End, Result<Kept, MachineError>) {
        let counters = self.halt();
        report::add(statistics, &self.partition, &counters, started);
        let end = self
            .lifecycle
            .ended()
            .unwrap_or(End::Asked("the control plane"));
        let released = self.release(matches!(end, End::Reboot | End::Reset));
        let kept = std::mem::take(&mut self.kept);
        drop(self);
        let kept = released.map(|()| {
            kept.rest();
            kept
        });
        (end, kept)
    }

    /// Stops all processors and collects what they counted.
    fn halt(&mut self) -> Counters {
        self.partition.processors.end();
        self.partition.pause.end();
        // It gives way to the processors, so that it might have to wait for them if they were not told first.
        self.populator = None;
        let mut sum = Counters::default();
        for server in 0..std::mem::take(&mut self.working) {
            match self.threads.wait(server) {
                Some(counters) => sum.add(&counters),
                None => guest_message!(Level::Error, "a processor's thread panicked"),
            }
        }
        self.partition.interrupts.leave_devices();
        sum
    }

    /// Devices stop before the windows that they use go. One that the host holds, because it is being
    /// unbound, is stopped and cannot be reset: unless the guest `starts_again` with it, that is no
    /// failure.
    fn release(&self, starts_again: bool) -> Result<(), MachineError> {
        let bridges = &self.partition.bridges;
        for bridge in bridges {
            // A guest may have ended in the middle of its recovery.
            if let Err(error) = bridge.end_reset() {
                guest_message!(
                    Level::Warn,
                    "PCI device {} stays in the reset that its guest began (EEH): {error}",
                    bridge.endpoint_names()
                );
            }
        }
        let functions = bridges.iter().flat_map(|bridge| bridge.functions());
        let mut stopped = Ok(());
        for function in functions {
            let result = match function.reset() {
                Err(held) if held.kind() == io::ErrorKind::ResourceBusy && !starts_again => {
                    guest_message!(
                        Level::Warn,
                        "{held}. It has been stopped, and is reset when it is opened next"
                    );
                    Ok(())
                }
                result => result,
            };
            stopped = stopped.and(result);
        }
        let windows = self.partition.engine.reset_windows();
        let stopped = stopped.map_err(|source: io::Error| MachineError::Resource {
            what: "a passed-through device to stop",
            source,
        });
        match (stopped, windows.map_err(MachineError::from)) {
            (Err(device), Err(window)) => {
                guest_message!(Level::Error, "{}", chain(&window));
                Err(device)
            }
            (device, window) => device.and(window),
        }
    }
}

/// Pauses a machine, signals its guest and shows what it holds. It does not keep the machine alive; of one that
/// has stopped it does nothing.
#[derive(Clone)]
pub struct MachineControls(Weak<Partition>);

impl MachineControls {
    /// Makes all processors leave the guest, and returns when they have. False when they were paused
    /// already, or the machine has stopped.
    pub fn pause(&self) -> bool {
        self.0.upgrade().is_some_and(|partition| {
            let kick = || partition.processors.kick_all(None);
            let paused = partition.pause.pause(kick, time_base::now);
            partition.hold_devices(true);
            paused
        })
    }

    /// Lets all processors go on. False when they were not paused, or the machine has stopped.
    pub fn resume(&self) -> bool {
        self.0.upgrade().is_some_and(|partition| {
            partition.hold_devices(false);
            partition.pause.resume(time_base::now())
        })
    }

    /// Asks the guest to shut down and power off; what becomes of it is the guest's business.
    pub fn request_shutdown(&self) {
        if let Some(partition) = self.0.upgrade() {
            partition.power.request_shutdown();
        }
    }

    /// Has every processor that is started take a system reset interrupt, which it cannot mask; one
    /// that is paused does so when it goes on.
    pub fn system_reset(&self) {
        if let Some(partition) = self.0.upgrade() {
            partition.processors.system_reset_all(None);
        }
    }

    /// The guest's memory and the registers that its processors had when they were paused, which
    /// they have to be still. None of a machine that has stopped.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let partition = self.0.upgrade()?;
        Some(Snapshot {
            memory: partition.ram.clone(),
            processors: partition.registers.all(),
        })
    }
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        if self.working == 0 {
            return;
        }
        // Not stopped: an error on the way up or down.
        self.halt();
        if let Err(error) = self.release(false) {
            guest_message!(Level::Error, "{}", chain(&error));
        }
    }
}
