//! From the machine's first instruction to Rust.
//!
//! The machine enters at `_start` in real mode, big- or little-endian, in 32-bit or 64-bit mode: with
//! the device tree's address in r3 and 0 in r5, or, if it has Open Firmware, with the firmware's
//! address in r5 (the kernel's Documentation/arch/powerpc/booting.rst). What follows sets the modes
//! that compiled code expects, clears its data, sets up a stack and calls `guest_main`.

use core::arch::global_asm;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;
use crate::fdt::{Fdt, HEADER_BYTES, total_bytes};
use crate::machine::Machine;
use crate::modes::to_compiled_code;
use crate::open_firmware::OpenFirmware;
use crate::{exception, rtas};

global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    to_compiled_code!(),
    "    lis 1, boot_stack_end@ha",
    "    addi 1, 1, boot_stack_end@l",
    "    li 0, 0",
    "    stdu 0, -128(1)",
    "    lis 10, bss_start@ha",
    "    addi 10, 10, bss_start@l",
    "    lis 11, bss_end@ha",
    "    addi 11, 11, bss_end@l",
    "4:",
    "    cmpld 10, 11",
    "    bge 5f",
    "    std 0, 0(10)",
    "    addi 10, 10, 8",
    "    b 4b",
    "5:",
    "    bl enter_guest",
    "    nop",
    "6:",
    "    b 6b",
    // Not in .bss, which is cleared while the stack is in use.
    ".section .data, \"aw\"",
    ".balign 16",
    "boot_stack:",
    "    .space 65536",
    "boot_stack_end:",
    ".text",
);

unsafe extern "Rust" {
    /// What the guest does; defined by [`guest!`](crate::guest). Back from it, the machine is
    /// powered off.
    fn guest_main(machine: &Machine<'static>);
}

static ENTERED: AtomicU64 = AtomicU64::new(0);

/// Makes `fn(&Machine)` the guest.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        // SAFETY: nothing else defines the symbol: a guest is one program.
        #[unsafe(no_mangle)]
        fn guest_main(machine: &$crate::machine::Machine<'static>) {
            let main: fn(&$crate::machine::Machine<'static>) = $main;
            main(machine);
        }
    };
}

/// Called by the first instructions with the device tree's address or that of the firmware.
// SAFETY: nothing else defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn enter_guest(device_tree: u64, _: u64, firmware: u64) -> ! {
    ENTERED.store(Clock::new(1).now(), Ordering::Relaxed);
    let tree = if firmware == 0 {
        // SAFETY: the machine passes the address of a device tree in RAM; guests do not write there.
        unsafe { tree_at(device_tree) }
    } else {
        // SAFETY: the machine passes the firmware's entry, and nothing was written yet but our own
        // image.
        unsafe { OpenFirmware::new(firmware) }.into_tree()
    };
    // The vectors were the firmware's.
    exception::install();
    match tree {
        Some(tree) => {
            // SAFETY: the guest's program defines it with this signature, by the macro above.
            unsafe { guest_main(&Machine::new(tree)) };
            rtas::power_off()
        }
        None => rtas::stop_with("no device tree"),
    }
}

/// The time base as the guest's first instructions found it.
pub fn ticks() -> u64 {
    ENTERED.load(Ordering::Relaxed)
}

/// The device tree at an address.
///
/// # Safety
/// There must be a device tree, and nothing may change it.
unsafe fn tree_at(address: u64) -> Option<Fdt<'static>> {
    let start = core::ptr::with_exposed_provenance::<u8>(usize::try_from(address).ok()?);
    // SAFETY: as the caller vouches.
    let header = unsafe { slice::from_raw_parts(start, HEADER_BYTES) };
    let bytes = total_bytes(header)?;
    // SAFETY: as the caller vouches; the header says how long it is.
    Fdt::new(unsafe { slice::from_raw_parts(start, bytes) })
}

/// Says where and why, and stops the machine.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    rtas::stop_with(format_args!("{info}"))
}
