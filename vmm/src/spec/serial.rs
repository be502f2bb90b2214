//! Ports of serial devices.

use std::path::PathBuf;
use std::str::FromStr;

/// A port of a virtio serial device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDescription {
    /// How events name it: the ID that its user gave it.
    pub id: Option<String>,
    /// Its number, from 0 on.
    pub number: u32,
    /// Its name, by which the guest finds it; empty for none.
    pub name: String,
    /// Whether it is a console of the guest's.
    pub is_console: bool,
    /// Who is at the other end.
    pub outlet: PortOutlet,
}

/// Who is at the other end of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOutlet {
    /// Who connects to the Unix socket of this name, which is made.
    Listen(PathBuf),
    /// A character device of the front end's, by its ID.
    Chardev(String),
}

/// A port as `--serial-port` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// Its name.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
}

/// The longest name of a port in bytes: drivers have a page for it at the least.
pub const MOST_PORT_NAME_BYTES: usize = 255;

/// Why there is no such port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialPortError {
    /// There is nothing to connect to.
    #[error("it should be NAME=SOCKET, such as org.qemu.guest_agent.0=/run/guest.agent")]
    NoSocket,
    /// No guest could make a file of that name.
    #[error(
        "a port's name has 1 to {MOST_PORT_NAME_BYTES} bytes, no slash and no control characters"
    )]
    Name,
}

/// Whether a port may be called that.
pub fn is_port_name(name: &str) -> bool {
    let is_good = |character: char| !character.is_control() && character != '/';
    name.len() <= MOST_PORT_NAME_BYTES && name.chars().all(is_good)
}

impl FromStr for SerialPort {
    type Err = SerialPortError;

    fn from_str(text: &str) -> Result<Self, SerialPortError> {
        let (name, socket) = text.split_once('=').ok_or(SerialPortError::NoSocket)?;
        if socket.is_empty() {
            return Err(SerialPortError::NoSocket);
        }
        if name.is_empty() || !is_port_name(name) {
            return Err(SerialPortError::Name);
        }
        Ok(Self {
            name: name.to_owned(),
            socket: socket.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_name_and_a_socket() {
        let port: SerialPort = "org.qemu.guest_agent.0=/run/a=b".parse().unwrap();
        assert_eq!(port.name, "org.qemu.guest_agent.0");
        assert_eq!(port.socket, PathBuf::from("/run/a=b"));
        for text in ["", "name", "name="] {
            assert_eq!(text.parse::<SerialPort>(), Err(SerialPortError::NoSocket));
        }
        let long = "x".repeat(MOST_PORT_NAME_BYTES + 1);
        for name in ["", "a/b", "a\nb", &long] {
            let text = format!("{name}=/run/a");
            assert_eq!(text.parse::<SerialPort>(), Err(SerialPortError::Name));
        }
    }
}
