//! The interrupt source of a device, taken without an interrupt of the processor's: from the event queue of a XIVE, or
//! by the hypercall that takes what an XICS has.

use spapr_test_guests::access::{Width, load};
use spapr_test_guests::clock::Clock;
use spapr_test_guests::hypercall::{call, code, number};
use spapr_test_guests::machine::{HostBridge, Machine, PciFunction};
use spapr_test_guests::rtas;

/// How long an interrupt may take, in seconds.
const PATIENCE: u64 = 20;
/// Where the event queue is, and its size as a power of two.
const QUEUE: u64 = 64 << 20;
const QUEUE_SHIFT: u64 = 16;
const PRIORITY: u64 = 6;
/// What the source puts into the queue, and the bit of the first round.
const DATA: u64 = 0x1234_5678;
const FIRST_ROUND: u64 = 1 << 31;
/// Offsets in a source's management page: an interrupt ends; it may come, and none is pending.
const END: u64 = 0;
const ALLOW: u64 = 0xc00;

const H_EOI: u64 = 0x64;
const H_CPPR: u64 = 0x68;
const H_XIRR: u64 = 0x74;
/// All priorities interrupt.
const LEAST_FAVOURED: u64 = 0xff;
/// The source in what H_XIRR gives.
const XISR: u64 = 0xff_ffff;

/// Of ibm,change-msi: MSI, not MSI-X.
const CHANGE_MSI: u32 = 3;

/// A source that interrupts the only processor.
pub(crate) struct Source {
    lisn: u64,
    is_level: bool,
    has_xive: bool,
    taken: u64,
    idle: u64,
}

impl Source {
    /// Level-triggered source `lisn`.
    pub(crate) fn of_line(machine: &Machine<'_>, lisn: u64) -> Self {
        Self::new(machine, lisn, true)
    }

    /// The source of the only message that `function` gets.
    pub(crate) fn of_message(
        machine: &Machine<'_>,
        bridge: &HostBridge<'_>,
        function: &PciFunction<'_>,
    ) -> Self {
        let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let (high, low) = (half(bridge.buid >> 32), half(bridge.buid));
        let address = function.config_address;
        let change = [address, high, low, CHANGE_MSI, 1, 1];
        let [granted, ..] = serve::<3>(machine, "ibm,change-msi", &change);
        if granted != 1 {
            rtas::stop_with("the edu gets no message");
        }
        let query = [address, high, low, 0];
        let [lisn, _] = serve::<2>(machine, "ibm,query-interrupt-source-number", &query);
        Self::new(machine, lisn.into(), false)
    }

    fn new(machine: &Machine<'_>, lisn: u64, is_level: bool) -> Self {
        let source = Self {
            lisn,
            is_level,
            has_xive: machine.has_xive(),
            taken: 0,
            idle: 0,
        };
        if source.has_xive {
            let queue = [1, 0, PRIORITY, QUEUE, QUEUE_SHIFT];
            make(number::H_INT_SET_QUEUE_CONFIG, queue);
            let target = [2, lisn, 0, PRIORITY, DATA];
            make(number::H_INT_SET_SOURCE_CONFIG, target);
            make(number::H_INT_ESB, [0, lisn, ALLOW, 0, 0]);
        } else {
            make(H_CPPR, [LEAST_FAVOURED, 0, 0, 0, 0]);
            let lisn = u32::try_from(lisn).unwrap_or(0);
            let [] = serve::<0>(machine, "ibm,set-xive", &[lisn, 0, 5]);
        }
        source
    }

    /// Waits for an interrupt that the device has raised, which `acknowledge` ends and says, and lets the next one come.
    pub(crate) fn take(&mut self, clock: Clock, mut acknowledge: impl FnMut() -> bool) {
        let mut is_taken = false;
        while !is_taken {
            let mut given = 0;
            if !clock.wait_until(PATIENCE, || self.has_come(&mut given)) {
                rtas::stop_with(format_args!("interrupt {} does not come", self.taken));
            }
            is_taken = acknowledge();
            if is_taken {
                self.taken += 1;
            } else {
                self.idle += 1;
            }
            match (self.has_xive, self.is_level) {
                (true, true) => make(number::H_INT_ESB, [0, self.lisn, END, 0, 0]),
                (true, false) => make(number::H_INT_ESB, [0, self.lisn, ALLOW, 0, 0]),
                (false, _) => make(H_EOI, [given, 0, 0, 0, 0]),
            };
        }
    }

    /// How many were taken, and how many came that the device had not raised.
    pub(crate) const fn taken_and_idle(&self) -> (u64, u64) {
        (self.taken, self.idle)
    }

    /// Whether the next interrupt is there; of an XICS, what it gave goes to `given`.
    fn has_come(&self, given: &mut u64) -> bool {
        if self.has_xive {
            // SAFETY: the queue is where nothing of Rust's is.
            let event = unsafe { load(QUEUE + 4 * (self.taken + self.idle), Width::Word) };
            let event = event.ok().and_then(|word| u32::try_from(word).ok());
            return event.map(|word| word.swap_bytes().into()) == Some(FIRST_ROUND | DATA);
        }
        *given = make(H_XIRR, [0; 5]);
        match *given & XISR {
            0 => false,
            lisn if lisn == self.lisn => true,
            other => rtas::stop_with(format_args!("source {other:#x} interrupts")),
        }
    }
}

/// Makes a call that has to succeed; its first value.
fn make(nr: u64, arguments: [u64; 5]) -> u64 {
    // SAFETY: no memory is changed but the event queue, where nothing of Rust's is.
    let answer = unsafe { call(nr, arguments) };
    if answer.code != code::H_SUCCESS {
        rtas::stop_with(format_args!("hypercall {nr:#x} returned {}", answer.code));
    }
    let [first, ..] = answer.registers;
    first
}

/// Has a service done that has to succeed; what it returns beside its status.
fn serve<const N: usize>(machine: &Machine<'_>, service: &str, arguments: &[u32]) -> [u32; N] {
    let Some(token) = machine.rtas_token(service) else {
        rtas::stop_with(format_args!("there is no {service}"));
    };
    let mut returns = [u32::MAX; 4];
    // SAFETY: these services change no memory but the returns.
    unsafe { rtas::call(token, arguments, &mut returns[..=N]) };
    if returns[0] != 0 {
        let status = returns[0].cast_signed();
        rtas::stop_with(format_args!("{service} returned {status}"));
    }
    let mut values = [0; N];
    values.copy_from_slice(&returns[1..=N]);
    values
}
