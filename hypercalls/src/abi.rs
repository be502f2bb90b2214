//! Hypercall numbers and return codes (PAPR "Hypervisor Call Functions"; the kernel's
//! arch/powerpc/include/asm/hvcall.h lists the same values).

/// The argument registers of a hypercall: r4 to r12 on entry, and again what the guest finds in
/// them on return (`kvm_run.papr_hcall.args`).
pub type Arguments = [u64; 9];

macro_rules! hypercalls {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        $($(#[$doc])* pub const $name: u64 = $number;)*

        /// The name of hypercall `number`, of those known here.
        pub const fn name(number: u64) -> Option<&'static str> {
            match number {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

hypercalls! {
    /// Reads one entry of a DMA window: (liobn, ioba) → r4 = TCE.
    H_GET_TCE = 0x1c,
    /// Writes one entry of a DMA window: (liobn, ioba, tce).
    H_PUT_TCE = 0x20,
    /// Writes a scratch register (SPRG0).
    H_SET_SPRG0 = 0x24,
    /// Reads from a virtual terminal: (reg) → length, two doublewords.
    H_GET_TERM_CHAR = 0x54,
    /// Writes to a virtual terminal: (reg, length, two doublewords).
    H_PUT_TERM_CHAR = 0x58,
    /// Registers memory that the hypervisor reads and writes for a processor: (flags, processor, address).
    H_REGISTER_VPA = 0xdc,
    /// Writes one value into a run of entries: (liobn, ioba, value, count).
    H_STUFF_TCE = 0x138,
    /// Writes a list of entries: (liobn, ioba, list address, count).
    H_PUT_TCE_INDIRECT = 0x13c,
    /// Asks what mitigations against speculation the processor needs.
    H_GET_CPU_CHARACTERISTICS = 0x1c8,
    /// Names the process table of a radix guest.
    H_REGISTER_PROC_TBL = 0x37c,
    /// Sets a processor mode: interrupt endianness, relocation on interrupt, watch points.
    H_SET_MODE = 0x31c,
    /// A random doubleword.
    H_RANDOM = 0x300,
    /// Tells where the pages of a XIVE source are: (flags, lisn) → flags, management page, trigger
    /// page, page shift.
    H_INT_GET_SOURCE_INFO = 0x3a8,
    /// Says where a XIVE source's events go: (flags, lisn, server, priority, event data).
    H_INT_SET_SOURCE_CONFIG = 0x3ac,
    /// Tells where a XIVE source's events go: (flags, lisn) → server, priority, event data.
    H_INT_GET_SOURCE_CONFIG = 0x3b0,
    /// Tells of a XIVE event queue's notification page: (flags, server, priority) → page, shift.
    H_INT_GET_QUEUE_INFO = 0x3b4,
    /// Places a XIVE event queue: (flags, server, priority, address, shift).
    H_INT_SET_QUEUE_CONFIG = 0x3b8,
    /// Tells where a XIVE event queue is: (flags, server, priority) → flags, address, shift, offset.
    H_INT_GET_QUEUE_CONFIG = 0x3bc,
    /// Has XIVE report a processor's interrupt state to memory: (flags, address).
    H_INT_SET_OS_REPORTING_LINE = 0x3c0,
    /// Tells where XIVE reports a processor's interrupt state to: (flags, server) → address.
    H_INT_GET_OS_REPORTING_LINE = 0x3c4,
    /// Loads from, or stores to, a XIVE source's management page: (flags, lisn, offset, value) →
    /// value.
    H_INT_ESB = 0x3c8,
    /// Waits until a XIVE source's events are in their queue: (flags, lisn).
    H_INT_SYNC = 0x3cc,
    /// Resets all of XIVE: (flags).
    H_INT_RESET = 0x3d0,
    /// Interrupts processors at 0x100, whether they have interrupts enabled or not: (target).
    H_SIGNAL_SYS_RESET = 0x380,
    /// Not PAPR's: an RTAS call, made by the stub that the device tree names.
    KVMPPC_H_RTAS = 0xf000,
}

/// What a hypercall returns in r3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ReturnCode(pub i64);

impl ReturnCode {
    /// H_SUCCESS
    pub const SUCCESS: Self = Self(0);
    /// H_BUSY: nothing was done, try again.
    pub const BUSY: Self = Self(1);
    /// H_HARDWARE
    pub const HARDWARE: Self = Self(-1);
    /// H_FUNCTION: no such hypercall.
    pub const FUNCTION: Self = Self(-2);
    /// H_PRIVILEGE
    pub const PRIVILEGE: Self = Self(-3);
    /// H_PARAMETER: an argument is out of range.
    pub const PARAMETER: Self = Self(-4);
    /// H_RESOURCE
    pub const RESOURCE: Self = Self(-16);
    /// H_NOT_AVAILABLE
    pub const NOT_AVAILABLE: Self = Self(-9);
    /// H_NOT_ENOUGH_RESOURCES: the only failure of a TCE call that Linux guests act on.
    pub const NOT_ENOUGH_RESOURCES: Self = Self(-44);
    /// H_P2: the second argument is out of range.
    pub const P2: Self = Self(-55);
    /// H_P3
    pub const P3: Self = Self(-56);
    /// H_P4
    pub const P4: Self = Self(-57);
    /// H_P5
    pub const P5: Self = Self(-58);
    /// H_UNSUPPORTED_FLAG for the flag's bit 0 (the lowest of the range of codes).
    pub const UNSUPPORTED_FLAG_START: Self = Self(-256);

    /// The code as the register holds it.
    pub const fn to_register(self) -> u64 {
        self.0.cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypercalls_know_their_names() {
        assert_eq!(name(0x13c), Some("H_PUT_TCE_INDIRECT"));
        assert_eq!(name(0xf000), Some("KVMPPC_H_RTAS"));
        assert_eq!(name(0x9999), None);
    }

    #[test]
    fn failures_are_sign_extended_into_the_register() {
        assert_eq!(ReturnCode::PARAMETER.to_register(), 0xffff_ffff_ffff_fffc);
    }
}
