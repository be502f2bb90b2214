//! display-character (PAPR 7.3.8).

use super::call::Call;
use super::{Outcome, Platform, Status};
use crate::vty::SinkStatus;

/// Arguments: the character. The status says "busy" when the console's reader is behind.
pub(super) fn display_character(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [character] = call.arguments();
    let [.., byte] = character.to_be_bytes();
    call.status(match platform.console(&[byte]) {
        SinkStatus::Accepted => Status::Success,
        SinkStatus::Busy => Status::Busy,
    });
    Outcome::Done
}
