//! The interrupt line (INTx) of a function, for guests whose driver uses no MSI.
//!
//! A line is raised until the device has been served, and VFIO masks it when it signals: then one
//! signal is one interrupt, and when the guest has ended that, the line is unmasked; if it is still
//! raised, VFIO signals at once. So the guest's interrupt source needs no level of its own, but a
//! controller that says when an interrupt has ended, or samples the line now and then.
//!
//! A device has either its line or message-signalled interrupts. The line is connected when the
//! guest first lets its source interrupt, which a guest with MSI never does: nothing is asked of
//! the host for it. Where nobody knows when that is, it is connected when the guest has the device decode
//! addresses, until it asks for MSI.
//!
//! That the guest has the device raise no line (the command register's Interrupt Disable) is VFIO's to
//! see: it masks the line then and says nothing of it (`vfio_basic_config_write`).

use std::io;
use std::sync::{Arc, Weak};

use log::Level;
use parking_lot::{Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::address::DeviceFunction;
use super::backend::FunctionBackend;
use super::config_space::{read_u8, register};
use crate::board::Board;
use crate::guest_message;
use crate::interrupts::{InterruptLines, LevelLine, Lisn, Sampling};

/// Lines of a bus, which its functions share.
const LINES: u32 = 4;

/// Where a function's line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Which of the lines of its device the function has, 1 (INTA) to 4 (INTD).
    pub(super) pin: u8,
    /// The interrupt source that it became.
    pub(super) lisn: Lisn,
}

impl Route {
    /// The route of `pin` of the function at `address` behind bridge `bridge`, as in QEMU
    /// (`spapr_pci_map_irq` in hw/ppc/spapr_pci.c); `None` for a pin that there is not.
    fn new(bridge: u8, address: DeviceFunction, pin: u8) -> Option<Self> {
        let from_first = u32::from(pin).checked_sub(1).filter(|&pin| pin < LINES)?;
        let line = (u32::from(address.device()) + from_first) % LINES;
        let lisn = Lisn(Lisn::LSI.0 + LINES * u32::from(bridge) + line);
        Some(Self { pin, lisn })
    }
}

/// The line of one function.
pub(super) struct Line {
    pub(super) route: Route,
    backend: Arc<dyn FunctionBackend>,
    lines: Arc<dyn InterruptLines>,
    state: Mutex<State>,
}

enum State {
    /// The guest has not let it interrupt yet.
    Idle,
    /// The device signals this event.
    Connected(Arc<EventFd>),
    /// The device would, but is being reset.
    Suspended(Arc<EventFd>),
    /// The function has MSI vectors, or is stopped.
    GivenUp,
}

impl Line {
    /// The line of `backend`; `None` when the device or the host has none.
    ///
    /// # Errors
    /// The device's or the host's refusal.
    pub(super) fn new(
        bridge: u8,
        address: DeviceFunction,
        backend: &Arc<dyn FunctionBackend>,
        board: &Board,
    ) -> io::Result<Option<Arc<Self>>> {
        if !backend.has_line() {
            return Ok(None);
        }
        let pin = read_u8(&**backend, register::INTERRUPT_LINE + 1)?;
        let Some(route) = Route::new(bridge, address, pin) else {
            return Ok(None);
        };
        let line = Arc::new(Self {
            route,
            backend: Arc::clone(backend),
            lines: Arc::clone(&board.lines),
            state: Mutex::new(State::Idle),
        });
        let shared: Weak<dyn LevelLine> = Arc::downgrade(&line) as Weak<dyn LevelLine>;
        board.lines.make_level(route.lisn, shared)?;
        Ok(Some(line))
    }

    /// Disconnects the line, until it is wanted again: for MSI vectors, or for good.
    ///
    /// # Errors
    /// The host's refusal; the line is given up all the same.
    pub(super) fn give_up(&self) -> io::Result<()> {
        let old = std::mem::replace(&mut *self.state(), State::GivenUp);
        let (disabled, event) = match old {
            State::Connected(event) => (self.backend.disconnect_line(), event),
            State::Suspended(event) => (Ok(()), event),
            State::Idle | State::GivenUp => return Ok(()),
        };
        disabled.and(self.lines.disconnect_level(self.route.lisn, &event))
    }

    /// Takes the line from the device, until [`Line::resume`].
    pub(super) fn suspend(&self) {
        let mut state = self.state();
        if let State::Connected(event) = &*state {
            let event = Arc::clone(event);
            self.tell(self.backend.disconnect_line());
            *state = State::Suspended(event);
        }
    }

    /// Gives back what [`Line::suspend`] took.
    pub(super) fn resume(&self) {
        let mut state = self.state();
        if let State::Suspended(event) = &*state {
            let event = Arc::clone(event);
            let connected = self.backend.connect_line(&event);
            if connected.is_ok() {
                *state = State::Connected(event);
            }
            self.tell(connected);
        }
    }

    /// Lets the line be connected when the guest lets its source interrupt next.
    pub(super) fn want(&self) {
        let mut state = self.state();
        if let State::GivenUp = *state {
            *state = State::Idle;
        }
    }

    /// The guest has the device decode addresses: it may listen, if nobody is to know of that.
    pub(super) fn device_is_used(&self) {
        if self.lines.sampling() == Sampling::ByGuest {
            return;
        }
        let mut state = self.state();
        if let State::Idle = *state {
            let connected = self.connect();
            self.tell(connected.map(|event| *state = State::Connected(event)));
        }
    }

    fn connect(&self) -> io::Result<Arc<EventFd>> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        // The interrupt first: a line that is raised signals at once.
        self.lines.connect_level(self.route.lisn, &event)?;
        if let Err(error) = self.backend.connect_line(&event) {
            // The device's refusal is the one to report.
            let _ = self.lines.disconnect_level(self.route.lisn, &event);
            return Err(error);
        }
        Ok(event)
    }

    fn tell(&self, result: io::Result<()>) {
        if let Err(error) = result {
            guest_message!(
                Level::Warn,
                "{}: its interrupt line (INTx) does not work: {error}",
                self.backend.name()
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl LevelLine for Line {
    fn sample(&self) {
        let mut state = self.state();
        let done = match *state {
            State::Idle => self.connect().map(|event| *state = State::Connected(event)),
            State::Connected(_) => self.backend.unmask_line(),
            State::Suspended(_) | State::GivenUp => Ok(()),
        };
        self.tell(done);
    }

    fn sample_again(&self) {
        let state = self.state();
        if let State::Connected(_) = *state {
            self.tell(self.backend.unmask_line());
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
