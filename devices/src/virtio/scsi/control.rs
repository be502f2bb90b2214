//! What a driver puts into the control queue (virtio 5.6.6.2): functions that manage its commands, and questions
//! about what it is told unasked.

use virtio_bindings::virtio_scsi::{
    VIRTIO_SCSI_S_FUNCTION_REJECTED, VIRTIO_SCSI_S_FUNCTION_SUCCEEDED, VIRTIO_SCSI_S_INCORRECT_LUN,
    VIRTIO_SCSI_S_OK, VIRTIO_SCSI_T_AN_QUERY, VIRTIO_SCSI_T_AN_SUBSCRIBE, VIRTIO_SCSI_T_TMF,
    VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_T_TMF_ABORT_TASK_SET,
    VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET, VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET,
    VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, VIRTIO_SCSI_T_TMF_QUERY_TASK,
    VIRTIO_SCSI_T_TMF_QUERY_TASK_SET,
};

use crate::dma::DmaMemory;
use crate::virtio::device::ServeError;
use crate::virtio::requests::{self, Request};

/// Bytes of a function, and of a question.
const FUNCTION_BYTES: usize = 24;
const QUESTION_BYTES: usize = 16;

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    /// Ends the command with the tag.
    AbortTask,
    /// Ends all of a unit.
    AbortTaskSet,
    /// Ends all of a unit, which is as at first.
    ResetUnit,
    /// The same, of all units of a target.
    ResetTarget,
    /// Whether there is the command with the tag.
    QueryTask,
    /// Whether there is one of a unit.
    QueryTaskSet,
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A function.
    Function {
        function: Function,
        lun: [u8; 8],
        tag: u64,
    },
    /// Which events of a unit it is told of: none.
    Events,
    /// What is not there.
    Other,
}

/// Reads it.
///
/// # Errors
/// It is too short, has no room for the answer, or is out of reach.
pub(super) fn read(request: &Request, memory: &DmaMemory) -> Result<Asked, ServeError> {
    let (readable, writable) = requests::split(&request.buffers)?;
    let mut bytes = [0; FUNCTION_BYTES];
    let (kind, rest) = bytes.split_at_mut(4);
    if !requests::copy_from(readable, 0, memory, kind)? {
        return Err(ServeError::Request("a control request without a type"));
    }
    let kind = u32::from_le_bytes(std::array::from_fn(|at| kind[at]));
    let (length, answer) = match kind {
        VIRTIO_SCSI_T_TMF => (FUNCTION_BYTES, 1),
        VIRTIO_SCSI_T_AN_QUERY | VIRTIO_SCSI_T_AN_SUBSCRIBE => (QUESTION_BYTES, 5),
        _ => return Ok(Asked::Other),
    };
    let room: u64 = writable.iter().map(|it| u64::from(it.len())).sum();
    if !requests::copy_from(readable, 4, memory, &mut rest[..length - 4])? || room < answer {
        return Err(ServeError::Request("a control request that is too short"));
    }
    if kind != VIRTIO_SCSI_T_TMF {
        return Ok(Asked::Events);
    }
    let subtype = u32::from_le_bytes(std::array::from_fn(|at| rest[at]));
    let function = match subtype {
        VIRTIO_SCSI_T_TMF_ABORT_TASK => Function::AbortTask,
        // There is one initiator, whose commands are all that there are.
        VIRTIO_SCSI_T_TMF_ABORT_TASK_SET | VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET => {
            Function::AbortTaskSet
        }
        VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET => Function::ResetTarget,
        VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET => Function::ResetUnit,
        VIRTIO_SCSI_T_TMF_QUERY_TASK => Function::QueryTask,
        VIRTIO_SCSI_T_TMF_QUERY_TASK_SET => Function::QueryTaskSet,
        _ => return Ok(Asked::Other),
    };
    Ok(Asked::Function {
        function,
        lun: std::array::from_fn(|at| rest[4 + at]),
        tag: u64::from_le_bytes(std::array::from_fn(|at| rest[12 + at])),
    })
}

/// How a function went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It is done; of a question, the answer is no.
    Complete,
    /// The answer is yes.
    Succeeded,
    /// There is no such function.
    Rejected,
    /// There is no such unit.
    NoUnit,
}

impl Went {
    /// Writes that into the request's room; returns how many bytes it is.
    ///
    /// # Errors
    /// It is out of reach.
    pub(super) fn write(self, request: &Request, memory: &DmaMemory) -> Result<u32, ServeError> {
        let response = match self {
            Self::Complete => VIRTIO_SCSI_S_OK,
            Self::Succeeded => VIRTIO_SCSI_S_FUNCTION_SUCCEEDED,
            Self::Rejected => VIRTIO_SCSI_S_FUNCTION_REJECTED,
            Self::NoUnit => VIRTIO_SCSI_S_INCORRECT_LUN,
        };
        write(request, &[response.to_le_bytes()[0]], memory)
    }
}

/// Writes the answer to a question about events: none.
///
/// # Errors
/// It is out of reach.
pub(super) fn write_no_events(request: &Request, memory: &DmaMemory) -> Result<u32, ServeError> {
    write(request, &[0; 5], memory)
}

fn write(request: &Request, answer: &[u8], memory: &DmaMemory) -> Result<u32, ServeError> {
    let (_, writable) = requests::split(&request.buffers)?;
    requests::copy_to(writable, 0, memory, answer)?;
    Ok(u32::try_from(answer.len()).unwrap_or(0))
}
