//! Text to the terminal, by H_PUT_TERM_CHAR.

use core::fmt::{self, Write};

use crate::hypercall::{call, code, number};

/// The machine's default terminal.
const DEFAULT_TERMINAL: u64 = 0;

/// Writes to the machine's default terminal, waiting while it is busy.
///
/// ```ignore
/// use core::fmt::Write;
/// writeln!(Console, "{} calls", 12).unwrap_or_default();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_bytes(text.as_bytes())
    }
}

fn write_bytes(bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.chunks(16) {
        let mut bytes = [0; 16];
        bytes[..chunk.len()].copy_from_slice(chunk);
        let [first, second] = [0, 8].map(|at| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |part| u64::from_be_bytes(*part))
        });
        let arguments = [DEFAULT_TERMINAL, chunk.len() as u64, first, second];
        loop {
            // SAFETY: writing to the terminal changes no memory.
            match unsafe { call(number::H_PUT_TERM_CHAR, arguments) }.code {
                code::H_SUCCESS => break,
                code::H_BUSY => {}
                _ => return Err(fmt::Error),
            }
        }
    }
    Ok(())
}

/// A line put together before it goes to the terminal: as few hypercalls as it takes. What is longer
/// than 128 bytes goes in pieces.
#[derive(Clone, Debug)]
pub struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            length: 0,
        }
    }
}

impl Line {
    /// Writes the line with its end to the terminal.
    ///
    /// # Errors
    /// When the terminal does not take it.
    pub fn print(mut self) -> fmt::Result {
        self.write_str("\n")?;
        self.flush()
    }

    fn flush(&mut self) -> fmt::Result {
        let length = core::mem::take(&mut self.length);
        write_bytes(&self.bytes[..length])
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.bytes.len() {
                self.flush()?;
            }
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}
