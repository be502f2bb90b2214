use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::slice;

use super::*;

/// All that happens, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn all(&self) -> String {
        self.0.borrow().join(", ")
    }
}

/// Machines that are numbered; what they keep is the number of the last one.
struct FakeMachines {
    log: Log,
    /// The number of the machine that cannot be made, started, or given back.
    not_made: Option<u32>,
    not_started: Option<u32>,
    not_given_back: Option<u32>,
    /// How machines end that were not waited for.
    end: End,
    ends: Rc<RefCell<Vec<End>>>,
}

impl Machines for FakeMachines {
    type Machine = u32;
    type Running = u32;
    type Kept = u32;
    type Error = String;

    fn make_again(&mut self, kept: u32) -> Result<u32, String> {
        let next = kept + 1;
        self.log.note(format!("make {next} of {kept}"));
        match self.not_made {
            Some(number) if number == next => Err(format!("{next} not made")),
            _ => Ok(next),
        }
    }

    fn start(&mut self, machine: u32, paused: bool) -> Result<u32, String> {
        let how = if paused { " paused" } else { "" };
        self.log.note(format!("start {machine}{how}"));
        match self.not_started {
            Some(number) if number == machine => Err(format!("{machine} not started")),
            _ => Ok(machine),
        }
    }

    fn stop(&mut self, running: u32) -> (End, Result<u32, String>) {
        self.log.note(format!("stop {running}"));
        let end = self.ends.borrow().last().unwrap_or(&self.end).clone();
        match self.not_given_back {
            Some(number) if number == running => (end, Err(format!("{running} not given back"))),
            _ => (end, Ok(running)),
        }
    }

    fn count_reboot(&mut self) {
        self.log.note("count");
    }
}

/// Ends what runs as `ends` says, one after the other, and what is waited for otherwise as `said` does. A
/// front end with `waits` waits after a power-off and keeps a machine that crashed.
struct FakeFrontEnd {
    log: Log,
    ends: VecDeque<Result<End, String>>,
    said: VecDeque<Result<End, String>>,
    ended: Rc<RefCell<Vec<End>>>,
    paused: bool,
    waits: bool,
}

impl FrontEnd<FakeMachines> for FakeFrontEnd {
    type Error = String;

    fn starts_paused(&self) -> bool {
        self.paused
    }

    fn attach(&mut self, running: &u32) {
        self.log.note(format!("attach {running}"));
    }

    fn wait(&mut self, running: &mut u32) -> Result<End, String> {
        self.log.note(format!("wait {running}"));
        let end = self.ends.pop_front().expect("one life more than expected");
        if let Ok(end) = &end {
            self.ended.borrow_mut().push(end.clone());
        }
        end
    }

    fn keeps(&self, end: &End) -> bool {
        self.waits && matches!(end, End::OsTerm(_))
    }

    fn detach(&mut self) {
        self.log.note("detach");
    }

    fn not_given_back(&mut self, end: &End, error: &String) {
        self.log.note(format!("told after {end:?}: {error}"));
    }

    fn ended(&mut self, end: &End) -> Next {
        self.log.note(format!("{end:?}"));
        match end {
            End::Reboot | End::Reset => Next::Restart,
            End::PowerOff | End::OsTerm(_) if self.waits => Next::Wait,
            _ => Next::Exit,
        }
    }

    fn wait_while_none_runs(&mut self) -> Result<End, String> {
        self.log.note("idle");
        self.said.pop_front().expect("nothing is waited for")
    }
}

struct Fixture {
    log: Log,
    machines: FakeMachines,
    front_end: FakeFrontEnd,
}

impl Fixture {
    /// Machines that end so.
    fn ends(ends: &[End]) -> Self {
        let (log, ended) = (Log::default(), Rc::<RefCell<Vec<End>>>::default());
        let machines = FakeMachines {
            log: log.clone(),
            not_made: None,
            not_started: None,
            not_given_back: None,
            end: End::Asked("the control plane"),
            ends: Rc::clone(&ended),
        };
        let front_end = FakeFrontEnd {
            log: log.clone(),
            ends: ends.iter().cloned().map(Ok).collect(),
            said: VecDeque::new(),
            ended,
            paused: false,
            waits: false,
        };
        Self {
            log,
            machines,
            front_end,
        }
    }

