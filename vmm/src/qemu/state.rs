//! The state of the guest as a management program sees it, and the way to change it.
//!
//! Monitors call from their thread; the main thread makes machines and learns how they end. Both
//! meet in [`GuestState`], whose lock is held while processors are paused but never while a machine
//! is made or taken down.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::controls::Controls;
use super::disks::{DiskErrors, Heard};
use super::events::Events;
use crate::dump::{Cancel, Snapshot};
use crate::lifecycle::{End, Lifecycle};
use crate::session::Next;

/// How long a machine's end waits for a dump that was told to stop: one whose file does not answer
/// keeps the memory.
const DUMP_PATIENCE: Duration = Duration::from_secs(2);

/// What the guest is doing, as `query-status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It has not started since the machine was made.
    Prelaunch,
    /// It runs.
    Running,
    /// It was paused.
    Paused,
    /// It stands still while it is dumped, and goes on afterwards.
    SaveVm,
    /// It has powered off.
    Shutdown,
    /// Its operating system has failed.
    GuestPanicked,
    /// A processor could not go on.
    InternalError,
    /// It was paused because the host has failed a request to a disk, which is tried again when it goes on.
    IoError,
}

impl RunState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Prelaunch,
        Self::Running,
        Self::Paused,
        Self::SaveVm,
        Self::Shutdown,
        Self::GuestPanicked,
        Self::InternalError,
        Self::IoError,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::SaveVm => "save-vm",
            Self::Shutdown => "shutdown",
            Self::GuestPanicked => "guest-panicked",
            Self::InternalError => "internal-error",
            Self::IoError => "io-error",
        }
    }

    /// Whether the guest cannot go on from here without a reset.
    const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Shutdown | Self::GuestPanicked | Self::InternalError
        )
    }
}

/// How the guest's ends are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// The process outlives the guest's power-off.
    pub no_shutdown: bool,
    /// A reboot is a power-off.
    pub no_reboot: bool,
}

/// The state of the guest.
pub struct GuestState {
    policy: Policy,
    events: Events,
    disk_errors: DiskErrors,
    state: Mutex<State>,
    /// Signalled when a dump has ended.
    dump_ended: Condvar,
}

struct State {
    run: RunState,
    controls: Option<Box<dyn Controls>>,
    lifecycle: Option<Arc<Lifecycle>>,
    /// What a monitor asked for while no machine was there to end.
    pending: Option<End>,
    /// The dump that is being written.
    dump: Option<Arc<Cancel>>,
}

/// A command came at the wrong time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongTime {
    /// The guest's run is over.
    #[error("Resetting the Virtual Machine is required")]
    ResetRequired,
    /// The guest has to stand still.
    #[error("the guest is being dumped; wait until that has ended (query-dump)")]
    BeingDumped,
    /// There is no machine, or its guest is off.
    #[error("the guest is off")]
    Off,
    /// The guest's operating system has failed.
    #[error("the guest has crashed; its processors have stopped")]
    Crashed,
}

impl GuestState {
    /// A guest that has not started; it does so with its first machine, unless it `starts_paused`.
    pub fn new(policy: Policy, starts_paused: bool, events: Events) -> Self {
        let run = if starts_paused {
            RunState::Prelaunch
        } else {
            RunState::Running
        };
        Self {
            policy,
            events,
            disk_errors: DiskErrors::default(),
            state: Mutex::new(State {
                run,
                controls: None,
                lifecycle: None,
                pending: None,
                dump: None,
            }),
            dump_ended: Condvar::new(),
        }
    }

    /// Has the guest pause for what the host fails of its disks' requests.
    #[must_use]
    pub fn with_disks(mut self, disk_errors: DiskErrors) -> Self {
        self.disk_errors = disk_errors;
        self
    }

    /// Its disks.
    pub const fn disk_errors(&self) -> &DiskErrors {
        &self.disk_errors
    }

    /// Disks have told of something: monitors hear of it, and the guest is paused if a request waits for that.
    pub fn disks_told(&self) {
        self.hear_disks(&mut self.state.lock());
    }

    fn hear_disks(&self, state: &mut State) {
        let heard = self.disk_errors.hear();
        self.after_errors(state, &heard);
    }

    fn after_errors(&self, state: &mut State, heard: &Heard) {
        for data in &heard.events {
            self.events.send("BLOCK_IO_ERROR", data);
        }
        let Some(controls) = state.controls.as_ref().filter(|_| heard.stops) else {
            return;
        };
        match state.run {
            RunState::Running => {
                controls.pause();
                state.run = RunState::IoError;
                self.events.send("STOP", &Value::Null);
            }
            // It stands still, and would go on after the dump.
            RunState::SaveVm => state.run = RunState::IoError,
            _ => {}
        }
    }

