//! Text to the terminal, by H_PUT_TERM_CHAR.

use core::fmt;

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
        for chunk in text.as_bytes().chunks(16) {
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
}
