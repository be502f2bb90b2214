//! What a command did not do: sense keys with their additional codes (SPC-4 4.5, T10's list of codes).

use std::io;

use crate::image::Operation;

/// Bytes of sense data in the fixed format (SPC-4 4.5.3).
pub(super) const BYTES: usize = 18;

/// Why a command was not done, or what its initiator has to know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
}

const fn sense(key: u8, code: u8, qualifier: u8) -> Sense {
    Sense {
        key,
        code,
        qualifier,
    }
}

impl Sense {
    pub(super) const NOTHING: Self = sense(0x0, 0x00, 0x00);
    pub(super) const NOT_READY: Self = sense(0x2, 0x04, 0x00);
    pub(super) const NO_MEDIUM: Self = sense(0x2, 0x3a, 0x00);
    pub(super) const NO_MEDIUM_TRAY_OPEN: Self = sense(0x2, 0x3a, 0x02);
    pub(super) const READ_FAILED: Self = sense(0x3, 0x11, 0x00);
    pub(super) const WRITE_FAILED: Self = sense(0x3, 0x0c, 0x00);
    pub(super) const PARAMETERS_TOO_SHORT: Self = sense(0x5, 0x1a, 0x00);
    pub(super) const INVALID_OPCODE: Self = sense(0x5, 0x20, 0x00);
    pub(super) const OUT_OF_RANGE: Self = sense(0x5, 0x21, 0x00);
    pub(super) const INVALID_FIELD: Self = sense(0x5, 0x24, 0x00);
    pub(super) const NO_SUCH_UNIT: Self = sense(0x5, 0x25, 0x00);
    pub(super) const INVALID_PARAMETER: Self = sense(0x5, 0x26, 0x00);
    pub(super) const NOTHING_IS_SAVED: Self = sense(0x5, 0x39, 0x00);
    pub(super) const REMOVAL_PREVENTED: Self = sense(0x5, 0x53, 0x02);
    pub(super) const MEDIUM_CHANGED: Self = sense(0x6, 0x28, 0x00);
    pub(super) const POWER_ON: Self = sense(0x6, 0x29, 0x00);
    pub(super) const UNIT_RESET: Self = sense(0x6, 0x29, 0x03);
    pub(super) const NEXUS_LOST: Self = sense(0x6, 0x29, 0x07);
    pub(super) const CAPACITY_CHANGED: Self = sense(0x6, 0x2a, 0x09);
    pub(super) const WRITE_PROTECTED: Self = sense(0x7, 0x27, 0x00);
    pub(super) const NO_SPACE: Self = sense(0x7, 0x27, 0x07);

    /// What an initiator is told where the host has failed `operation`.
    pub(super) fn of_host(operation: Operation, error: &io::Error) -> Self {
        match operation {
            Operation::Read => Self::READ_FAILED,
            _ if error.raw_os_error() == Some(libc::ENOSPC) => Self::NO_SPACE,
            _ => Self::WRITE_FAILED,
        }
    }

    /// Its additional code and qualifier, as an event has them (virtio 5.6.6.3, "reason").
    pub(super) const fn reason(self) -> u32 {
        u32::from_le_bytes([self.code, self.qualifier, 0, 0])
    }

    /// As sense data of a current error in the fixed format.
    pub(super) const fn bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = BYTES.to_le_bytes()[0] - 8;
        bytes[12] = self.code;
        bytes[13] = self.qualifier;
        bytes
    }
}
