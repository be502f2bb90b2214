use super::super::events::EventSource;
use super::*;
use crate::dump::tests::snapshot;

struct Recorder(Arc<Mutex<Vec<&'static str>>>);

impl Controls for Recorder {
    fn pause(&self) {
        self.0.lock().push("pause");
    }

    fn resume(&self) {
        self.0.lock().push("resume");
    }

    fn request_shutdown(&self) {
        self.0.lock().push("request_shutdown");
    }

    fn system_reset(&self) {
        self.0.lock().push("system_reset");
    }

    fn snapshot(&self) -> Option<Snapshot> {
        Some(snapshot())
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
        std::mem::take(&mut *self.done.lock())
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
    assert_eq!(fixture.guest.cont(), Err(WrongTime::ResetRequired));
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
    let crash = End::OsTerm(Some("panic".to_owned()));
    assert_eq!(fixture.guest.ended(&crash), Next::Wait);
    assert_eq!(fixture.guest.run_state(), RunState::GuestPanicked);
    assert_eq!(fixture.events(), ["GUEST_PANICKED", "STOP"]);
    let fixture = Fixture::new(false, false);
    assert_eq!(fixture.guest.ended(&crash), Next::Exit);
    assert_eq!(fixture.events(), ["GUEST_PANICKED", "STOP", "SHUTDOWN"]);
}

fn cancel() -> Arc<Cancel> {
    Arc::new(Cancel::new().expect("eventfd"))
}

#[test]
fn a_guest_that_runs_stands_still_while_it_is_dumped_and_goes_on() {
    let fixture = Fixture::new(true, false);
    let _lifecycle = fixture.machine();
    fixture.done();
    let snapshot = fixture.guest.hold_for_dump(&cancel()).expect("runs");
    assert_eq!(snapshot.processors.len(), 2);
    assert_eq!(fixture.guest.run_state(), RunState::SaveVm);
    assert_eq!(fixture.guest.cont(), Err(WrongTime::BeingDumped));
    let second = fixture.guest.hold_for_dump(&cancel());
    assert_eq!(second.err(), Some(WrongTime::BeingDumped));
    assert_eq!(fixture.done(), ["pause"]);
    fixture.guest.dumped();
    assert_eq!(fixture.guest.run_state(), RunState::Running);
    assert_eq!(fixture.done(), ["resume"]);
    assert_eq!(fixture.events(), ["STOP", "RESUME"]);
}

#[test]
fn a_guest_that_is_paused_stays_so_when_it_has_been_dumped() {
    let fixture = Fixture::new(true, false);
    let _lifecycle = fixture.machine();
    fixture.guest.stop();
    fixture.done();
    fixture.guest.hold_for_dump(&cancel()).expect("is there");
    assert_eq!(fixture.guest.cont(), Err(WrongTime::BeingDumped));
    fixture.guest.dumped();
    assert_eq!(fixture.guest.run_state(), RunState::Paused);
    // Paused while it is dumped.
    fixture.guest.cont().expect("can go on");
    fixture.guest.hold_for_dump(&cancel()).expect("runs");
    fixture.guest.stop();
    fixture.guest.dumped();
    assert_eq!(fixture.guest.run_state(), RunState::Paused);
    assert_eq!(fixture.done(), ["resume", "pause"]);
    assert_eq!(fixture.events(), ["STOP", "RESUME", "STOP"]);
}

#[test]
fn a_machine_is_not_taken_down_before_its_dump_has_ended() {
    let fixture = Fixture::new(true, false);
    let _lifecycle = fixture.machine();
    let cancel = cancel();
    fixture.guest.hold_for_dump(&cancel).expect("runs");
    fixture.guest.reset();
    std::thread::scope(|scope| {
        let taken_down = scope.spawn(|| fixture.guest.detach());
        while !cancel.is_cancelled() {
            std::thread::yield_now();
        }
        assert!(!taken_down.is_finished());
        fixture.guest.dumped();
    });
    // It would have gone on after the dump, and does after the reset.
    assert!(!fixture.guest.starts_paused());
    assert_eq!(fixture.events(), ["STOP", "RESUME"]);
}

#[test]
fn a_guest_that_crashed_is_kept_as_it_is_and_can_be_dumped() {
    let fixture = Fixture::new(true, false);
    let _lifecycle = fixture.machine();
    assert!(fixture.guest.keeps_crashed());
    fixture.done();
    let crash = End::OsTerm(Some("panic".to_owned()));
    assert_eq!(fixture.guest.ended(&crash), Next::Wait);
    assert_eq!(fixture.done(), ["pause"]);
    let idle = fixture.idle();
    fixture.guest.hold_for_dump(&cancel()).expect("is kept");
    fixture.guest.dumped();
    assert_eq!(fixture.guest.run_state(), RunState::GuestPanicked);
    assert_eq!(fixture.guest.inject_nmi(), Err(WrongTime::Crashed));
    fixture.guest.reset();
    assert_eq!(idle.ended(), Some(End::Reset));
    let dumped = fixture.guest.hold_for_dump(&cancel());
    assert_eq!(dumped.err(), Some(WrongTime::Off));
    fixture.guest.detach();
    assert_eq!(fixture.events(), ["GUEST_PANICKED", "STOP"]);
    assert!(fixture.done().is_empty());
}

#[test]
fn a_guest_that_is_there_takes_a_system_reset_and_one_that_is_off_does_not() {
    let fixture = Fixture::new(true, false);
    assert_eq!(fixture.guest.inject_nmi(), Err(WrongTime::Off));
    let _lifecycle = fixture.machine();
    fixture.done();
    fixture.guest.inject_nmi().expect("runs");
    assert_eq!(fixture.done(), ["system_reset"]);
}

#[test]
fn without_no_shutdown_a_power_off_ends_the_process() {
    let fixture = Fixture::new(false, false);
    assert_eq!(fixture.guest.ended(&End::PowerOff), Next::Exit);
    assert_eq!(fixture.guest.ended(&End::Asked("SIGTERM")), Next::Exit);
    assert_eq!(fixture.guest.ended(&End::Quit), Next::Exit);
    assert_eq!(fixture.events(), ["SHUTDOWN", "SHUTDOWN", "SHUTDOWN"]);
}

/// Errors of a disk, of which one waits for a pause or none does.
fn errors(stops: bool) -> Heard {
    Heard {
        events: vec![json!({"device": "", "operation": "write"})],
        stops,
    }
}

#[test]
fn a_disks_error_is_told_before_the_guest_is_paused_for_it_and_the_guest_can_go_on_be_reset_and_quit()
 {
    let fixture = Fixture::new(true, false);
    let lifecycle = fixture.machine();
    fixture.done();
    let fail = |stops| {
        let guest = &fixture.guest;
        guest.after_errors(&mut guest.state.lock(), &errors(stops));
    };
    fail(false);
    assert_eq!(fixture.guest.run_state(), RunState::Running);
    assert_eq!(fixture.events(), ["BLOCK_IO_ERROR"]);
    fail(true);
    assert_eq!(fixture.guest.run_state(), RunState::IoError);
    assert_eq!(fixture.events(), ["BLOCK_IO_ERROR", "STOP"]);
    assert_eq!(fixture.done(), ["pause"]);
    // A pause by the user changes nothing, nor does a second error.
    fixture.guest.stop();
    fail(true);
    assert_eq!(fixture.guest.run_state(), RunState::IoError);
    assert_eq!(fixture.events(), ["BLOCK_IO_ERROR"]);
    fixture.guest.cont().expect("can go on");
    assert_eq!(fixture.guest.run_state(), RunState::Running);
    assert_eq!(fixture.events(), ["RESUME"]);
    fail(true);
    assert_eq!(fixture.events(), ["BLOCK_IO_ERROR", "STOP"]);
    fixture.guest.reset();
    assert_eq!(lifecycle.ended(), Some(End::Reset));
    assert_eq!(fixture.guest.run_state(), RunState::Prelaunch);
    fixture.guest.detach();
    // Of the life that is over.
    fail(true);
    let next = fixture.machine();
    assert_eq!(fixture.guest.run_state(), RunState::Prelaunch);
    fixture.guest.cont().expect("can go on");
    fail(true);
    fixture.guest.quit();
    assert_eq!(next.ended(), Some(End::Quit));
}

#[test]
fn a_disks_error_during_a_dump_keeps_the_guest_from_going_on_after_it() {
    let fixture = Fixture::new(true, false);
    let _lifecycle = fixture.machine();
    let cancel = Arc::new(Cancel::new().expect("eventfd"));
    fixture.guest.hold_for_dump(&cancel).expect("a guest");
    let guest = &fixture.guest;
    guest.after_errors(&mut guest.state.lock(), &errors(true));
    guest.dumped();
    assert_eq!(guest.run_state(), RunState::IoError);
    guest.cont().expect("can go on");
    assert_eq!(guest.run_state(), RunState::Running);
}
