//! The loop of a machine's lives.
//!
//! One life, in this order; a test holds each step to its place:
//!
//! 1. The machine starts, paused if the front end says so.
//! 2. The front end is given it, and waits for its end.
//! 3. If its guest has crashed and the front end keeps such a machine, the front end says what is next while
//!    the machine is still there.
//! 4. The front end lets go of it, and it is taken down: also when waiting failed.
//! 5. The front end says what is next: nothing, the next life, or to wait until someone says so.
//! 6. The next life takes over what the last one kept, and none starts after one that was not given back
//!    whole: what the host still has of it could reach into the next.

use crate::lifecycle::End;

/// What is next when a machine's run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The machine's next life.
    Restart,
    /// Waiting for what someone says.
    Wait,
    /// The end.
    Exit,
}

/// How machines are made, run and taken down.
pub trait Machines {
    /// A machine whose guest is loaded and has not started.
    type Machine;
    /// A machine whose guest runs.
    type Running;
    /// What a machine has that its next life takes over.
    type Kept;
    /// Why one of this failed.
    type Error;

    /// Makes the machine again from what its last life kept.
    ///
    /// # Errors
    /// When it cannot be made; what was kept has been given back then.
    fn make_again(&mut self, kept: Self::Kept) -> Result<Self::Machine, Self::Error>;

    /// Starts the guest, or has it wait if it starts `paused`.
    ///
    /// # Errors
    /// When it cannot start; all has been given back then.
    fn start(&mut self, machine: Self::Machine, paused: bool)
    -> Result<Self::Running, Self::Error>;

    /// Takes a machine down, whether its run has ended or not. Returns how it ended, and what is kept of it
    /// if all the rest could be given back.
    fn stop(&mut self, running: Self::Running) -> (End, Result<Self::Kept, Self::Error>);

    /// Counts a reboot.
    fn count_reboot(&mut self);
}

/// Who runs a machine: where it is told what to do, and tells how it ended.
pub trait FrontEnd<M: Machines> {
    /// Why it cannot go on.
    type Error;

    /// Whether the machine's next life starts paused.
    fn starts_paused(&self) -> bool {
        false
    }

    /// Is given a machine that runs.
    fn attach(&mut self, _running: &M::Running) {}

    /// Waits for the end of the machine's run.
    ///
    /// # Errors
    /// When that cannot be waited for.
    fn wait(&mut self, running: &mut M::Running) -> Result<End, Self::Error>;

    /// Whether a machine that ended so is kept as it is, for others to look at, until they say what is next.
    fn keeps(&self, _end: &End) -> bool {
        false
    }

    /// Lets go of the machine.
    fn detach(&mut self) {}

    /// Is told that the host has not got everything back.
    fn not_given_back(&mut self, _end: &End, _error: &M::Error) {}

    /// Is told of the end of a machine's run, or of what was waited for while none ran; says what is next.
    fn ended(&mut self, end: &End) -> Next;

    /// Waits for what someone says while no machine runs.
    ///
    /// # Errors
    /// When that cannot be waited for.
    fn wait_while_none_runs(&mut self) -> Result<End, Self::Error>;
}

/// Why a machine's lives ended otherwise than by their front end's decision.
#[derive(Debug, PartialEq, Eq)]
pub enum LifeError<M, F> {
    /// The machine did not start.
    Start(M),
    /// The machine did not start again.
    Again(M),
    /// The last life is over, and its machine was not given back whole.
    LeftBehind {
        /// How it ended.
        end: End,
        /// What the host did not get back.
        source: M,
    },
    /// There is to be another life, and the machine of the last one was not given back whole.
    NotGivenBack(M),
    /// The front end cannot go on.
    FrontEnd(F),
}

/// Runs a machine, of which `first` is what starts, until its front end says that it is over. Returns how the
/// last run ended.
///
/// # Errors
/// When the machine cannot start or start again, or was not given back whole, or the front end fails. Nothing
/// runs then.
pub fn live<M: Machines, F: FrontEnd<M>>(
    machines: &mut M,
    front_end: &mut F,
    first: M::Machine,
) -> Result<End, LifeError<M::Error, F::Error>> {
    let mut machine = first;
    let mut is_first = true;
    loop {
        let started = machines.start(machine, front_end.starts_paused());
        let running = started.map_err(if is_first {
            LifeError::Start
        } else {
            LifeError::Again
        })?;
        let (end, next, kept) = live_once(machines, front_end, running)?;
        let mut next = next;
        while next == Next::Wait {
            let said = front_end.wait_while_none_runs();
            next = front_end.ended(&said.map_err(LifeError::FrontEnd)?);
        }
        let kept = match (kept, next) {
            (Ok(_), Next::Exit) => return Ok(end),
            (Err(source), Next::Exit) => return Err(LifeError::LeftBehind { end, source }),
            (Err(source), _) => return Err(LifeError::NotGivenBack(source)),
            (Ok(kept), _) => kept,
        };
        machines.count_reboot();
        machine = machines.make_again(kept).map_err(LifeError::Again)?;
        is_first = false;
    }
}

/// How a life ended, what is next, and what is kept for that.
type Outcome<M> = (
    End,
    Next,
    Result<<M as Machines>::Kept, <M as Machines>::Error>,
);

fn live_once<M: Machines, F: FrontEnd<M>>(
    machines: &mut M,
    front_end: &mut F,
    mut running: M::Running,
) -> Result<Outcome<M>, LifeError<M::Error, F::Error>> {
    front_end.attach(&running);
    let waited = front_end.wait(&mut running);
    let waited = waited.and_then(|end| look_at(front_end, end));
    front_end.detach();
    let (end, kept) = machines.stop(running);
    if let Err(error) = &kept {
        front_end.not_given_back(&end, error);
    }
    let next = match waited.map_err(LifeError::FrontEnd)? {
        Looked::Ended(end) => front_end.ended(&end),
        Looked::Decided(next) => next,
    };
    Ok((end, next, kept))
}

/// What came of a machine's end while the machine was still there.
enum Looked {
    /// The front end is yet to be told of this.
    Ended(End),
    /// The front end has said what is next.
    Decided(Next),
}

/// Lets others look at a machine whose guest has crashed, if the front end keeps it for that.
fn look_at<M: Machines, F: FrontEnd<M>>(front_end: &mut F, end: End) -> Result<Looked, F::Error> {
    if !front_end.keeps(&end) {
        return Ok(Looked::Ended(end));
    }
    match front_end.ended(&end) {
        Next::Wait => front_end.wait_while_none_runs().map(Looked::Ended),
        next => Ok(Looked::Decided(next)),
    }
}

/// How it all went, in one word for the statistics. How a guest has crashed or was ended is the news, also if
/// its machine was not given back whole.
pub fn outcome<M, F>(result: &Result<End, LifeError<M, F>>) -> &'static str {
    let (end, is_whole) = match result {
        Ok(end) => (end, true),
        Err(LifeError::LeftBehind { end, .. }) => (end, false),
        Err(_) => return "error",
    };
    match end {
        End::OsTerm(_) => "os-term",
        End::Asked(_) => "signal",
        End::PowerOff | End::Reboot | End::Reset if is_whole => "power-off",
        End::Left | End::Quit if is_whole => "quit",
        _ => "error",
    }
}

#[cfg(test)]
#[path = "lives_tests.rs"]
mod tests;
