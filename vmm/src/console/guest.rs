//! The guest's terminal, which outlives its reboots.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use log::Level;
use parking_lot::Mutex;
use spapr_devices::guest_message;
use spapr_devices::vty::Vty;

use super::{Console, ConsoleError, OsTermReport, OutputQueue, input};
use crate::lifecycle::{End, Lifecycle};

/// How long typed input waits before it is offered again to a guest that is behind.
const RETRY_INPUT: Duration = Duration::from_millis(5);

/// How often it is offered before it is dropped: two seconds in all.
const RETRIES: u32 = 400;

/// The vty between a console and whatever machine runs now.
pub struct Terminal {
    output: OutputQueue,
    place: String,
    vty: Arc<Vty<OutputQueue>>,
    machine: Arc<Mutex<Weak<Lifecycle>>>,
}

impl Terminal {
    /// Makes the vty, at `unit_address`, and starts to read what the user types.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub fn start(console: &mut Console, unit_address: u32) -> Result<Self, ConsoleError> {
        let vty = Vty::new(unit_address, console.output.clone());
        let vty = Arc::new(vty.map_err(ConsoleError::Thread)?);
        let machine = Arc::new(Mutex::new(Weak::<Lifecycle>::new()));
        if let Some(input) = console.input.take() {
            let (to, quits) = (Arc::clone(&vty), Arc::clone(&machine));
            let deliver = move |typed: &[u8]| {
                let mut rest = typed;
                for _ in 0..RETRIES {
                    rest = &rest[to.queue_input(rest)..];
                    if rest.is_empty() {
                        return;
                    }
                    thread::sleep(RETRY_INPUT);
                }
                // A guest that reads nothing: the keys that end it must still be read.
                guest_message!(
                    Level::Warn,
                    "{} bytes of console input were dropped: the guest does not read them",
                    rest.len()
                );
            };
            let quit = move || {
                let machine = quits.lock().upgrade();
                if let Some(lifecycle) = machine {
                    lifecycle.end(End::Left);
                }
            };
            input::spawn(input, console.escape, deliver, quit).map_err(ConsoleError::Thread)?;
        }
        Ok(Self {
            output: console.output.clone(),
            place: console.place.clone(),
            vty,
            machine,
        })
    }

    /// What is to be said when the guest's operating system has given up, for `reason` if it gave one.
    pub fn os_term_report(&self, reason: Option<String>) -> OsTermReport {
        OsTermReport::new(reason, &self.place, &self.output.remembered())
    }

    /// Gives the terminal to a machine.
    pub fn attach(&self, lifecycle: &Arc<Lifecycle>) -> Arc<Vty<OutputQueue>> {
        *self.machine.lock() = Arc::downgrade(lifecycle);
        Arc::clone(&self.vty)
    }
}
