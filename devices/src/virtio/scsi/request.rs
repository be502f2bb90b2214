//! What a driver puts into a request queue, and what it gets back (virtio 5.6.6.1).

use virtio_bindings::virtio_scsi::{
    VIRTIO_SCSI_S_ABORTED, VIRTIO_SCSI_S_BAD_TARGET, VIRTIO_SCSI_S_FAILURE, VIRTIO_SCSI_S_OK,
    VIRTIO_SCSI_S_OVERRUN, VIRTIO_SCSI_S_RESET,
};
use virtio_queue::desc::split::Descriptor;

use super::cdb::Cdb;
use super::sense::{self, Sense};
use crate::dma::DmaMemory;
use crate::virtio::device::ServeError;
use crate::virtio::requests::{self, Request};

/// Bytes of a request before its command: `lun`, `id`, `task_attr`, `prio`, `crn`.
const HEADER_BYTES: usize = 19;
/// Bytes of an answer before its sense data: `sense_len`, `residual`, `status_qualifier`, `status`, `response`.
const ANSWER_BYTES: usize = 12;

/// How many bytes a driver leaves for commands and sense data, which it may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) cdb: u32,
    pub(super) sense: u32,
}

impl Sizes {
    /// As they are until a driver changes them.
    pub(super) const USUAL: Self = Self { cdb: 32, sense: 96 };
    /// The most of either.
    pub(super) const MOST: u32 = 256;
}

/// Where in a request its parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes before the data that the device reads, and how much of that there is.
    pub(super) out_skipped: u64,
    pub(super) out_bytes: u64,
    /// The same for the data that it writes.
    pub(super) in_skipped: u64,
    pub(super) in_bytes: u64,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) lun: [u8; 8],
    pub(super) tag: u64,
    pub(super) cdb: Cdb,
    pub(super) layout: Layout,
}

/// Reads a request.
///
/// # Errors
/// It lacks its header or a place for its answer, or is out of reach.
pub(super) fn parse(
    request: &Request,
    memory: &DmaMemory,
    sizes: Sizes,
) -> Result<Parsed, ServeError> {
    let (readable, writable) = requests::split(&request.buffers)?;
    let mut bytes = [0; HEADER_BYTES + Sizes::MOST as usize];
    let header = HEADER_BYTES + usize::try_from(sizes.cdb.min(Sizes::MOST)).unwrap_or(0);
    if !requests::copy_from(readable, 0, memory, &mut bytes[..header])? {
        return Err(ServeError::Request("no header"));
    }
    let in_skipped = ANSWER_BYTES as u64 + u64::from(sizes.sense);
    let in_bytes = length(writable).checked_sub(in_skipped);
    let in_bytes = in_bytes.ok_or(ServeError::Request("no place for its answer"))?;
    let (fixed, cdb) = bytes.split_at(HEADER_BYTES);
    let part = |at: usize| -> [u8; 8] { std::array::from_fn(|byte| fixed[at + byte]) };
    Ok(Parsed {
        lun: part(0),
        tag: u64::from_le_bytes(part(8)),
        cdb: Cdb::new(&cdb[..header - HEADER_BYTES]),
        layout: Layout {
            out_skipped: header as u64,
            out_bytes: length(readable) - header as u64,
            in_skipped,
            in_bytes,
        },
    })
}

fn length(buffers: &[Descriptor]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len())).sum()
}

/// What a driver gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Of the controller.
    response: u32,
    /// Of the command.
    status: u8,
    sense: Option<Sense>,
    /// Bytes of data that were moved.
    moved: u64,
}

/// A command's status (SAM-5 5.3).
const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const TASK_SET_FULL: u8 = 0x28;

const fn of_controller(response: u32) -> Answer {
    Answer {
        response,
        status: GOOD,
        sense: None,
        moved: 0,
    }
}

impl Answer {
    /// There is no such target.
    pub(super) const BAD_TARGET: Self = of_controller(VIRTIO_SCSI_S_BAD_TARGET);
    /// The command moves more than there is room for.
    pub(super) const OVERRUN: Self = of_controller(VIRTIO_SCSI_S_OVERRUN);
    /// What cannot be asked for.
    pub(super) const FAILURE: Self = of_controller(VIRTIO_SCSI_S_FAILURE);
    /// The driver has ended the command.
    pub(super) const ABORTED: Self = of_controller(VIRTIO_SCSI_S_ABORTED);
    /// The driver has reset its unit.
    pub(super) const RESET: Self = of_controller(VIRTIO_SCSI_S_RESET);
    /// The unit has as many commands as it takes.
    pub(super) const FULL: Self = Self {
        status: TASK_SET_FULL,
        ..of_controller(VIRTIO_SCSI_S_OK)
    };

    /// It is done, and so many bytes were moved.
    pub(super) const fn good(moved: u64) -> Self {
        Self {
            moved,
            ..of_controller(VIRTIO_SCSI_S_OK)
        }
    }

    /// It is not done.
    pub(super) const fn check(sense: Sense) -> Self {
        Self {
            status: CHECK_CONDITION,
            sense: Some(sense),
            ..of_controller(VIRTIO_SCSI_S_OK)
        }
    }

    /// Writes it where `buffers` have its place; returns how many bytes of what the device writes have been.
    ///
    /// # Errors
    /// That is out of reach.
    pub(super) fn write(
        self,
        buffers: &[Descriptor],
        layout: Layout,
        memory: &DmaMemory,
    ) -> Result<u32, ServeError> {
        let Layout {
            out_bytes,
            in_bytes,
            in_skipped,
            ..
        } = layout;
        let room = usize::try_from(in_skipped).unwrap_or(0) - ANSWER_BYTES;
        let sense_bytes = match self.sense {
            Some(_) => room.min(sense::BYTES),
            None => 0,
        };
        let mut bytes = [0; ANSWER_BYTES + sense::BYTES];
        let whole = if in_bytes != 0 { in_bytes } else { out_bytes };
        let residual = u32::try_from(whole - self.moved.min(whole)).unwrap_or(u32::MAX);
        bytes[0] = sense_bytes.to_le_bytes()[0];
        bytes[4..8].copy_from_slice(&residual.to_le_bytes());
        bytes[10] = self.status;
        bytes[11] = self.response.to_le_bytes()[0];
        if let Some(sense) = self.sense {
            bytes[ANSWER_BYTES..].copy_from_slice(&sense.bytes());
        }
        let (_, writable) = requests::split(buffers)?;
        requests::copy_to(writable, 0, memory, &bytes[..ANSWER_BYTES + sense_bytes])?;
        let data = if in_bytes != 0 { self.moved } else { 0 };
        Ok(u32::try_from(in_skipped + data).unwrap_or(u32::MAX))
    }
}
