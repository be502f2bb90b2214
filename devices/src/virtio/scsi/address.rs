//! Where a logical unit is (virtio 5.6.6.1, "lun"; SAM-5 4.7).

/// The highest target of a controller.
pub const MOST_TARGET: u8 = 255;
/// The highest logical unit of a target: what the flat addressing method has room for.
pub const MOST_LUN: u16 = 0x3fff;

/// A logical unit's address behind its controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Its target.
    pub target: u8,
    /// Its number there, up to [`MOST_LUN`].
    pub lun: u16,
}

impl Address {
    /// Reads a request's; `None` for what is no logical unit of a target.
    pub(super) const fn read(bytes: [u8; 8]) -> Option<Self> {
        let [1, target, high, low, 0, 0, 0, 0] = bytes else {
            return None;
        };
        // Peripheral and flat addressing; the others lead further than one level.
        let (0x00 | 0x40) = high & 0xc0 else {
            return None;
        };
        let lun = u16::from_be_bytes([high & 0x3f, low]);
        Some(Self { target, lun })
    }

    /// As an event has it: Linux looks for the unit whose number REPORT LUNS gave (`virtscsi_handle_param_change` in
    /// drivers/scsi/virtio_scsi.c).
    pub(super) const fn bytes(self) -> [u8; 8] {
        let [high, low, ..] = self.reported();
        [1, self.target, high, low, 0, 0, 0, 0]
    }

    /// As REPORT LUNS has it (SPC-4 6.33): the first 256 by peripheral addressing.
    pub(super) const fn reported(self) -> [u8; 8] {
        let [high, low] = self.lun.to_be_bytes();
        let method = if high == 0 { 0 } else { 0x40 };
        [high | method, low, 0, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (target, lun) in [(0, 0), (7, 255), (255, 256), (1, MOST_LUN)] {
            let address = Address { target, lun };
            assert_eq!(Address::read(address.bytes()), Some(address));
            let [high, low, ..] = address.reported();
            let bytes = [1, target, high, low, 0, 0, 0, 0];
            assert_eq!(Address::read(bytes), Some(address));
        }
        for wrong in [
            [0, 0, 0x40, 0, 0, 0, 0, 0],
            [2, 0, 0x40, 0, 0, 0, 0, 0],
            [0xc1, 1, 0, 0, 0, 0, 0, 0],
            [1, 0, 0x80, 0, 0, 0, 0, 0],
            [1, 0, 0x40, 0, 0, 1, 0, 0],
        ] {
            assert_eq!(Address::read(wrong), None);
        }
    }
}
