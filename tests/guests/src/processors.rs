//! More than one processor: starting the others (RTAS start-cpu, PAPR 7.3.9), and having each run one
//! function at a time.
//!
//! A processor that has nothing to do looks for work again and again. It stops itself at the end.

use core::arch::global_asm;
use core::hint;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::modes::to_compiled_code;
use crate::rtas;

/// Processors that there can be, the first included.
pub const MOST: usize = 8;

// The machine enters at `secondary_start` as at `_start`; r3 is what start-cpu was given: the number
// of the processor. Stacks of 16 KiB are behind each other.
global_asm!(
    ".text",
    ".balign 4",
    ".globl secondary_start",
    "secondary_start:",
    to_compiled_code!(),
    "    lis 1, secondary_stacks@ha",
    "    addi 1, 1, secondary_stacks@l",
    "    sldi 10, 3, 14",
    "    add 1, 1, 10", // the end of the stack of processor 1 is 16 KiB up
    "    li 0, 0",
    "    stdu 0, -128(1)",
    "    bl enter_secondary",
    "    nop",
    "4:",
    "    b 4b",
    ".section .bss, \"aw\", @nobits",
    ".balign 16",
    "secondary_stacks:",
    "    .space 16384 * 7",
    ".text",
);

unsafe extern "C" {
    fn secondary_start();
}

/// What a processor is to do: it is given its number.
pub type Work = fn(usize);

/// One processor's place: 0 for nothing, 1 to stop, else the work's address.
static WORK: [AtomicUsize; MOST] = [const { AtomicUsize::new(NOTHING) }; MOST];
static RUNNING: AtomicU32 = AtomicU32::new(1);

const NOTHING: usize = 0;
const STOP: usize = 1;

/// Starts processors 1 to `count` - 1; returns how many there are then, the first included.
pub fn start(count: usize) -> usize {
    let entry = u32::try_from(secondary_start as *const () as usize).unwrap_or(0);
    let running = || usize::try_from(RUNNING.load(Ordering::Acquire)).unwrap_or(1);
    for number in running()..count.min(MOST) {
        let before = running();
        let number = u32::try_from(number).unwrap_or(0);
        let mut status = [u32::MAX];
        // SAFETY: the processor begins in code that is for it, on a stack of its own.
        unsafe {
            rtas::call(
                rtas::token::START_CPU,
                &[number, entry, number],
                &mut status,
            )
        };
        if status != [0] {
            break;
        }
        while running() == before {
            hint::spin_loop();
        }
    }
    running()
}

/// Has processors 0 to `count` - 1, which run, all do `work`, and waits until they have.
pub fn run_on(count: usize, work: Work) {
    let others = WORK.iter().take(count).skip(1);
    for place in others.clone() {
        place.store(work as *const () as usize, Ordering::Release);
    }
    work(0);
    for place in others {
        while place.load(Ordering::Acquire) != NOTHING {
            hint::spin_loop();
        }
    }
}

/// Stops all processors but the first.
pub fn stop() {
    for place in WORK.iter().skip(1) {
        place.store(STOP, Ordering::Release);
    }
}

/// Called by the first instructions of a processor that was started.
// SAFETY: nothing else defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn enter_secondary(number: usize) -> ! {
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let place = &WORK[number.min(MOST - 1)];
    loop {
        match place.load(Ordering::Acquire) {
            NOTHING => hint::spin_loop(),
            STOP => loop {
                // SAFETY: nothing is left to do for this processor.
                unsafe { rtas::call(rtas::token::STOP_SELF, &[], &mut [0]) };
            },
            address => {
                // SAFETY: what is stored there is a function of this type.
                let work: Work = unsafe { core::mem::transmute::<usize, Work>(address) };
                work(number);
                place.store(NOTHING, Ordering::Release);
            }
        }
    }
}
