//! Units of a controller with what is under way of each, and commands that are about which there are.

use std::io;

use virtio_queue::desc::split::Descriptor;

use super::address::Address;
use super::cdb::{self, Cdb};
use super::device::Scsi;
use super::inquiry;
use super::request::{Answer, Layout};
use super::sense::Sense;
use super::unit::{Outcome, Unit, cut};
use crate::image::Operation;
use crate::virtio::disk::{Place, Work};

/// A command that is under way.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) queue: usize,
    pub(super) head: u16,
    pub(super) buffers: Vec<Descriptor>,
    pub(super) layout: Layout,
    pub(super) operation: Operation,
    pub(super) moved: u64,
    pub(super) tag: u64,
    /// Counts up with each command.
    pub(super) number: u64,
    /// What its driver gets whatever comes of it: it was ended.
    pub(super) ended: Option<Answer>,
}

/// A command for a medium.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    pub(super) queue: usize,
    pub(super) head: u16,
    /// Which of the units it is for.
    pub(super) place: Option<usize>,
    pub(super) operation: Operation,
    pub(super) at: Place,
}

/// A unit, and what is under way of it.
pub(super) struct Lun {
    pub(super) unit: Unit,
    /// Without a medium there is nothing.
    pub(super) work: Option<Work<Task>>,
    /// The driver is to be told that its size is another.
    pub(super) size_has_changed: bool,
}

impl Task {
    /// What its driver gets when the host is done with it.
    pub(super) fn answer(&self, result: &io::Result<()>) -> Answer {
        match (self.ended, result) {
            (Some(answer), _) => answer,
            (None, Ok(())) => Answer::good(self.moved),
            (None, Err(error)) => Answer::check(Sense::of_host(self.operation, error)),
        }
    }
}

impl Scsi {
    /// REPORT LUNS, to whichever unit of a target it is sent.
    pub(super) fn report_luns(&self, address: Address, cdb: &Cdb) -> Outcome {
        let target = address.target;
        let luns = self.luns.iter().map(|lun| lun.unit.options.address);
        let luns = luns.filter(|it| it.target == target);
        let mut list = Vec::new();
        match cdb.byte(2) {
            0 | 2 => {
                let zero = Address { target, lun: 0 };
                // That answers, whether there is a unit or not.
                if self.place(zero).is_none() {
                    list.extend(zero.reported());
                }
                luns.for_each(|address| list.extend(address.reported()));
            }
            // Well-known ones, of which there are none.
            1 => {}
            _ => return Err(Sense::INVALID_FIELD),
        }
        let most = cdb.be32(6);
        if most < 16 {
            return Err(Sense::INVALID_FIELD);
        }
        let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
        let data = [&length.to_be_bytes()[..], &[0; 4], &list].concat();
        cut(data, usize::try_from(most).unwrap_or(usize::MAX))
    }
}

/// What comes of a command to a unit that is not there (SPC-4 5.11, SAM-5 4.6.4).
pub(super) fn of_no_unit(cdb: &Cdb) -> Outcome {
    match cdb.opcode() {
        cdb::INQUIRY if cdb.byte(1) & 3 == 0 => cut(inquiry::not_there(), cdb.be16(3).into()),
        cdb::REQUEST_SENSE => cut(Sense::NO_SUCH_UNIT.bytes().to_vec(), cdb.byte(4).into()),
        _ => Err(Sense::NO_SUCH_UNIT),
    }
}
