//! What the user types, on its way to the guest.

use std::io::{self, Read};

use crate::sandbox::{self, Role};
use crate::threads;
use spapr_devices::error_chain::chain;

/// How a user leaves a guest whose terminal took over theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// All bytes go to the guest.
    None,
    /// Ctrl-A x asks for the end of the guest; Ctrl-A Ctrl-A sends one Ctrl-A.
    CtrlAX,
}

const CTRL_A: u8 = 1;

/// What comes of the bytes a user typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Guest(u8),
    Quit,
    Nothing,
}

/// Recognises the escape in a stream of bytes.
#[derive(Debug)]
struct Keys {
    escape: Escape,
    after_ctrl_a: bool,
}

impl Keys {
    fn next(&mut self, byte: u8) -> Key {
        if self.escape == Escape::None {
            return Key::Guest(byte);
        }
        if !self.after_ctrl_a {
            self.after_ctrl_a = byte == CTRL_A;
            return if self.after_ctrl_a {
                Key::Nothing
            } else {
                Key::Guest(byte)
            };
        }
        self.after_ctrl_a = false;
        match byte {
            b'x' | b'X' => Key::Quit,
            other => Key::Guest(other),
        }
    }
}

/// Starts the thread that reads `input` and gives each piece to `deliver`, which may wait for room;
/// `quit` is called at the escape. The thread ends with the input.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn spawn(
    input: impl Read + Send + 'static,
    escape: Escape,
    mut deliver: impl FnMut(&[u8]) + Send + 'static,
    quit: impl Fn() + Send + 'static,
) -> io::Result<()> {
    threads::spawn("console-input", move || {
        if let Err(error) = sandbox::enter(Role::Reader) {
            log::error!("{}", chain(&error));
            return;
        }
        let mut input = input;
        let mut keys = Keys {
            escape,
            after_ctrl_a: false,
        };
        let mut buffer = [0; 256];
        let mut typed = Vec::with_capacity(buffer.len());
        loop {
            let length = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            typed.clear();
            for &byte in &buffer[..length] {
                match keys.next(byte) {
                    Key::Guest(byte) => typed.push(byte),
                    Key::Quit => quit(),
                    Key::Nothing => {}
                }
            }
            deliver(&typed);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(escape: Escape, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys {
            escape,
            after_ctrl_a: false,
        };
        bytes.iter().map(|&byte| keys.next(byte)).collect()
    }

    #[test]
    fn ctrl_a_x_leaves_a_raw_terminal_and_nothing_else_does() {
        assert_eq!(
            pressed(Escape::CtrlAX, b"x\x01x"),
            [Key::Guest(b'x'), Key::Nothing, Key::Quit]
        );
        assert_eq!(
            pressed(Escape::CtrlAX, b"\x01\x01x"),
            [Key::Nothing, Key::Guest(CTRL_A), Key::Guest(b'x')]
        );
        assert_eq!(
            pressed(Escape::None, b"\x01x"),
            [Key::Guest(CTRL_A), Key::Guest(b'x')]
        );
    }
}
