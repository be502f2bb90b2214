//! A machine under monitors.

use std::sync::Arc;
use std::time::Instant;

use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::guest_message;

use super::run::{QemuError, Serving, Waiting};
use crate::console::{Console, Terminal};
use crate::lifecycle::End;
use crate::machine::{MachineError, RunningMachine};
use crate::session::{FrontEnd, LifeError, Lives, Next, Session};
use crate::spec::MachineDescription;

/// Runs a machine until it is told to end. Monitors are let in when the machine is there, so
/// that whatever is wrong with it is said before.
///
/// # Errors
/// When it cannot be run.
pub(super) fn run(
    description: &MachineDescription,
    console: Console,
    waiting: Waiting,
    started: Instant,
) -> Result<(), QemuError> {
    let mut session = Session::new(description, waiting.process.stats.clone(), started)?;
    let mut serving = None;
    let result = run_machine(&mut session, console, waiting, &mut serving);
    let result = session.finish(result);
    // They hear the last events when all is done.
    if let Some(serving) = serving {
        serving.finish();
    }
    result
}

fn run_machine(
    session: &mut Session<'_>,
    mut console: Console,
    mut waiting: Waiting,
    serving: &mut Option<Serving>,
) -> Result<(), QemuError> {
    let machine = session.make_machine(std::mem::take(&mut waiting.attachments))?;
    let fixtures = session.make_fixtures(&mut console)?;
    waiting.facts.processors = fixtures.threads.ids();
    waiting.facts.uuid = session.uuid();
    let disks = waiting.facts.disks.iter_mut();
    for (facts, disk) in disks.zip(machine.disks()) {
        facts.disk = Some(Arc::clone(disk));
    }
    let mut monitored = Monitored {
        serving: serving.insert(waiting.serve()?),
        terminal: &fixtures.terminal,
    };
    match session.live(machine, &fixtures, &mut monitored) {
        Ok(_) => Ok(()),
        // What it is has been told when the machine ended.
        Err(LifeError::LeftBehind { .. }) => Err(QemuError::LeftBehind),
        Err(LifeError::NotGivenBack(_)) => Err(QemuError::NotGivenBack),
        Err(error) => Err(error.into_front_end()),
    }
}

/// A machine that monitors watch and rule.
struct Monitored<'a> {
    serving: &'a Serving,
    terminal: &'a Terminal,
}

impl FrontEnd<Lives<'_, '_>> for Monitored<'_> {
    type Error = QemuError;

    fn starts_paused(&self) -> bool {
        self.serving.guest().starts_paused()
    }

    fn attach(&mut self, running: &RunningMachine) {
        let controls = Box::new(running.controls());
        self.serving.guest().attach(running.lifecycle(), controls);
    }

    fn wait(&mut self, running: &mut RunningMachine) -> Result<End, QemuError> {
        let alarms = running.alarms();
        self.serving.wait_for_end(running.lifecycle(), alarms)
    }

    /// So that a monitor can dump it.
    fn keeps(&self, end: &End) -> bool {
        matches!(end, End::OsTerm(_)) && self.serving.guest().keeps_crashed()
    }

    fn detach(&mut self) {
        self.serving.guest().detach();
    }

    fn not_given_back(&mut self, _end: &End, error: &MachineError) {
        let error = chain(error);
        guest_message!(
            Level::Error,
            "the machine was not given back whole: {error}"
        );
    }

    fn ended(&mut self, end: &End) -> Next {
        match end {
            End::OsTerm(reason) => {
                let report = self.terminal.os_term_report(reason.clone());
                guest_message!(Level::Error, "{report}");
            }
            End::Failed(message) => guest_message!(Level::Error, "{message}"),
            End::Asked(by) => log::warn!("ended by {by}"),
            _ => {}
        }
        self.serving.guest().ended(end)
    }

    fn wait_while_none_runs(&mut self) -> Result<End, QemuError> {
        self.serving.wait_while_none_runs()
    }
}
