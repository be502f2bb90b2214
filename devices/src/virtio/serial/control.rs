//! Messages about ports (virtio 5.3.6.2, `struct virtio_console_control`): a port's number, what it is about, and a
//! value, little-endian; behind a name's message is the name.

/// Bytes of a message, without a name.
pub(super) const BYTES: usize = 8;

/// What messages are about (VIRTIO_CONSOLE_DEVICE_READY and so on).
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// What a driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is ready for messages about ports.
    DeviceReady,
    /// It has made a port of what it was told of.
    PortReady(u32),
    /// A port is open now, or closed.
    Open(u32, bool),
    /// Something that is of no use here, such as that it could not make a port.
    Other,
}

impl Said {
    pub(super) const fn read(message: [u8; BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = message;
        let port = u32::from_le_bytes([a, b, c, d]);
        let value = u16::from_le_bytes([g, h]);
        match (u16::from_le_bytes([e, f]), value) {
            (event::DEVICE_READY, 1) => Self::DeviceReady,
            (event::PORT_READY, 1) => Self::PortReady(port),
            (event::PORT_OPEN, value) => Self::Open(port, value != 0),
            _ => Self::Other,
        }
    }
}

/// What a driver is told of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It is there.
    Add,
    /// It is a console.
    Console,
    /// Its name.
    Name,
    /// Someone is connected to it, or nobody is any more.
    Open(bool),
}

impl Message {
    /// The message about port `number`.
    pub(super) fn bytes(self, number: u32, name: &str) -> Vec<u8> {
        let (event, value) = match self {
            Self::Add => (event::PORT_ADD, 1),
            Self::Console => (event::CONSOLE_PORT, 1),
            Self::Name => (event::PORT_NAME, 1),
            Self::Open(is_open) => (event::PORT_OPEN, u16::from(is_open)),
        };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        if self == Self::Name {
            bytes.extend(name.bytes());
            // Drivers are used to it from QEMU.
            bytes.push(0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_specification_has_them() {
        let bytes = Message::Name.bytes(0x0102, "ab");
        assert_eq!(bytes, [2, 1, 0, 0, 7, 0, 1, 0, b'a', b'b', 0]);
        assert_eq!(
            Message::Open(false).bytes(3, "ab"),
            [3, 0, 0, 0, 6, 0, 0, 0]
        );
        assert_eq!(Said::read([9, 0, 0, 0, 6, 0, 1, 0]), Said::Open(9, true));
        assert_eq!(Said::read([9, 0, 0, 0, 3, 0, 1, 0]), Said::PortReady(9));
        assert_eq!(Said::read([0, 0, 0, 0, 0, 0, 1, 0]), Said::DeviceReady);
        for useless in [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [9, 0, 0, 0, 3, 0, 0, 0],
            [0xff; 8],
        ] {
            assert_eq!(Said::read(useless), Said::Other);
        }
    }
}