    /// What the guest is doing.
    pub fn run_state(&self) -> RunState {
        self.state.lock().run
    }

    /// Whether a machine that is about to start has to start paused.
    pub fn starts_paused(&self) -> bool {
        self.state.lock().run != RunState::Running
    }

    /// Gives monitors a machine that has been started as [`GuestState::starts_paused`] said.
    pub fn attach(&self, lifecycle: &Arc<Lifecycle>, controls: Box<dyn Controls>) {
        let mut state = self.state.lock();
        // A monitor may have said otherwise meanwhile.
        if state.run == RunState::Running {
            controls.resume();
        } else {
            controls.pause();
        }
        state.controls = Some(controls);
        Self::watch(&mut state, lifecycle);
    }

    /// Gives monitors something to end while there is no machine.
    pub fn attach_idle(&self, lifecycle: &Arc<Lifecycle>) {
        Self::watch(&mut self.state.lock(), lifecycle);
    }

    fn watch(state: &mut State, lifecycle: &Arc<Lifecycle>) {
        if let Some(end) = state.pending.take() {
            lifecycle.end(end);
        }
        state.lifecycle = Some(Arc::clone(lifecycle));
    }

    /// Takes the machine away from monitors, before it is taken down. A dump of it ends.
    pub fn detach(&self) {
        let mut state = self.state.lock();
        state.controls = None;
        state.lifecycle = None;
        if let Some(cancel) = &state.dump {
            cancel.cancel();
        }
        let is_dumped = |state: &mut State| state.dump.is_some();
        self.dump_ended
            .wait_while_for(&mut state, is_dumped, DUMP_PATIENCE);
    }

    /// Whether a machine whose guest has crashed is kept for monitors to look at.
    pub const fn keeps_crashed(&self) -> bool {
        self.policy.no_shutdown
    }

    /// Tells of the end of what was attached last, and says what is next.
    pub fn ended(&self, end: &End) -> Next {
        match end {
            End::PowerOff => self.powered_off("guest-shutdown"),
            End::Reboot if self.policy.no_reboot => self.powered_off("guest-reset"),
            End::Reboot => {
                self.events
                    .send("RESET", &json!({"guest": true, "reason": "guest-reset"}));
                Next::Restart
            }
            End::Reset => {
                let data = json!({"guest": false, "reason": "host-qmp-system-reset"});
                self.events.send("RESET", &data);
                Next::Restart
            }
            End::Quit => self.exit("host-qmp-quit"),
            End::Left => self.exit("host-ui"),
            End::Asked(_) => self.exit("host-signal"),
            End::OsTerm(_) => self.panicked(),
            End::Failed(_) => {
                self.stop_at(&mut self.state.lock(), RunState::InternalError);
                Next::Wait
            }
        }
    }

    fn powered_off(&self, reason: &str) -> Next {
        // Locked until the state is what the events say: a monitor that acts on the first of them, as
        // libvirt does to make a reboot of it, has to find it so.
        let mut state = self.state.lock();
        self.events
            .send("SHUTDOWN", &json!({"guest": true, "reason": reason}));
        if !self.policy.no_shutdown {
            return Next::Exit;
        }
        self.stop_at(&mut state, RunState::Shutdown);
        Next::Wait
    }

    fn panicked(&self) -> Next {
        let action = if self.policy.no_shutdown {
            "pause"
        } else {
            "poweroff"
        };
        let mut state = self.state.lock();
        // What a kept machine holds does not change any more.
        if let Some(controls) = &state.controls {
            controls.pause();
        }
        self.events
            .send("GUEST_PANICKED", &json!({"action": action}));
        self.stop_at(&mut state, RunState::GuestPanicked);
        if self.policy.no_shutdown {
            return Next::Wait;
        }
        self.events
            .send("SHUTDOWN", &json!({"guest": true, "reason": "guest-panic"}));
        Next::Exit
    }

    fn exit(&self, reason: &str) -> Next {
        self.events
            .send("SHUTDOWN", &json!({"guest": false, "reason": reason}));
        Next::Exit
    }

    fn stop_at(&self, state: &mut State, run: RunState) {
        // A reset that came while the machine was taken down: the next one is about to be made.
        state.run = if state.pending == Some(End::Reset) {
            RunState::Prelaunch
        } else {
            run
        };
        self.events.send("STOP", &Value::Null);
    }

