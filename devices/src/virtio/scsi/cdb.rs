//! A command as its initiator wrote it: the descriptor block (SPC-4 4.3), whose numbers are big-endian.

/// Bytes that count: no command of more is known here.
const BYTES: usize = 16;

pub(super) const TEST_UNIT_READY: u8 = 0x00;
pub(super) const REQUEST_SENSE: u8 = 0x03;
pub(super) const READ_6: u8 = 0x08;
pub(super) const WRITE_6: u8 = 0x0a;
pub(super) const INQUIRY: u8 = 0x12;
pub(super) const MODE_SELECT_6: u8 = 0x15;
pub(super) const RESERVE_6: u8 = 0x16;
pub(super) const RELEASE_6: u8 = 0x17;
pub(super) const MODE_SENSE_6: u8 = 0x1a;
pub(super) const START_STOP_UNIT: u8 = 0x1b;
pub(super) const SEND_DIAGNOSTIC: u8 = 0x1d;
pub(super) const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1e;
pub(super) const READ_CAPACITY_10: u8 = 0x25;
pub(super) const READ_10: u8 = 0x28;
pub(super) const WRITE_10: u8 = 0x2a;
pub(super) const WRITE_AND_VERIFY_10: u8 = 0x2e;
pub(super) const VERIFY_10: u8 = 0x2f;
pub(super) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
pub(super) const WRITE_SAME_10: u8 = 0x41;
pub(super) const UNMAP: u8 = 0x42;
pub(super) const READ_TOC: u8 = 0x43;
pub(super) const GET_CONFIGURATION: u8 = 0x46;
pub(super) const GET_EVENT_STATUS: u8 = 0x4a;
pub(super) const READ_DISC_INFORMATION: u8 = 0x51;
pub(super) const MODE_SELECT_10: u8 = 0x55;
pub(super) const MODE_SENSE_10: u8 = 0x5a;
pub(super) const READ_16: u8 = 0x88;
pub(super) const WRITE_16: u8 = 0x8a;
pub(super) const WRITE_AND_VERIFY_16: u8 = 0x8e;
pub(super) const VERIFY_16: u8 = 0x8f;
pub(super) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
pub(super) const WRITE_SAME_16: u8 = 0x93;
pub(super) const SERVICE_ACTION_IN_16: u8 = 0x9e;
pub(super) const REPORT_LUNS: u8 = 0xa0;
pub(super) const READ_12: u8 = 0xa8;
pub(super) const WRITE_12: u8 = 0xaa;
pub(super) const WRITE_AND_VERIFY_12: u8 = 0xae;
pub(super) const VERIFY_12: u8 = 0xaf;
pub(super) const MECHANISM_STATUS: u8 = 0xbd;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cdb([u8; BYTES]);

impl Cdb {
    /// Of what a request has, which may be more or less.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut own = [0; BYTES];
        own.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(own)
    }

    pub(super) const fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// The byte at `at`; none is further.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes([0, 1, 2, 3].map(|byte| self.byte(at + byte)))
    }

    fn be64(&self, at: usize) -> u64 {
        u64::from(self.be32(at)) << 32 | u64::from(self.be32(at + 4))
    }

    /// The first block of a command on blocks, which is where its length says (SPC-4 4.3.2).
    pub(super) fn first_block(&self) -> u64 {
        match self.opcode() >> 5 {
            0 => u64::from(self.be32(0) & 0x001f_ffff),
            4 => self.be64(2),
            _ => u64::from(self.be32(2)),
        }
    }

    /// How many blocks it is about. Of the shortest commands 0 is 256.
    pub(super) fn blocks(&self) -> u32 {
        match self.opcode() >> 5 {
            0 => match self.byte(4) {
                0 => 256,
                blocks => u32::from(blocks),
            },
            4 => self.be32(10),
            5 => self.be32(6),
            _ => u32::from(self.be16(7)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_where_a_commands_length_says() {
        let read = |bytes: &[u8]| {
            let cdb = Cdb::new(bytes);
            (cdb.first_block(), cdb.blocks())
        };
        assert_eq!(read(&[READ_6, 0xff, 2, 3, 4, 0]), (0x1f_0203, 4));
        assert_eq!(read(&[WRITE_6, 0, 0, 1, 0, 0]), (1, 256));
        assert_eq!(
            read(&[READ_10, 0, 1, 2, 3, 4, 0, 5, 6, 0]),
            (0x0102_0304, 0x0506)
        );
        assert_eq!(
            read(&[READ_12, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]),
            (0x0102_0304, 0x0506_0708)
        );
        let long = [WRITE_16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0];
        assert_eq!(read(&long), (0x0102_0304_0506_0708, 0x090a_0b0c));
        assert_eq!(Cdb::new(&[]).opcode(), TEST_UNIT_READY);
        assert_eq!(Cdb::new(&[0xff; 300]).byte(16), 0);
    }
}