    /// And a front end that waits for this when one has powered off or crashed.
    fn and_waits_for(mut self, said: &[End]) -> Self {
        self.front_end.waits = true;
        self.front_end.said = said.iter().cloned().map(Ok).collect();
        self
    }

    /// Lives it all; fails unless everything happens in this order.
    #[track_caller]
    fn live(mut self, order: &[&str]) -> Result<End, LifeError<String, String>> {
        let result = live(&mut self.machines, &mut self.front_end, 1);
        assert_eq!(self.log.all(), order.join(", "));
        assert!(self.front_end.ends.is_empty(), "a life is missing");
        assert!(self.front_end.said.is_empty(), "nobody listened");
        result
    }
}

/// What happens in a life, up to where the machine has been taken down.
const LIFE_1: &str = "start 1, attach 1, wait 1, detach, stop 1";
const LIFE_2: &str = "start 2, attach 2, wait 2, detach, stop 2";
const MAKE_2: &str = "count, make 2 of 1";

#[test]
fn a_guest_that_powers_off_has_one_life() {
    let ended = Fixture::ends(&[End::PowerOff]).live(&[LIFE_1, "PowerOff"]);
    assert_eq!(ended, Ok(End::PowerOff));
    assert_eq!(outcome(&ended), "power-off");
}

#[test]
fn a_reboot_takes_over_what_the_last_life_kept_once_that_is_taken_down() {
    for reboot in [End::Reboot, End::Reset] {
        let said = format!("{reboot:?}");
        let ended =
            Fixture::ends(&[reboot, End::Left]).live(&[LIFE_1, &said, MAKE_2, LIFE_2, "Left"]);
        assert_eq!(ended, Ok(End::Left));
        assert_eq!(outcome(&ended), "quit");
    }
}

#[test]
fn a_crash_a_signal_and_a_failed_processor_end_it_and_are_the_outcome() {
    let failed = End::Failed("no".to_owned());
    for (end, word) in [
        (End::OsTerm(None), "os-term"),
        (End::Asked("SIGTERM"), "signal"),
        (End::Quit, "quit"),
        (failed, "error"),
    ] {
        let ended = Fixture::ends(slice::from_ref(&end)).live(&[LIFE_1, &format!("{end:?}")]);
        assert_eq!(outcome(&ended), word);
        assert_eq!(ended, Ok(end));
    }
}

#[test]
fn a_machine_that_is_to_start_paused_does_in_every_life() {
    let mut fixture = Fixture::ends(&[End::Reset, End::Quit]);
    fixture.front_end.paused = true;
    let ended = fixture.live(&[
        &LIFE_1.replace("start 1", "start 1 paused"),
        "Reset",
        MAKE_2,
        &LIFE_2.replace("start 2", "start 2 paused"),
        "Quit",
    ]);
    assert_eq!(ended, Ok(End::Quit));
}

#[test]
fn a_machine_that_is_off_waits_taken_down_and_starts_again_or_ends() {
    let reset = Fixture::ends(&[End::PowerOff, End::Quit])
        .and_waits_for(&[End::Reset])
        .live(&[LIFE_1, "PowerOff, idle, Reset", MAKE_2, LIFE_2, "Quit"]);
    assert_eq!(reset, Ok(End::Quit));
    let quit = Fixture::ends(&[End::PowerOff])
        .and_waits_for(&[End::PowerOff, End::Quit])
        .live(&[LIFE_1, "PowerOff, idle, PowerOff, idle, Quit"]);
    assert_eq!(quit, Ok(End::PowerOff), "how the guest ended");
    assert_eq!(outcome(&quit), "power-off");
}

#[test]
fn a_crashed_machine_is_kept_until_someone_says_what_is_next() {
    let crash = || End::OsTerm(None);
    let kept = "start 1, attach 1, wait 1, OsTerm(None), idle, detach, stop 1";
    let reset = Fixture::ends(&[crash(), End::PowerOff])
        .and_waits_for(&[End::Reset, End::Quit])
        .live(&[kept, "Reset", MAKE_2, LIFE_2, "PowerOff, idle, Quit"]);
    assert_eq!(reset, Ok(End::PowerOff));
    let quit = Fixture::ends(&[crash()])
        .and_waits_for(&[End::Quit])
        .live(&[kept, "Quit"]);
    assert_eq!(quit, Ok(crash()));
    assert_eq!(outcome(&quit), "os-term");
}