    /// `stop`: pauses a guest that runs, or leaves one paused that would go on after a dump.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        if state.run == RunState::SaveVm {
            state.run = RunState::Paused;
        }
        if state.run != RunState::Running {
            return;
        }
        if let Some(controls) = &state.controls {
            controls.pause();
        }
        state.run = RunState::Paused;
        self.events.send("STOP", &Value::Null);
    }

    /// `cont`: lets a guest run that is paused or has not started.
    ///
    /// # Errors
    /// When the guest's run is over, or it is being dumped.
    pub fn cont(&self) -> Result<(), WrongTime> {
        let mut state = self.state.lock();
        if state.run.is_over() {
            return Err(WrongTime::ResetRequired);
        }
        if state.run == RunState::Running {
            return Ok(());
        }
        // After a reset, the guest is not the one that is dumped.
        if state.dump.is_some() && state.controls.is_some() {
            return Err(WrongTime::BeingDumped);
        }
        // What is tried again now is past.
        self.hear_disks(&mut state);
        self.resume(&mut state);
        Ok(())
    }

    fn resume(&self, state: &mut State) {
        state.run = RunState::Running;
        self.disk_errors.forget();
        // Before the first instruction that runs again.
        self.events.send("RESUME", &Value::Null);
        if let Some(controls) = &state.controls {
            controls.resume();
        }
    }

    /// Whether the guest could be dumped now.
    ///
    /// # Errors
    /// When there is no guest, or it is being dumped.
    pub fn check_dumpable(&self) -> Result<(), WrongTime> {
        let state = self.state.lock();
        match (&state.dump, &state.controls) {
            (Some(_), _) => Err(WrongTime::BeingDumped),
            (None, None) => Err(WrongTime::Off),
            (None, Some(_)) => Ok(()),
        }
    }

    /// `dump-guest-memory`: has the guest stand still, until [`GuestState::dumped`] is called, and
    /// shows what it holds. `cancel` is used when its machine ends before.
    ///
    /// # Errors
    /// When there is no guest, or it is being dumped.
    pub fn hold_for_dump(&self, cancel: &Arc<Cancel>) -> Result<Snapshot, WrongTime> {
        let mut state = self.state.lock();
        if state.dump.is_some() {
            return Err(WrongTime::BeingDumped);
        }
        let controls = state.controls.as_ref().ok_or(WrongTime::Off)?;
        let runs = state.run == RunState::Running;
        if runs {
            controls.pause();
        }
        let snapshot = controls.snapshot().ok_or(WrongTime::Off)?;
        state.dump = Some(Arc::clone(cancel));
        if runs {
            state.run = RunState::SaveVm;
            self.events.send("STOP", &Value::Null);
        }
        Ok(snapshot)
    }

    /// The dump has ended: a guest that ran before goes on.
    pub fn dumped(&self) {
        let mut state = self.state.lock();
        state.dump = None;
        self.hear_disks(&mut state);
        if state.run == RunState::SaveVm {
            self.resume(&mut state);
        }
        drop(state);
        self.dump_ended.notify_all();
    }

    /// `inject-nmi`: has all processors take a system reset interrupt, which no state of the guest
    /// keeps them from.
    ///
    /// # Errors
    /// When no processor is there to take it.
    pub fn inject_nmi(&self) -> Result<(), WrongTime> {
        let state = self.state.lock();
        if state.run == RunState::GuestPanicked {
            return Err(WrongTime::Crashed);
        }
        let controls = state.controls.as_ref().ok_or(WrongTime::Off)?;
        controls.system_reset();
        Ok(())
    }

    /// `system_reset`: has the machine start again. One that does not run then waits for `cont`.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        if state.run == RunState::SaveVm {
            // The dump ends with the machine, and the guest would have gone on after it.
            state.run = RunState::Running;
            self.events.send("RESUME", &Value::Null);
        } else if state.run != RunState::Running {
            state.run = RunState::Prelaunch;
        }
        // What a monitor says from now on is meant for the next machine.
        state.controls = None;
        Self::end(&mut state, End::Reset);
    }

    /// `system_powerdown`: asks the guest to power off.
    pub fn power_down(&self) {
        let state = self.state.lock();
        self.events.send("POWERDOWN", &Value::Null);
        if let Some(controls) = &state.controls {
            controls.request_shutdown();
        }
    }

    /// `quit`: ends the process.
    pub fn quit(&self) {
        Self::end(&mut self.state.lock(), End::Quit);
    }

    fn end(state: &mut State, end: End) {
        let first = match &state.lifecycle {
            Some(lifecycle) if lifecycle.end(end.clone()) => return,
            Some(lifecycle) => lifecycle.ended(),
            None => None,
        };
        // What came second is the next machine's, unless the first does it, too; the end of the
        // process is not forgotten for a reset.
        let is_done = end == End::Reset && matches!(first, Some(End::Reset | End::Reboot));
        if !is_done && state.pending != Some(End::Quit) {
            state.pending = Some(end);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
