//! Hypercalls (PAPR, "Hypervisor Call Functions"): number in r3, arguments from r4 on, `sc 1`.

use core::arch::asm;

/// Numbers of hypercalls.
pub mod number {
    /// Reads a translation control entry.
    pub const H_GET_TCE: u64 = 0x1c;
    /// Writes a translation control entry.
    pub const H_PUT_TCE: u64 = 0x20;
    /// Sets the processor's SPRG0.
    pub const H_SET_SPRG0: u64 = 0x24;
    /// Reads from a terminal.
    pub const H_GET_TERM_CHAR: u64 = 0x54;
    /// Writes to a terminal.
    pub const H_PUT_TERM_CHAR: u64 = 0x58;
    /// Writes one value to many translation control entries.
    pub const H_STUFF_TCE: u64 = 0x138;
    /// Writes a list of translation control entries.
    pub const H_PUT_TCE_INDIRECT: u64 = 0x13c;
    /// Tells the processor's behaviour in speculation.
    pub const H_GET_CPU_CHARACTERISTICS: u64 = 0x1c8;
    /// Sets a mode of the processors.
    pub const H_SET_MODE: u64 = 0x31c;
    /// Tells where the process table is.
    pub const H_REGISTER_PROC_TBL: u64 = 0x37c;
    /// Tells where the pages of an interrupt source are (XIVE).
    pub const H_INT_GET_SOURCE_INFO: u64 = 0x3a8;
    /// Says where the events of an interrupt source go.
    pub const H_INT_SET_SOURCE_CONFIG: u64 = 0x3ac;
    /// Tells where the events of an interrupt source go.
    pub const H_INT_GET_SOURCE_CONFIG: u64 = 0x3b0;
    /// Tells of the notification page of an event queue.
    pub const H_INT_GET_QUEUE_INFO: u64 = 0x3b4;
    /// Places an event queue.
    pub const H_INT_SET_QUEUE_CONFIG: u64 = 0x3b8;
    /// Tells where an event queue is.
    pub const H_INT_GET_QUEUE_CONFIG: u64 = 0x3bc;
    /// Has a processor's interrupt state reported to memory.
    pub const H_INT_SET_OS_REPORTING_LINE: u64 = 0x3c0;
    /// Tells where a processor's interrupt state is reported to.
    pub const H_INT_GET_OS_REPORTING_LINE: u64 = 0x3c4;
    /// Loads from, or stores to, an interrupt source's management page.
    pub const H_INT_ESB: u64 = 0x3c8;
    /// Waits until the events of an interrupt source are in their queue.
    pub const H_INT_SYNC: u64 = 0x3cc;
    /// Resets the interrupt controller.
    pub const H_INT_RESET: u64 = 0x3d0;
    /// Calls a run-time abstraction service; r4 is the argument block's address.
    pub const KVMPPC_H_RTAS: u64 = 0xf000;
}

/// Return codes.
pub mod code {
    /// Done.
    pub const H_SUCCESS: i64 = 0;
    /// Busy: try again.
    pub const H_BUSY: i64 = 1;
    /// No such hypercall.
    pub const H_FUNCTION: i64 = -2;
    /// An argument is wrong.
    pub const H_PARAMETER: i64 = -4;
    /// The second argument is wrong.
    pub const H_P2: i64 = -55;
    /// The third argument is wrong.
    pub const H_P3: i64 = -56;
    /// The fourth argument is wrong.
    pub const H_P4: i64 = -57;
    /// The fifth argument is wrong.
    pub const H_P5: i64 = -58;
}

/// What comes back from a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The return code, from r3.
    pub code: i64,
    /// r4 to r12.
    pub registers: [u64; 9],
}

/// Makes a hypercall; `arguments` are r4 to r12.
///
/// # Safety
/// A hypercall may write to memory, stop the processor or end the machine: the caller must know
/// that this one harms nothing that Rust relies on.
#[inline]
pub unsafe fn hypercall(number: u64, arguments: &[u64; 9]) -> Answer {
    let [
        mut r4,
        mut r5,
        mut r6,
        mut r7,
        mut r8,
        mut r9,
        mut r10,
        mut r11,
        mut r12,
    ] = *arguments;
    let mut r3 = number;
    // SAFETY: besides what the caller vouches for, a hypercall changes no more than the volatile
    // registers, which are all named.
    unsafe {
        asm!(
            "sc 1",
            inout("r3") r3, inout("r4") r4, inout("r5") r5, inout("r6") r6, inout("r7") r7,
            inout("r8") r8, inout("r9") r9, inout("r10") r10, inout("r11") r11, inout("r12") r12,
            out("r0") _, out("ctr") _, out("xer") _,
            out("cr0") _, out("cr1") _, out("cr5") _, out("cr6") _, out("cr7") _,
            options(nostack),
        );
    }
    Answer {
        code: r3.cast_signed(),
        registers: [r4, r5, r6, r7, r8, r9, r10, r11, r12],
    }
}

/// Makes a hypercall with up to nine arguments.
///
/// # Safety
/// As for [`hypercall`].
#[inline]
pub unsafe fn call<const N: usize>(number: u64, arguments: [u64; N]) -> Answer {
    let mut all = [0; 9];
    for (to, from) in all.iter_mut().zip(arguments) {
        *to = from;
    }
    // SAFETY: as the caller vouches.
    unsafe { hypercall(number, &all) }
}