#[test]
fn a_first_life_that_does_not_start_is_told_apart_from_a_later_one() {
    let mut first = Fixture::ends(&[]);
    first.machines.not_started = Some(1);
    let ended = first.live(&["start 1"]);
    assert_eq!(ended, Err(LifeError::Start("1 not started".to_owned())));
    let mut later = Fixture::ends(&[End::Reboot]);
    later.machines.not_started = Some(2);
    let ended = later.live(&[LIFE_1, "Reboot", MAKE_2, "start 2"]);
    assert_eq!(ended, Err(LifeError::Again("2 not started".to_owned())));
    let mut later = Fixture::ends(&[End::Reboot]);
    later.machines.not_made = Some(2);
    let ended = later.live(&[LIFE_1, "Reboot", MAKE_2]);
    assert_eq!(ended, Err(LifeError::Again("2 not made".to_owned())));
    assert_eq!(outcome(&ended), "error");
}

#[test]
fn no_life_follows_a_machine_that_was_not_given_back_whole() {
    let mut fixture = Fixture::ends(&[End::Reboot]);
    fixture.machines.not_given_back = Some(1);
    let ended = fixture.live(&[LIFE_1, "told after Reboot: 1 not given back, Reboot"]);
    let source = "1 not given back".to_owned();
    assert_eq!(ended, Err(LifeError::NotGivenBack(source.clone())));
    // Nor when it is off for a while before.
    let mut fixture = Fixture::ends(&[End::PowerOff]).and_waits_for(&[End::Reset]);
    fixture.machines.not_given_back = Some(1);
    let told = "told after PowerOff: 1 not given back, PowerOff, idle, Reset";
    let ended = fixture.live(&[LIFE_1, told]);
    assert_eq!(ended, Err(LifeError::NotGivenBack(source)));
}

#[test]
fn the_end_of_one_that_was_not_given_back_whole_is_known() {
    for (end, word) in [
        (End::PowerOff, "error"),
        (End::Left, "error"),
        (End::OsTerm(None), "os-term"),
        (End::Asked("SIGTERM"), "signal"),
    ] {
        let mut fixture = Fixture::ends(slice::from_ref(&end));
        fixture.machines.not_given_back = Some(1);
        let told = format!("told after {end:?}: 1 not given back, {end:?}");
        let ended = fixture.live(&[LIFE_1, &told]);
        let source = "1 not given back".to_owned();
        assert_eq!(outcome(&ended), word);
        assert_eq!(ended, Err(LifeError::LeftBehind { end, source }));
    }
}

#[test]
fn a_machine_is_taken_down_when_its_front_end_cannot_wait_for_its_end() {
    let mut fixture = Fixture::ends(&[]);
    fixture.front_end.ends.push_back(Err("deaf".to_owned()));
    let ended = fixture.live(&[LIFE_1]);
    assert_eq!(ended, Err(LifeError::FrontEnd("deaf".to_owned())));
    // Also one that is kept.
    let mut fixture = Fixture::ends(&[End::OsTerm(None)]).and_waits_for(&[]);
    fixture.front_end.said.push_back(Err("deaf".to_owned()));
    let kept = "start 1, attach 1, wait 1, OsTerm(None), idle, detach, stop 1";
    let ended = fixture.live(&[kept]);
    assert_eq!(ended, Err(LifeError::FrontEnd("deaf".to_owned())));
    // And the next life does not start.
    let mut fixture = Fixture::ends(&[End::PowerOff]).and_waits_for(&[]);
    fixture.front_end.said.push_back(Err("deaf".to_owned()));
    let ended = fixture.live(&[LIFE_1, "PowerOff, idle"]);
    assert_eq!(ended, Err(LifeError::FrontEnd("deaf".to_owned())));
}

/// Told to quit while its first life is yet to begin, it starts and ends at once, as what was said is kept
/// for it; while the next one is made, likewise.
#[test]
fn what_is_said_while_a_machine_starts_ends_that_life() {
    let ended = Fixture::ends(&[End::Quit]).live(&[LIFE_1, "Quit"]);
    assert_eq!(ended, Ok(End::Quit));
    let ended =
        Fixture::ends(&[End::Reboot, End::Quit]).live(&[LIFE_1, "Reboot", MAKE_2, LIFE_2, "Quit"]);
    assert_eq!(ended, Ok(End::Quit));
}
