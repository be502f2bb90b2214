//! The state of the guest as a management program sees it, and the way to change it.
//!
//! Monitors call from their thread; the main thread makes machines and learns how they end. Both
//! meet in [`GuestState`], whose lock is held while processors are paused but never while a machine
//! is made or taken down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::events::Events;
use crate::machine::lifecycle::{End, Lifecycle};

/// What a machine lets its monitors do.
pub trait Controls: Send {
    /// Makes all processors leave the guest, and returns when they have.
    fn pause(&self);
    /// Lets them go on.
    fn resume(&self);
    /// Asks the guest to shut down.
    fn request_shutdown(&self);
}

#[cfg(target_arch = "powerpc64")]
impl Controls for crate::machine::MachineControls {
    fn pause(&self) {
        Self::pause(self);
    }

    fn resume(&self) {
        Self::resume(self);
    }

    fn request_shutdown(&self) {
        Self::request_shutdown(self);
    }
}

/// What the guest is doing, as `query-status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It has not started since the machine was made.
    Prelaunch,
    /// It runs.
    Running,
    /// It was paused.
    Paused,
    /// It has powered off.
    Shutdown,
    /// Its operating system has failed.
    GuestPanicked,
    /// A processor could not go on.
    InternalError,
}

impl RunState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Prelaunch,
        Self::Running,
        Self::Paused,
        Self::Shutdown,
        Self::GuestPanicked,
        Self::InternalError,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::GuestPanicked => "guest-panicked",
            Self::InternalError => "internal-error",
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

/// What the main thread does when a machine has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make another one.
    Restart,
    /// Wait for what a monitor or a signal says.
    Wait,
    /// End the process.
    Exit,
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
    state: Mutex<State>,
}

struct State {
    run: RunState,
    controls: Option<Box<dyn Controls>>,
    lifecycle: Option<Arc<Lifecycle>>,
    /// What a monitor asked for while no machine was there to end.
    pending: Option<End>,
}

