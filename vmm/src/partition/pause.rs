//! Pausing all processors at once, and letting them go on.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Whether processors may be in the guest, and how many are.
///
/// A thread that pauses them sets the flag, makes all of them leave the guest, and waits until none
/// is in it. A processor looks at the flag before it enters the guest and whenever it was made to
/// leave it.
#[derive(Debug)]
pub struct Pause {
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a processor is to leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The machine is paused: whoever paused it may look at the processor.
    Pause,
    /// Another processor is alone for a moment.
    StepAside,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    /// A processor does something while no other is in the guest.
    alone: bool,
    /// How many do, wait for their turn, or wait for the end of that: none of them is in the guest, and none
    /// rests as a paused one does.
    busy: u32,
    over: bool,
    in_guest: u32,
    /// Ticks of the time base that the guest is not to see.
    hidden_ticks: u64,
    paused_at: u64,
}

impl State {
    /// Counts one in again that was busy.
    const fn step_in(&mut self) {
        self.busy -= 1;
        self.in_guest += 1;
    }
}

impl Pause {
    /// Processors that may run, or may not yet; `now` is the host's time base.
    pub fn new(paused: bool, now: u64) -> Self {
        let state = State {
            wanted: paused,
            paused_at: now,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits until a processor may enter the guest, and counts it in. Returns how many ticks of the
    /// time base the guest is not to see; `None` when the machine's run is over.
    ///
    /// For the processor's own thread, which calls [`Pause::leave`] when it is done.
    pub fn enter(&self) -> Option<u64> {
        let mut state = self.lock();
        let must_wait = |state: &mut State| (state.wanted || state.alone) && !state.over;
        self.changed.wait_while(&mut state, must_wait);
        if state.over {
            return None;
        }
        state.in_guest += 1;
        Some(state.hidden_ticks)
    }

    /// Counts a processor out.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.in_guest = state.in_guest.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }

    /// Why processors are to leave the guest, if they are.
    pub fn wanted(&self) -> Option<Wanted> {
        let state = self.lock();
        match (state.wanted, state.alone) {
            (true, _) => Some(Wanted::Pause),
            (false, true) => Some(Wanted::StepAside),
            (false, false) => None,
        }
    }

    /// Stays out of the guest while another processor is alone; for [`Wanted::StepAside`], between
    /// [`Pause::enter`] and [`Pause::leave`].
    pub fn step_aside(&self) {
        let mut state = self.lock();
        self.step_out(&mut state);
        state.step_in();
    }

    /// Does `work` while no other processor is in the guest, or nothing once the run is over: some may not have
    /// left it then. For a processor's thread, between
    /// [`Pause::enter`] and [`Pause::leave`] and holding no lock that another processor waits for. `kick`
    /// makes those that are in the guest look up. Those who want to be alone at once take turns, and whoever
    /// pauses the machine waits for all of them.
    pub fn alone<T>(&self, kick: impl FnOnce(), work: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.lock();
            self.step_out(&mut state);
            state.alone = true;
        }
        kick();
        let is_over = {
            let mut state = self.lock();
            let is_inside = |state: &mut State| state.in_guest != 0 && !state.over;
            self.changed.wait_while(&mut state, is_inside);
            state.over
        };
        let done = (!is_over).then(work);
        let mut state = self.lock();
        state.alone = false;
        state.step_in();
        drop(state);
        self.changed.notify_all();
        done
    }

    /// Counts a processor out of the guest, and waits until no other is alone.
    fn step_out(&self, state: &mut MutexGuard<'_, State>) {
        state.in_guest = state.in_guest.saturating_sub(1);
        state.busy += 1;
        self.changed.notify_all();
        let must_wait = |state: &mut State| state.alone && !state.over;
        self.changed.wait_while(state, must_wait);
    }

    /// Makes all processors stay out of the guest; `kick` makes those that are in it look up, and
    /// `now` reads the host's time base. Returns when none is in it, or the run is over. False when
    /// they were paused already.
    pub fn pause(&self, kick: impl FnOnce(), now: impl FnOnce() -> u64) -> bool {
        {
            let mut state = self.lock();
            if state.wanted {
                return false;
            }
            state.wanted = true;
        }
        kick();
        let mut state = self.lock();
        let is_inside = |state: &mut State| (state.in_guest != 0 || state.busy != 0) && !state.over;
        self.changed.wait_while(&mut state, is_inside);
        state.paused_at = now();
        true
    }

    /// Lets all processors enter the guest; `now` is the host's time base. False when they were not
    /// paused.
    pub fn resume(&self, now: u64) -> bool {
        let mut state = self.lock();
        if !state.wanted {
            return false;
        }
        state.wanted = false;
        let paused_ticks = now.wrapping_sub(state.paused_at);
        state.hidden_ticks = state.hidden_ticks.wrapping_add(paused_ticks);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Ends all waits: the machine's run is over.
    pub fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_done_alone_once_the_run_is_over_as_others_may_be_in_the_guest() {
        let pause = Pause::new(false, 0);
        // Two processors, of which one does not look up.
        pause.enter();
        pause.enter();
        pause.end();
        let done = pause.alone(|| {}, || panic!("another is in the guest"));
        assert_eq!(done, None::<()>);
    }

    #[test]
    fn a_pause_returns_when_no_processor_is_in_the_guest() {
        let pause = Pause::new(false, 0);
        let rounds = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(_hidden) = pause.enter() {
                        // In the guest until it is made to leave.
                        while pause.wanted().is_none() && !done.load(Ordering::SeqCst) {
                            rounds.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                        }
                        pause.leave();
                    }
                });
            }
            for now in 0..50 {
                assert!(pause.pause(|| {}, || 100 * now));
                assert!(!pause.pause(|| {}, || 0), "twice");
                let before = rounds.load(Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
                assert_eq!(rounds.load(Ordering::SeqCst), before, "one runs");
                assert!(pause.resume(100 * now + 10));
                while rounds.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::SeqCst);
            pause.end();
        });
        assert_eq!(pause.lock().hidden_ticks, 500);
    }

    #[test]
    fn who_is_alone_finds_no_other_in_the_guest_and_no_one_who_paused_it() {
        let pause = Pause::new(false, 0);
        let (inside, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let turns = [const { AtomicU64::new(0) }; 4];
        thread::scope(|scope| {
            for own_turns in &turns {
                scope.spawn(|| {
                    let work = || {
                        for _ in 0..10 {
                            let none = inside.load(Ordering::SeqCst) == 0;
                            // At the end nobody waits for anyone.
                            assert!(none || done.load(Ordering::SeqCst));
                            thread::yield_now();
                        }
                        own_turns.fetch_add(1, Ordering::SeqCst);
                    };
                    while let Some(_hidden) = pause.enter() {
                        // Hypercalls, until it is made to leave.
                        while !done.load(Ordering::SeqCst) {
                            match pause.wanted() {
                                None => {
                                    inside.fetch_add(1, Ordering::SeqCst);
                                    thread::yield_now();
                                    inside.fetch_sub(1, Ordering::SeqCst);
                                    pause.alone(|| (), work);
                                }
                                Some(Wanted::StepAside) => pause.step_aside(),
                                Some(Wanted::Pause) => break,
                            }
                        }
                        pause.leave();
                    }
                });
            }
            let sum = || -> u64 { turns.iter().map(|it| it.load(Ordering::SeqCst)).sum() };
            for now in 0..50 {
                assert!(pause.pause(|| {}, || now));
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                let before = sum();
                thread::sleep(Duration::from_millis(1));
                assert_eq!(sum(), before, "someone works in a paused machine");
                assert!(pause.resume(now));
                while sum() == before {
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::SeqCst);
            pause.end();
        });
    }

    #[test]
    fn a_machine_that_starts_paused_waits() {
        let pause = Pause::new(true, 7);
        thread::scope(|scope| {
            let processor = scope.spawn(|| pause.enter());
            thread::sleep(Duration::from_millis(20));
            assert!(!processor.is_finished());
            assert!(pause.resume(9));
            assert_eq!(processor.join().expect("no panic"), Some(2));
        });
        assert!(!pause.resume(9), "not paused");
    }

    #[test]
    fn the_end_wakes_everyone() {
        let pause = Pause::new(true, 0);
        thread::scope(|scope| {
            let processor = scope.spawn(|| pause.enter());
            pause.end();
            assert_eq!(processor.join().expect("no panic"), None);
        });
        let stuck = Pause::new(false, 0);
        assert_eq!(stuck.enter(), Some(0));
        thread::scope(|scope| {
            let pauser = scope.spawn(|| stuck.pause(|| {}, || 0));
            stuck.end();
            assert!(pauser.join().expect("no panic"));
        });
    }
}
