//! A machine while its guest runs, and the way down.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use spapr_devices::interrupts::{InterruptLines, Lisn};

use super::build::{Machine, MachineError};
use super::lasting::Lasting;
use super::lifecycle::{End, Lifecycle};
use super::partition::Partition;
use super::processors::{Processors, StartAddress};
use super::report;
use crate::console::Terminal;
use crate::control::Alarm;
use crate::error_chain::chain;
use crate::kvm::vm::PseriesVm;
use crate::stats::Statistics;
use crate::vcpu::counters::Counters;
use crate::vcpu::modes::Modes;
use crate::vcpu::process_table::ProcessTable;
use crate::vcpu::rtas::RtasState;
use crate::vcpu::thread::Processor;

/// A machine whose processors have threads.
pub struct RunningMachine {
    partition: Arc<Partition>,
    threads: Vec<JoinHandle<Counters>>,
    lifecycle: Arc<Lifecycle>,
    bulk_calls_due: Option<OwnedFd>,
}

impl Machine {
    /// Starts the first processor.
    ///
    /// # Errors
    /// When there are no threads or descriptors left; all is given back then.
    pub fn start(
        self,
        terminal: &Terminal,
        lasting: &Lasting,
    ) -> Result<RunningMachine, MachineError> {
        let resource = |what| move |source| MachineError::Resource { what, source };
        let lifecycle = Lifecycle::new().map_err(resource("an eventfd"))?;
        let lifecycle = Arc::new(lifecycle);
        let vty = terminal.attach(&lifecycle);
        self.lines
            .connect(Lisn::VIO, vty.interrupt())
            .map_err(resource("the terminal's interrupt"))?;
        let cpus = u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX);
        let partition = Arc::new(Partition {
            processors: Processors::new(cpus),
            lifecycle: Arc::clone(&lifecycle),
            modes: Modes::default(),
            process_table: ProcessTable::default(),
            vty,
            engine: self.engine,
            dma_windows: self.dma_windows,
            bridges: self.bridges,
            ram: self.ram,
            rtas: RtasState::new(lasting),
            cpu_char: self
                .capabilities
                .get_cpu_char
                .then(|| self.vm.cpu_char().ok())
                .flatten(),
            capabilities: self.capabilities,
            _lines: self.lines,
            vm: self.vm,
            first_entry: OnceLock::new(),
        });
        let mut running = RunningMachine {
            partition,
            threads: Vec::new(),
            lifecycle,
            bulk_calls_due: self.bulk_calls_due,
        };
        for (server, vcpu) in (0..).zip(self.vcpus) {
            let processor = Processor::new(vcpu, server, Arc::clone(&running.partition))?;
            let thread = thread::Builder::new()
                .name(format!("CPU {server}/KVM"))
                .spawn(move || processor.run())
                .map_err(resource("a thread for a processor"))?;
            running.threads.push(thread);
        }
        let start = StartAddress {
            entry: self.entry.address,
            r3: self.entry.device_tree,
        };
        // A machine has a first processor, and it is stopped.
        let _started = running.partition.processors.start(0, start);
        Ok(running)
    }
}

impl RunningMachine {
    /// How the run ends.
    pub fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    /// What the control plane has to do for the machine beside waiting for its end. To be dropped
    /// before the machine is stopped; there is one.
    pub fn alarm(&mut self) -> Option<Alarm> {
        let due = self.bulk_calls_due.take()?;
        let partition = Arc::clone(&self.partition);
        Some(Alarm::new(due, move || partition.engine.take_back_calls()))
    }

    /// Stops the processors, adds what was counted to `statistics`, and gives back devices, windows
    /// and locked memory. `started` is when this process began.
    ///
    /// Returns how the run ended, and whether all could be given back: that a device cannot be
    /// stopped or a window not be removed is an error, though the kernel does it when the process
    /// ends.
    pub fn stop(
        mut self,
        started: Instant,
        statistics: &mut Statistics,
    ) -> (End, Result<(), MachineError>) {
        let counters = self.halt();
        report::add(statistics, &self.partition, &counters, started);
        let end = self
            .lifecycle
            .ended()
            .unwrap_or(End::Asked("the control plane"));
        (end, self.release())
    }

    /// Stops all processors and collects what they counted.
    fn halt(&mut self) -> Counters {
        self.partition.processors.end();
        let mut sum = Counters::default();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(counters) => sum.add(&counters),
                Err(_) => log::error!("a processor's thread panicked"),
            }
        }
        sum
    }

    /// Devices stop before the windows that they use go.
    fn release(&self) -> Result<(), MachineError> {
        let mut stopped = Ok(());
        for bridge in &self.partition.bridges {
            stopped = stopped.and(bridge.reset());
        }
        let windows = self.partition.engine.reset_windows();
        let stopped = stopped.map_err(|source: io::Error| MachineError::Resource {
            what: "a passed-through device to stop",
            source,
        });
        match (stopped, windows.map_err(MachineError::from)) {
            (Err(device), Err(window)) => {
                log::error!("{}", chain(&window));
                Err(device)
            }
            (device, window) => device.and(window),
        }
    }
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        // Not stopped: an error on the way up or down.
        self.halt();
        if let Err(error) = self.release() {
            log::error!("{}", chain(&error));
        }
    }
}