/// A command came at the wrong time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Resetting the Virtual Machine is required")]
pub struct ResetRequired;

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
            state: Mutex::new(State {
                run,
                controls: None,
                lifecycle: None,
                pending: None,
            }),
        }
    }

    /// What the guest is doing.
    pub fn run_state(&self) -> RunState {
        self.lock().run
    }

    /// Whether a machine that is about to start has to start paused.
    pub fn starts_paused(&self) -> bool {
        self.lock().run != RunState::Running
    }

    /// Gives monitors a machine that has been started as [`GuestState::starts_paused`] said.
    pub fn attach(&self, lifecycle: &Arc<Lifecycle>, controls: Box<dyn Controls>) {
        let mut state = self.lock();
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
        Self::watch(&mut self.lock(), lifecycle);
    }

    fn watch(state: &mut State, lifecycle: &Arc<Lifecycle>) {
        if let Some(end) = state.pending.take() {
            lifecycle.end(end);
        }
        state.lifecycle = Some(Arc::clone(lifecycle));
    }

    /// Takes the machine away from monitors, before it is taken down.
    pub fn detach(&self) {
        let mut state = self.lock();
        state.controls = None;
        state.lifecycle = None;
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
                self.stop_at(&mut self.lock(), RunState::InternalError);
                Next::Wait
            }
        }
    }

    fn powered_off(&self, reason: &str) -> Next {
        // Locked until the state is what the events say: a monitor that acts on the first of them, as
        // libvirt does to make a reboot of it, has to find it so.
        let mut state = self.lock();
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
        let mut state = self.lock();
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

    /// `stop`: pauses a guest that runs.
    pub fn stop(&self) {
        let mut state = self.lock();
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
    /// When the guest's run is over.
    pub fn cont(&self) -> Result<(), ResetRequired> {
        let mut state = self.lock();
        if state.run.is_over() {
            return Err(ResetRequired);
        }
        if state.run == RunState::Running {
            return Ok(());
        }
        state.run = RunState::Running;
        // Before the first instruction that runs again.
        self.events.send("RESUME", &Value::Null);
        if let Some(controls) = &state.controls {
            controls.resume();
        }
        Ok(())
    }

    /// `system_reset`: has the machine start again. One that does not run then waits for `cont`.
    pub fn reset(&self) {
        let mut state = self.lock();
        if state.run != RunState::Running {
            state.run = RunState::Prelaunch;
        }
        // What a monitor says from now on is meant for the next machine.
        state.controls = None;
        Self::end(&mut state, End::Reset);
    }

    /// `system_powerdown`: asks the guest to power off.
    pub fn power_down(&self) {
        let state = self.lock();
        self.events.send("POWERDOWN", &Value::Null);
        if let Some(controls) = &state.controls {
            controls.request_shutdown();
        }
    }

    /// `quit`: ends the process.
    pub fn quit(&self) {
        Self::end(&mut self.lock(), End::Quit);
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::EventSource;
    use super::*;

    struct Recorder(Arc<Mutex<Vec<&'static str>>>);

    impl Controls for Recorder {
        fn pause(&self) {
            self.0.lock().expect("no panic").push("pause");
        }

        fn resume(&self) {
            self.0.lock().expect("no panic").push("resume");
        }

        fn request_shutdown(&self) {
            self.0.lock().expect("no panic").push("request_shutdown");
        }
    }

    struct Fixture {
        guest: GuestState,
        source: EventSource,
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Fixture {
        fn new(no_shutdown: bool, starts_paused: bool) -> Self {
            let (events, source) = super::super::events::channel().expect("eventfd");
            let policy = Policy {
                no_shutdown,
                no_reboot: false,
            };
            Self {
                guest: GuestState::new(policy, starts_paused, events),
                source,
                done: Arc::default(),
            }
        }

        fn machine(&self) -> Arc<Lifecycle> {
            let lifecycle = Arc::new(Lifecycle::new().expect("eventfd"));
            let controls = Recorder(Arc::clone(&self.done));
            self.guest.attach(&lifecycle, Box::new(controls));
            lifecycle
        }

        fn idle(&self) -> Arc<Lifecycle> {
            let lifecycle = Arc::new(Lifecycle::new().expect("eventfd"));
            self.guest.attach_idle(&lifecycle);
            lifecycle
        }

        fn done(&self) -> Vec<&'static str> {
            std::mem::take(&mut *self.done.lock().expect("no panic"))
        }

        /// Names of the events that were sent.
        fn events(&self) -> Vec<String> {
            let name = |event: Value| event["event"].as_str().expect("a name").to_owned();
            self.source.take().into_iter().map(name).collect()
        }
    }

    #[test]
    fn a_guest_is_started_paused_and_resumed() {
        let fixture = Fixture::new(true, true);
        let _lifecycle = fixture.machine();
        assert_eq!(fixture.guest.run_state(), RunState::Prelaunch);
        assert_eq!(fixture.done(), ["pause"]);
        fixture.guest.cont().expect("can go on");
        fixture.guest.cont().expect("goes on");
        fixture.guest.stop();
        fixture.guest.stop();
        assert_eq!(fixture.done(), ["resume", "pause"]);
        assert_eq!(fixture.events(), ["RESUME", "STOP"]);
        assert_eq!(fixture.guest.run_state(), RunState::Paused);
        fixture.guest.power_down();
        assert_eq!(fixture.done(), ["request_shutdown"]);
    }

    #[test]
    fn a_guest_that_powered_off_can_be_reset_and_started_at_once() {
        let fixture = Fixture::new(true, false);
        let lifecycle = fixture.machine();
        fixture.done();
        lifecycle.end(End::PowerOff);
        fixture.guest.detach();
        assert_eq!(fixture.guest.ended(&End::PowerOff), Next::Wait);
        let idle = fixture.idle();
        assert_eq!(fixture.guest.run_state(), RunState::Shutdown);
        assert_eq!(fixture.guest.cont(), Err(ResetRequired));
        fixture.guest.reset();
        assert_eq!(idle.ended(), Some(End::Reset));
        // Before the next machine is there.
        fixture.guest.cont().expect("after the reset");
        fixture.guest.detach();
        assert_eq!(fixture.guest.ended(&End::Reset), Next::Restart);
        assert!(!fixture.guest.starts_paused());
        let _next = fixture.machine();
        assert_eq!(fixture.done(), ["resume"]);
        assert_eq!(fixture.events(), ["SHUTDOWN", "STOP", "RESUME", "RESET"]);
    }

    #[test]
    fn a_reset_of_a_paused_guest_leaves_it_waiting() {
        let fixture = Fixture::new(true, false);
        let lifecycle = fixture.machine();
        fixture.guest.stop();
        fixture.guest.reset();
        assert_eq!(lifecycle.ended(), Some(End::Reset));
        assert!(fixture.guest.starts_paused());
        assert_eq!(fixture.guest.run_state(), RunState::Prelaunch);
    }

    #[test]
    fn what_is_asked_between_two_machines_is_not_lost() {
        let fixture = Fixture::new(true, false);
        fixture.machine();
        fixture.guest.detach();
        fixture.guest.quit();
        fixture.guest.reset();
        assert_eq!(fixture.machine().ended(), Some(End::Quit));
    }

    #[test]
    fn a_quit_in_the_moment_of_a_reboot_ends_the_next_machine() {
        let fixture = Fixture::new(true, false);
        let lifecycle = fixture.machine();
        lifecycle.end(End::Reboot);
        fixture.guest.reset();
        fixture.guest.quit();
        fixture.guest.detach();
        assert_eq!(fixture.guest.ended(&End::Reboot), Next::Restart);
        assert_eq!(fixture.machine().ended(), Some(End::Quit));
    }

    #[test]
    fn a_second_reset_in_the_moment_of_the_first_makes_no_third_machine() {
        let fixture = Fixture::new(true, false);
        let lifecycle = fixture.machine();
        fixture.guest.reset();
        fixture.guest.reset();
        assert_eq!(lifecycle.ended(), Some(End::Reset));
        fixture.guest.detach();
        assert_eq!(fixture.machine().ended(), None);
    }

    #[test]
    fn a_reset_while_a_guest_that_powered_off_is_taken_down_leaves_the_next_one_waiting() {
        let fixture = Fixture::new(true, false);
        let lifecycle = fixture.machine();
        lifecycle.end(End::PowerOff);
        fixture.guest.detach();
        fixture.guest.reset();
        assert_eq!(fixture.guest.ended(&End::PowerOff), Next::Wait);
        assert_eq!(fixture.guest.run_state(), RunState::Prelaunch);
        assert_eq!(fixture.idle().ended(), Some(End::Reset));
        fixture.guest.cont().expect("after the reset");
    }

    #[test]
    fn a_guest_that_crashed_is_told_of_and_kept_or_not() {
        let fixture = Fixture::new(true, false);
        let crash = End::OsTerm("panic".to_owned());
        assert_eq!(fixture.guest.ended(&crash), Next::Wait);
        assert_eq!(fixture.guest.run_state(), RunState::GuestPanicked);
        assert_eq!(fixture.events(), ["GUEST_PANICKED", "STOP"]);
        let fixture = Fixture::new(false, false);
        assert_eq!(fixture.guest.ended(&crash), Next::Exit);
        assert_eq!(fixture.events(), ["GUEST_PANICKED", "STOP", "SHUTDOWN"]);
    }

    #[test]
    fn without_no_shutdown_a_power_off_ends_the_process() {
        let fixture = Fixture::new(false, false);
        assert_eq!(fixture.guest.ended(&End::PowerOff), Next::Exit);
        assert_eq!(fixture.guest.ended(&End::Asked("SIGTERM")), Next::Exit);
        assert_eq!(fixture.guest.ended(&End::Quit), Next::Exit);
        assert_eq!(fixture.events(), ["SHUTDOWN", "SHUTDOWN", "SHUTDOWN"]);
    }
}
