//! Interrupts (Power ISA Book III, chapter 7): none is expected but those of a probed access.
//!
//! A small piece of code is put at each vector. It runs in whatever byte order interrupts are taken
//! in, makes the processor little-endian, and goes on to the common handler below.

use core::arch::global_asm;
use core::ptr;

use crate::rtas;

/// The vectors: system reset, machine check, data storage, ….
const FIRST_VECTOR: u32 = 0x100;
const LAST_VECTOR: u32 = 0xf80;
const VECTOR_STEP: u32 = 0x80;

/// `tdi 0, 0, 0x48`, which in the other byte order is `b .+8`.
const BYTE_ORDER_FORK: u32 = 0x0800_0048;
const WORDS_IN_ONE_ORDER: usize = 11;
const WORDS: usize = 2 + 2 * WORDS_IN_ONE_ORDER;

unsafe extern "C" {
    fn exception_entry();
    fn probe_start();
    fn probe_end();
    fn probe_done();
}

// r3: vector; r4: SRR0; r5: SRR1. Everything non-volatile, LR, r1 and r2 are as interrupted.
// Recovering, r3 is still the vector.
global_asm!(
    ".section .text.exception, \"ax\"",
    ".globl exception_entry",
    "exception_entry:",
    "    lis 10, exception_stack_end@ha",
    "    addi 10, 10, exception_stack_end@l",
    "    std 1, -8(10)",
    "    mflr 11",
    "    std 11, -16(10)",
    "    std 3, -24(10)",
    "    std 5, -32(10)",
    "    std 2, -40(10)",
    "    addi 1, 10, -256",
    "    li 0, 0",
    "    std 0, 0(1)",
    "    lis 2, .TOC.@ha",
    "    addi 2, 2, .TOC.@l",
    "    bl resume_address",
    "    nop",
    "    mtsrr0 3",
    "    lis 10, exception_stack_end@ha",
    "    addi 10, 10, exception_stack_end@l",
    "    ld 5, -32(10)",
    "    mtsrr1 5",
    "    ld 11, -16(10)",
    "    mtlr 11",
    "    ld 3, -24(10)",
    "    ld 2, -40(10)",
    "    ld 1, -8(10)",
    "    rfid",
    ".section .data, \"aw\"",
    ".balign 16",
    "exception_stack:",
    "    .space 16384",
    "exception_stack_end:",
    ".text",
);

/// The code for one vector.
fn stub(vector: u32, handler: u32) -> [u32; WORDS] {
    let same_in_both = [
        0x3860_0000 | vector,           // li r3, vector
        0x7c9a_02a6,                    // mfsrr0 r4
        0x7cbb_02a6,                    // mfsrr1 r5
        0x3d40_0000 | handler >> 16,    // lis r10, handler@h
        0x614a_0000 | handler & 0xffff, // ori r10, r10, handler@l
        0x7d5a_03a6,                    // mtsrr0 r10
        0x7d60_00a6,                    // mfmsr r11
        0x616b_2001,                    // ori r11, r11, MSR_FP | MSR_LE
        0x656b_0280,                    // oris r11, r11, MSR_VEC | MSR_VSX
        0x7d7b_03a6,                    // mtsrr1 r11
        0x4c00_0024,                    // rfid
    ];
    let mut words = [0; WORDS];
    words[0] = BYTE_ORDER_FORK;
    words[1] = 0x4800_0000 | (4 * (1 + 11)); // b past the words in the other order
    for (to, word) in words[2..].iter_mut().zip(same_in_both) {
        *to = word.swap_bytes();
    }
    words[2 + WORDS_IN_ONE_ORDER..].copy_from_slice(&same_in_both);
    words
}

/// Writes the code to all vectors.
pub(crate) fn install() {
    let handler = u32::try_from(exception_entry as *const () as usize).unwrap_or(0);
    let mut vector = FIRST_VECTOR;
    while vector <= LAST_VECTOR {
        for (offset, word) in (0u32..).step_by(4).zip(stub(vector, handler)) {
            let address = u64::from(vector + offset);
            let place =
                ptr::with_exposed_provenance_mut::<u32>(usize::try_from(address).unwrap_or(0));
            // SAFETY: the machine leaves RAM below 4 MiB to the guest; this is the only code that
            // uses the vectors.
            unsafe { place.write_volatile(word) };
        }
        // SAFETY: the instructions only make what was written visible to instruction fetch.
        unsafe { make_executable(vector.into()) };
        vector += VECTOR_STEP;
    }
}

/// Makes 128 bytes that were written as data visible to instruction fetch.
///
/// # Safety
/// The address must be in RAM.
unsafe fn make_executable(address: u64) {
    // SAFETY: cache maintenance of one block; nothing but the caches changes.
    unsafe {
        core::arch::asm!(
            "dcbst 0, {address}", "sync", "icbi 0, {address}", "sync", "isync",
            address = in(reg_nonzero) address, options(nostack),
        );
    }
}

/// Where to go on after an interrupt at `from`: behind the access if it was a probed one.
// SAFETY: nothing else defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn resume_address(vector: u64, from: u64, state: u64) -> u64 {
    let address = |symbol: unsafe extern "C" fn()| symbol as *const () as u64;
    if (address(probe_start)..address(probe_end)).contains(&from) {
        return address(probe_done);
    }
    rtas::stop_with(format_args!(
        "interrupt {vector:#x} at {from:#x}, SRR1 {state:#x}"
    ))
}
