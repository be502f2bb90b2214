//! Two processors that make a hypercall each at the same moment, or one a little later.

use core::hint;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use spapr_test_guests::clock::{Clock, ticks};
use spapr_test_guests::hypercall::{call, number};
use spapr_test_guests::random::Random;
use spapr_test_guests::{processors, rtas};

/// Words that say what a call is.
const WORDS: usize = 8;

/// A hypercall's number and its arguments; of an RTAS call KVMPPC_H_RTAS, the token, how many arguments there
/// are, and those.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call([u64; WORDS]);

impl Call {
    /// H_PUT_TCE.
    pub(crate) fn put(liobn: u32, ioba: u64, tce: u64) -> Self {
        Self([number::H_PUT_TCE, liobn.into(), ioba, tce, 0, 0, 0, 0])
    }

    /// H_STUFF_TCE with 0.
    pub(crate) fn stuff(liobn: u32, ioba: u64, count: u64) -> Self {
        Self([number::H_STUFF_TCE, liobn.into(), ioba, 0, count, 0, 0, 0])
    }

    /// An RTAS service of which nothing but its status is of interest.
    pub(crate) fn service<const N: usize>((token, arguments): (u32, [u32; N])) -> Self {
        let mut words = [0; WORDS];
        [words[0], words[1], words[2]] = [number::KVMPPC_H_RTAS, token.into(), N as u64];
        for (to, argument) in words.iter_mut().skip(3).zip(arguments) {
            *to = argument.into();
        }
        Self(words)
    }

    /// Makes it; its return code, or the status of an RTAS service.
    pub(crate) fn make(self) -> i64 {
        let [number, arguments @ ..] = self.0;
        if number == number::KVMPPC_H_RTAS {
            let words = arguments.map(|word| u32::try_from(word).unwrap_or(0));
            let [token, count, arguments @ ..] = words;
            let mut returns = [u32::MAX; 4];
            let count = usize::try_from(count).unwrap_or(0).min(arguments.len());
            // SAFETY: what devices can reach by windows is for DMA alone; the services for them change no
            // other memory than the returns.
            unsafe { rtas::call(token, &arguments[..count], &mut returns) };
            return returns[0].cast_signed().into();
        }
        let [liobn, ioba, tce, count, ..] = arguments;
        // SAFETY: TCE calls change no memory, and what devices can reach by them is for DMA alone.
        unsafe { call(number, [liobn, ioba, tce, count]) }.code
    }
}

/// What came of one, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// Its return code.
    pub(crate) code: i64,
    /// The time base before it.
    pub(crate) start: u64,
    /// The time base after it.
    pub(crate) end: u64,
}

/// A processor's call, and what came of it.
struct Place {
    call: [AtomicU64; WORDS],
    delay: AtomicU64,
    made: [AtomicU64; 3],
}

static PLACES: [Place; 2] = [const {
    Place {
        call: [const { AtomicU64::new(0) }; WORDS],
        delay: AtomicU64::new(0),
        made: [const { AtomicU64::new(0) }; 3],
    }
}; 2];
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Has the first two processors make `calls`, the second so many ticks of the time base later than the
/// first, or the first later than the second.
pub(crate) fn race(calls: [Call; 2], delay: i64) -> [Made; 2] {
    let delays = match delay.is_negative() {
        true => [delay.unsigned_abs(), 0],
        false => [0, delay.unsigned_abs()],
    };
    for ((place, call), delay) in PLACES.iter().zip(calls).zip(delays) {
        for (to, word) in place.call.iter().zip(call.0) {
            to.store(word, Ordering::Relaxed);
        }
        place.delay.store(delay, Ordering::Relaxed);
    }
    ARRIVED.store(0, Ordering::Relaxed);
    processors::run_on(2, make);
    PLACES.each_ref().map(|place| {
        let [code, start, end] = place.made.each_ref().map(|it| it.load(Ordering::Relaxed));
        Made {
            code: code.cast_signed(),
            start,
            end,
        }
    })
}

fn make(processor: usize) {
    let Some(place) = PLACES.get(processor) else {
        return;
    };
    let call = Call(place.call.each_ref().map(|it| it.load(Ordering::Relaxed)));
    let delay = place.delay.load(Ordering::Relaxed);
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    while ARRIVED.load(Ordering::Acquire) < PLACES.len() {
        hint::spin_loop();
    }
    let arrived = ticks();
    while ticks() - arrived < delay {}
    let start = ticks();
    let code = call.make();
    let end = ticks();
    for (to, word) in place.made.iter().zip([code.cast_unsigned(), start, end]) {
        to.store(word, Ordering::Relaxed);
    }
}

/// Looks for the delay at which one thing turns into another: each round says on which side it was, and
/// the next is a random step towards the other. What a call takes is not known before, and is a thousand
/// times as long where the host serves it and has other things to do: until the other side was seen, the
/// steps double.
#[derive(Debug)]
pub(crate) struct Hunt {
    /// Below zero, it is the first call that waits.
    delay: i64,
    was_later: Option<bool>,
    has_turned: bool,
}

impl Hunt {
    /// Ticks of the smallest steps, at most.
    const STEP: u64 = 256;

    /// Begins with no delay.
    pub(crate) const fn new() -> Self {
        Self {
            delay: 0,
            was_later: None,
            has_turned: false,
        }
    }

    /// The next round's delay.
    pub(crate) const fn delay(&self) -> i64 {
        self.delay
    }

    /// The second call should have come later, or else sooner.
    pub(crate) fn note(&mut self, later: bool, random: &mut Random) {
        self.has_turned |= self.was_later.is_some_and(|before| before != later);
        self.was_later = Some(later);
        let size = self.delay.unsigned_abs();
        let step = match self.has_turned {
            true => random.below(size / 8 + Self::STEP),
            false => size.max(Self::STEP),
        };
        self.delay = if later {
            self.delay.saturating_add_unsigned(step)
        } else {
            self.delay.saturating_sub_unsigned(step)
        };
    }
}

/// How many rounds of a kind there are: so many, or as many as a time allows. Where the calls seldom meet,
/// as on a machine that has other things to do, there is more time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The most rounds.
    pub(crate) rounds: u64,
    /// No round begins later, if enough of them have shown something.
    pub(crate) seconds: u64,
    /// For the time.
    pub(crate) clock: Clock,
}

impl Budget {
    /// Rounds that have to show something.
    const ENOUGH: u64 = 20;
    /// How many times the seconds it may take if they do not.
    const PATIENCE: u64 = 5;

    /// A clock for the rounds of one kind.
    pub(crate) fn start(self) -> Rounds {
        let start = self.clock.now();
        Rounds {
            budget: self,
            start,
        }
    }
}

/// Rounds of one kind, which have begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    budget: Budget,
    start: u64,
}

impl Rounds {
    /// Whether there is to be another one after `done`, of which so many have shown something.
    pub(crate) fn go_on(&self, done: u64, shown: u64) -> bool {
        let Budget {
            rounds,
            seconds,
            clock,
        } = self.budget;
        let passed = clock.nanoseconds(clock.now() - self.start) / 1_000_000_000;
        let limit = if shown < Budget::ENOUGH {
            seconds * Budget::PATIENCE
        } else {
            seconds
        };
        done < rounds && passed < limit
    }
}
