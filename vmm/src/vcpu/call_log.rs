//! Log lines about the hypercalls that a guest makes, for whoever wants to see that it does something:
//! of each call at most two a second. TCE calls have none: there are millions of them.

use log::Level;
use spapr_devices::limited_message;
use spapr_devices::rate_limit::RateLimiter;
use spapr_hypercalls::abi::{self, Arguments};

/// PAPR's calls have numbers below this, multiples of [`STEP`]; all others share the last place.
const NUMBERS: usize = 0x480;
const STEP: usize = 4;

static LIMITERS: [RateLimiter; NUMBERS / STEP + 1] =
    [const { RateLimiter::following() }; NUMBERS / STEP + 1];

/// Whether a call is to be logged. An RTAS call is logged as such, where it is served.
#[inline]
pub(super) fn is_wanted(number: u64) -> bool {
    log::log_enabled!(Level::Debug) && number != abi::KVMPPC_H_RTAS
}

/// Logs a call of the processor with interrupt server number `server`, with its arguments as `given`
/// and what it returned in r3.
#[cold]
pub(super) fn follow(server: u32, number: u64, given: &Arguments, ret: u64) {
    let name = abi::name(number).unwrap_or("unknown");
    limited_message!(
        limiter(number),
        Level::Debug,
        "processor {server}: hypercall {number:#x} ({name}), arguments {given:x?}: {}",
        ret.cast_signed()
    );
}

fn limiter(number: u64) -> &'static RateLimiter {
    let place = usize::try_from(number).map_or(usize::MAX, |number| number / STEP);
    &LIMITERS[place.min(NUMBERS / STEP)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_own_share_and_unknown_ones_have_one_together() {
        let twice = |number| {
            let limiter = limiter(number);
            [limiter.admit(), limiter.admit()].map(|admitted| admitted.is_some())
        };
        assert_eq!(twice(abi::H_SET_MODE), [true, true]);
        assert_eq!(twice(abi::H_RANDOM), [true, true]);
        assert_eq!(twice(u64::MAX), [true, true]);
        assert_eq!(twice(0xf00c), [false, false]);
    }
}
