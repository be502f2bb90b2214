//! event-scan and check-exception (PAPR 7.3.3): this machine reports no events yet, which both say
//! by their status.

use super::call::Call;
use super::{Outcome, Platform, Status};

pub(super) fn event_scan(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::NoEvent);
    Outcome::Done
}

pub(super) fn check_exception(call: &mut Call<'_>, _: &dyn Platform) -> Outcome {
    call.status(Status::NoEvent);
    Outcome::Done
}
