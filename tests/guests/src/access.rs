//! Loads and stores at any address, which may fail: an interrupt becomes an error.

use core::arch::global_asm;

/// The vector of the interrupt that an access caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted(pub u64);

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Halfword,
    /// Four bytes.
    Word,
    /// Eight bytes.
    Doubleword,
}

/// All widths.
pub const WIDTHS: [Width; 4] = [Width::Byte, Width::Halfword, Width::Word, Width::Doubleword];

// The exception handler goes on at `probe_done` with the vector in r3 when one of the instructions
// between `probe_start` and `probe_end` is interrupted. All of them are leaf functions.
global_asm!(
    ".section .text.probe, \"ax\"",
    ".globl probe_start, probe_end, probe_done",
    ".macro probe_load name, instruction",
    "    .globl \\name",
    "\\name:",
    "    \\instruction 5, 0(3)",
    "    std 5, 0(4)",
    "    li 3, 0",
    "    blr",
    ".endm",
    ".macro probe_store name, instruction",
    "    .globl \\name",
    "\\name:",
    "    \\instruction 4, 0(3)",
    "    li 3, 0",
    "    blr",
    ".endm",
    "probe_start:",
    "    probe_load probe_lbz, lbz",
    "    probe_load probe_lhz, lhz",
    "    probe_load probe_lwz, lwz",
    "    probe_load probe_ld, ld",
    "    probe_store probe_stb, stb",
    "    probe_store probe_sth, sth",
    "    probe_store probe_stw, stw",
    "    probe_store probe_std, std",
    "probe_end:",
    "probe_done:",
    "    blr",
    ".text",
);

unsafe extern "C" {
    fn probe_lbz(address: u64, value: &mut u64) -> u64;
    fn probe_lhz(address: u64, value: &mut u64) -> u64;
    fn probe_lwz(address: u64, value: &mut u64) -> u64;
    fn probe_ld(address: u64, value: &mut u64) -> u64;
    fn probe_stb(address: u64, value: u64) -> u64;
    fn probe_sth(address: u64, value: u64) -> u64;
    fn probe_stw(address: u64, value: u64) -> u64;
    fn probe_std(address: u64, value: u64) -> u64;
}

/// Loads from a guest physical address.
///
/// # Errors
/// When the access is interrupted.
///
/// # Safety
/// If a device answers at the address, reading must have no effect that matters to Rust.
pub unsafe fn load(address: u64, width: Width) -> Result<u64, Interrupted> {
    let mut value = 0;
    let function = match width {
        Width::Byte => probe_lbz,
        Width::Halfword => probe_lhz,
        Width::Word => probe_lwz,
        Width::Doubleword => probe_ld,
    };
    // SAFETY: a load harms nothing, as the caller vouches; its value goes to a variable of ours.
    match unsafe { function(address, &mut value) } {
        0 => Ok(value),
        vector => Err(Interrupted(vector)),
    }
}

/// Stores to a guest physical address.
///
/// # Errors
/// When the access is interrupted.
///
/// # Safety
/// The address must not be RAM that Rust knows of.
pub unsafe fn store(address: u64, width: Width, value: u64) -> Result<(), Interrupted> {
    let function = match width {
        Width::Byte => probe_stb,
        Width::Halfword => probe_sth,
        Width::Word => probe_stw,
        Width::Doubleword => probe_std,
    };
    // SAFETY: nothing of ours is there, as the caller vouches.
    match unsafe { function(address, value) } {
        0 => Ok(()),
        vector => Err(Interrupted(vector)),
    }
}
