//! The machine's interrupt controller, XICS or XIVE, as KVM makes it.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use spapr_devices::interrupts::sampled::SampledLines;
use spapr_devices::interrupts::xive::Xive;
use spapr_devices::interrupts::{
    ControllerKind, InterruptLines, LevelLine, Lisn, LisnBlock, Sampling, Trigger, TriggerRegister,
};
use spapr_hypercalls::abi::{Arguments, ReturnCode};
use spapr_hypercalls::world::GuestRange;
use spapr_kvm::memory_slots::MemorySlots;
use spapr_kvm::vcpu::Vcpu;
use spapr_kvm::vm::Vm;
use spapr_kvm::xics::{Xics, XicsError};
use spapr_kvm::xive::{XiveError, XiveKvm};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why the interrupt controller could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InterruptControllerError {
    /// XICS.
    #[error(transparent)]
    Xics(#[from] XicsError),
    /// XIVE.
    #[error(transparent)]
    Xive(#[from] XiveError),
    /// The processors' interrupts to each other.
    #[error("the processors' interrupts to each other cannot be made")]
    Processors(#[source] io::Error),
}

/// The interrupt controller of a machine. Dropping it takes it out of the VM.
#[derive(Debug)]
pub struct InterruptController {
    vm: Arc<Vm>,
    controller: Controller,
}

#[derive(Debug)]
enum Controller {
    Xics {
        xics: Xics,
        /// Made with the first line.
        lines: Mutex<Option<SampledLines>>,
        prepare_thread: fn() -> io::Result<()>,
    },
    Xive(Box<Xive<XiveKvm>>),
}

impl InterruptController {
    /// Makes the interrupt controller of `vm`, whose `cpus` processors are still to be made and whose
    /// memory is `ram`. If it takes a thread, that does `prepare_thread` first.
    ///
    /// # Errors
    /// KVM's refusal; all is given back then.
    pub fn new(
        kind: ControllerKind,
        vm: &Arc<Vm>,
        slots: &Arc<MemorySlots>,
        cpus: u32,
        ram: Vec<GuestRange>,
        prepare_thread: fn() -> io::Result<()>,
    ) -> Result<Self, InterruptControllerError> {
        let controller = match kind {
            ControllerKind::Xics => Controller::Xics {
                xics: Xics::new(vm, cpus)?,
                lines: Mutex::default(),
                prepare_thread,
            },
            ControllerKind::Xive => {
                let xive = Xive::new(XiveKvm::new(vm, slots, cpus)?, cpus, ram);
                // A machine has a processor, and fewer than there are numbers.
                if let Some(processors) = LisnBlock::new(Lisn::IPI, cpus) {
                    xive.make_sources(processors, Trigger::Edge)
                        .map_err(InterruptControllerError::Processors)?;
                }
                Controller::Xive(Box::new(xive))
            }
        };
        Ok(Self {
            vm: Arc::clone(vm),
            controller,
        })
    }

    /// Connects a processor with interrupt server number `server`, before it first runs.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn connect_vcpu(&self, vcpu: &Vcpu, server: u32) -> Result<(), InterruptControllerError> {
        match &self.controller {
            Controller::Xics { xics, .. } => Ok(xics.connect_vcpu(vcpu, server)?),
            Controller::Xive(xive) => Ok(xive.device().connect_vcpu(vcpu, server)?),
        }
    }

    /// Serves hypercall `number`, if it is the interrupt controller's; else it is H_FUNCTION. Those
    /// of XICS the kernel serves.
    pub fn serve(&self, number: u64, args: &mut Arguments) -> ReturnCode {
        match &self.controller {
            Controller::Xics { .. } => None,
            Controller::Xive(xive) => xive.serve(number, args),
        }
        .unwrap_or(ReturnCode::FUNCTION)
    }

    /// Asks nothing more of devices, from when this returns. Their lines interrupt nobody then.
    pub fn leave_devices(&self) {
        if let Controller::Xics { lines, .. } = &self.controller {
            // Dropped, its thread ends.
            *lines.lock() = None;
        }
    }

    /// Makes an edge-triggered source of an event.
    fn make_and_connect(&self, xics: &Xics, lisn: Lisn) -> io::Result<EventFd> {
        xics.create_source(lisn.0, Trigger::Edge)
            .map_err(io::Error::other)?;
        let event = EventFd::new(EFD_NONBLOCK)?;
        self.connect(lisn, &event)?;
        Ok(event)
    }
}

impl InterruptLines for InterruptController {
    fn make(&self, block: LisnBlock) -> io::Result<()> {
        match &self.controller {
            Controller::Xics { xics, .. } => block
                .iter()
                .try_for_each(|lisn| xics.create_source(lisn.0, Trigger::Edge))
                .map_err(io::Error::other),
            Controller::Xive(xive) => xive.make_sources(block, Trigger::Edge),
        }
    }

    fn sampling(&self) -> Sampling {
        match &self.controller {
            Controller::Xics { .. } => Sampling::ByTime,
            Controller::Xive(_) => Sampling::ByGuest,
        }
    }

    fn make_level(&self, lisn: Lisn, line: Weak<dyn LevelLine>) -> io::Result<()> {
        match &self.controller {
            Controller::Xics {
                xics,
                lines,
                prepare_thread,
            } => {
                let mut lines = lines.lock();
                let lines = match &*lines {
                    Some(lines) => lines,
                    None => lines.insert(SampledLines::new(*prepare_thread)?),
                };
                lines.add(lisn, line, || self.make_and_connect(xics, lisn))
            }
            Controller::Xive(xive) => xive.make_level(lisn, line),
        }
    }

    fn connect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()> {
        match &self.controller {
            Controller::Xics { lines, .. } => match &*lines.lock() {
                Some(lines) => lines.connect(lisn, event),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Controller::Xive(_) => self.connect(lisn, event),
        }
    }

    fn disconnect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()> {
        match &self.controller {
            Controller::Xics { lines, .. } => {
                if let Some(lines) = &*lines.lock() {
                    lines.disconnect(lisn, event);
                }
                Ok(())
            }
            Controller::Xive(_) => self.disconnect(lisn, event),
        }
    }

    fn connect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        self.vm
            .assign_irqfd(lisn.0, event, None)
            .map_err(io::Error::other)
    }

    fn trigger_register(&self, lisn: Lisn) -> Option<TriggerRegister> {
        match &self.controller {
            Controller::Xics { .. } => None,
            Controller::Xive(xive) => xive.device().trigger_register(lisn),
        }
    }

    fn disconnect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        self.vm
            .deassign_irqfd(lisn.0, event)
            .map_err(io::Error::other)
    }
}
