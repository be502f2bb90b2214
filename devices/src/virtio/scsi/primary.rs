//! Commands that all units know (SPC-4).

use super::cdb::{self, Cdb};
use super::sense::Sense;
use super::unit::{Outcome, Unit, Wish, cut};
use super::{inquiry, mode};

/// What comes of a command; `None` if it is none of these.
pub(super) fn command(unit: &mut Unit, cdb: &Cdb, parameters: &[u8]) -> Option<Outcome> {
    Some(match cdb.opcode() {
        cdb::TEST_UNIT_READY => unit.medium().map(|_| Wish::Nothing),
        cdb::REQUEST_SENSE => request_sense(unit, cdb),
        cdb::INQUIRY => inquiry::command(unit, cdb),
        cdb::MODE_SENSE_6 | cdb::MODE_SENSE_10 => mode::sense(unit, cdb),
        cdb::MODE_SELECT_6 | cdb::MODE_SELECT_10 => mode::select(unit, cdb, parameters),
        // There is one initiator.
        cdb::RESERVE_6 | cdb::RELEASE_6 => Ok(Wish::Nothing),
        cdb::SEND_DIAGNOSTIC => match cdb.byte(1) & 0x04 {
            // Only the default self-test is supported, and it always passes.
            0 => Err(Sense::INVALID_FIELD),
            _ => Ok(Wish::Nothing),
        },
        _ => return None,
    })
}

/// REQUEST SENSE: what is to be told, and nothing of errors, which commands come back with.
fn request_sense(unit: &mut Unit, cdb: &Cdb) -> Outcome {
    // Sense data in the other format.
    if cdb.byte(1) & 1 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let sense = unit.take_attention().unwrap_or(match unit.medium() {
        Ok(_) => Sense::NOTHING,
        Err(sense) => sense,
    });
    cut(sense.bytes().to_vec(), cdb.byte(4).into())
}
