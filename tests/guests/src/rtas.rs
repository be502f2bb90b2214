//! Calls of run-time abstraction services (PAPR chapter 7), by the hypercall that the machine's
//! stub makes.

use core::fmt::{self, Write};

use crate::console::Console;
use crate::hypercall::{call as hypercall, number};

/// Tokens, as QEMU's pseries machine and those that follow it number them.
pub mod token {
    /// Ends the machine.
    pub const POWER_OFF: u32 = 0x2003;
    /// Starts the machine again.
    pub const SYSTEM_REBOOT: u32 = 0x2004;
    /// Starts a processor.
    pub const START_CPU: u32 = 0x2006;
    /// Stops the processor.
    pub const STOP_SELF: u32 = 0x2007;
    /// Reads a system parameter into memory.
    pub const GET_SYSTEM_PARAMETER: u32 = 0x2008;
    /// Says why the operating system ends.
    pub const OS_TERM: u32 = 0x201f;
}

/// Words of arguments and returns that a call has at most.
pub const MOST_WORDS: usize = 16;
const HEADER_WORDS: usize = 3;

/// An argument block, big-endian, as it lies in memory.
#[derive(Debug)]
#[repr(C, align(8))]
struct Block([u32; HEADER_WORDS + 2 * MOST_WORDS]);

/// Calls a service; the words that it returns go to `returns`. At most [`MOST_WORDS`] of each.
/// Returns the hypercall's return code.
///
/// # Safety
/// A service may write to memory that its arguments name, stop the processor or end the machine:
/// the caller must know that this one harms nothing that Rust relies on.
pub unsafe fn call(token: u32, arguments: &[u32], returns: &mut [u32]) -> i64 {
    let mut block = Block([0; _]);
    let count = |words: &[u32]| u32::try_from(words.len()).unwrap_or(u32::MAX);
    let header = [token, count(arguments), count(returns)];
    for (to, word) in block.0.iter_mut().zip(header.iter().chain(arguments)) {
        *to = word.to_be();
    }
    let address = (&raw mut block).expose_provenance() as u64;
    // SAFETY: the service returns words in the block only, or what the caller vouches for.
    let code = unsafe { hypercall(number::KVMPPC_H_RTAS, [address]) }.code;
    let returned = block.0.iter().skip(HEADER_WORDS + arguments.len());
    for (to, word) in returns.iter_mut().zip(returned) {
        *to = u32::from_be(*word);
    }
    code
}

/// Ends the machine.
pub fn power_off() -> ! {
    loop {
        // SAFETY: nothing comes after it.
        unsafe { call(token::POWER_OFF, &[u32::MAX; 2], &mut [0]) };
    }
}

/// Starts the machine again.
pub fn reboot() -> ! {
    // SAFETY: nothing comes after it.
    unsafe { call(token::SYSTEM_REBOOT, &[], &mut [0]) };
    stop_with("the machine does not start again")
}

/// Says what is wrong with the guest and ends the machine.
pub fn stop_with(what: impl fmt::Display) -> ! {
    // The machine's end is what is left to tell when the terminal does not work.
    writeln!(Console, "\nGUEST-FAILED {what}").unwrap_or_default();
    power_off()
}
