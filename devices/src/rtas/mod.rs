//! Run-time abstraction services (RTAS; PAPR chapter 7): what a guest asks its firmware for.
//!
//! The guest calls a stub of a few instructions that the device tree names; the stub makes the
//! hypercall KVMPPC_H_RTAS with the address of an argument block. [`handle`] serves it.
//!
//! | file | services |
//! |---|---|
//! | `call` | none: the argument block |
//! | `console` | display-character |
//! | `cpu` | start, stop and state of processors |
//! | `dma_window` | dynamic DMA windows |
//! | `eeh` | errors that the host freezes PCI devices for |
//! | `error_injection` | errors that guests have their PCI devices run into |
//! | `events` | event-scan, check-exception |
//! | `msi` | MSI and MSI-X |
//! | `parameters` | system parameters |
//! | `pci` | PCI configuration space |
//! | `power` | power-off, reboot, the end of an operating system |
//! | `time` | the clock |

mod call;
mod console;
mod cpu;
mod dma_window;
mod eeh;
mod error_injection;
mod events;
mod msi;
mod parameters;
mod pci;
mod power;
mod time;

use log::Level;
use spapr_hypercalls::abi::ReturnCode;
use spapr_hypercalls::address::GuestPhysicalAddress;
use vm_memory::GuestMemoryMmap;

use crate::dma_windows::DynamicWindows;
use crate::guest_message;
use crate::limited_message;
use crate::pci::HostBridge;
use crate::rate_limit::RateLimiter;
use crate::vty::SinkStatus;
use call::Call;
pub use dma_window::{APPLICABLE as DDW_APPLICABLE, extensions as ddw_extensions};
pub use error_injection::{ErrorInjection, kinds as error_kinds};
pub use events::PowerEvents;
pub use time::TimeOfDayClock;

/// The instructions of the stub at `linux,rtas-entry`, big-endian as RTAS is called: they hand the
/// argument block's address (r3) on as the hypercall's first argument (r4).
pub const STUB: [u32; 5] = [
    0x7c64_1b78, // mr r4, r3
    0x3c60_0000, // lis r3, 0
    0x6063_f000, // ori r3, r3, KVMPPC_H_RTAS
    0x4400_0022, // sc 1
    0x4e80_0020, // blr
];

/// The status that a service returns in its first return word (PAPR 7.2.8, "Return Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Success,
    /// event-scan, check-exception: there is no event; ibm,slot-error-detail: there is no log of the error.
    NoEvent,
    Hardware,
    Busy,
    /// Parameter error, and "not supported".
    Parameter,
    /// Errors cannot be injected: already open, or not open with that token.
    NotOpen,
    /// ibm,set-slot-reset: there is no fundamental reset.
    NoFundamentalReset,
    /// ibm,get-system-parameter: the buffer is too short for a length.
    ParameterBuffer,
}

impl Status {
    const fn word(self) -> u32 {
        let code: i32 = match self {
            Self::Success => 0,
            Self::NoEvent => 1,
            Self::Hardware => -1,
            Self::Busy => -2,
            Self::Parameter => -3,
            Self::NotOpen => -4,
            Self::NoFundamentalReset => -8,
            Self::ParameterBuffer => -9999,
        };
        code.cast_unsigned()
    }
}

/// What the vCPU that made a call does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on in the guest.
    Done,
    /// It stops until another processor starts it.
    StopSelf,
    /// The machine powers off.
    PowerOff,
    /// The machine starts again.
    Reboot,
    /// The guest's operating system has failed, for this reason if it gave one: printable, at most
    /// 256 bytes.
    OsTerm(Option<Box<str>>),
}

/// Whether a processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuState {
    /// It waits for start-cpu.
    Stopped,
    /// It has been told to stop and has not yet.
    Stopping,
    /// It runs.
    Running,
}

/// Why a processor could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartCpuError {
    /// There is no processor with that interrupt server number.
    #[error("no such processor")]
    NoSuchCpu,
    /// It is not stopped.
    #[error("it is not stopped")]
    NotStopped,
}

/// What RTAS services need of the machine. Methods are called on the thread of the vCPU that made
/// the call and do not wait for other vCPUs.
pub trait Platform {
    /// Starts the stopped processor with interrupt server number `server` at `entry` with `r3` in
    /// r3, 64-bit, in real mode, with the caller's endianness and place of interrupts.
    ///
    /// # Errors
    /// Why it was not started.
    fn start_cpu(&self, server: u32, entry: u64, r3: u64) -> Result<(), StartCpuError>;

    /// Whether the processor with interrupt server number `server` runs; `None` if there is none.
    fn cpu_state(&self, server: u32) -> Option<CpuState>;

    /// All PCI host bridges.
    fn host_bridges(&self) -> &[HostBridge];

    /// The dynamic DMA windows of the host bridges. Unlike the others, calls may wait for another
    /// vCPU's.
    fn dynamic_windows(&self) -> &dyn DynamicWindows;

    /// Writes to the default console.
    fn console(&self, bytes: &[u8]) -> SinkStatus;

    /// The guest's clock.
    fn clock(&self) -> &TimeOfDayClock;

    /// Requests about the guest's power.
    fn power_events(&self) -> &PowerEvents;

    /// Whether errors can be injected now.
    fn error_injection(&self) -> &ErrorInjection;

    /// The machine's UUID, in the order in which it is printed.
    fn uuid(&self) -> [u8; 16];

    /// Size of guest memory in bytes.
    fn memory_bytes(&self) -> u64;

    /// Number of processors, and how many there can be.
    fn cpu_count(&self) -> (u32, u32);
}

type Handler = fn(&mut Call<'_>, &dyn Platform) -> Outcome;

/// One RTAS service.
#[derive(Clone, Copy)]
pub struct Service {
    /// Its name: a property of the device tree's `/rtas` node.
    pub name: &'static str,
    /// Its token: the value of that property, and the first word of a call's argument block.
    pub token: u32,
    /// How many arguments and returns a call has at least; more are ignored.
    arguments: u32,
    returns: u32,
    handler: Handler,
}

const fn service(
    name: &'static str,
    token: u32,
    (arguments, returns): (u32, u32),
    handler: Handler,
) -> Service {
    Service {
        name,
        token,
        arguments,
        returns,
        handler,
    }
}

/// The services served here. Tokens are numbered as QEMU numbers them (include/hw/ppc/spapr.h).
pub const SERVICES: &[Service] = &[
    service(
        "display-character",
        0x2000,
        (1, 1),
        console::display_character,
    ),
    service("get-time-of-day", 0x2001, (0, 8), time::get_time_of_day),
    service("set-time-of-day", 0x2002, (7, 1), time::set_time_of_day),
    service("power-off", 0x2003, (2, 1), power::power_off),
    service("system-reboot", 0x2004, (0, 1), power::system_reboot),
    service(
        "query-cpu-stopped-state",
        0x2005,
        (1, 2),
        cpu::query_cpu_stopped_state,
    ),
    service("start-cpu", 0x2006, (3, 1), cpu::start_cpu),
    service("stop-self", 0x2007, (0, 1), cpu::stop_self),
    service(
        "ibm,get-system-parameter",
        0x2008,
        (3, 1),
        parameters::get_system_parameter,
    ),
    service(
        "ibm,set-system-parameter",
        0x2009,
        (2, 1),
        parameters::set_system_parameter,
    ),
    service("check-exception", 0x200e, (6, 1), events::check_exception),
    service("event-scan", 0x200f, (4, 1), events::event_scan),
    service("read-pci-config", 0x2014, (2, 2), pci::read_pci_config),
    service("write-pci-config", 0x2015, (3, 1), pci::write_pci_config),
    service(
        "ibm,read-pci-config",
        0x2016,
        (4, 2),
        pci::ibm_read_pci_config,
    ),
    service(
        "ibm,write-pci-config",
        0x2017,
        (5, 1),
        pci::ibm_write_pci_config,
    ),
    service(
        "ibm,query-interrupt-source-number",
        0x2018,
        (4, 3),
        msi::query_interrupt_source,
    ),
    service("ibm,change-msi", 0x2019, (6, 3), msi::change_msi),
    service("ibm,os-term", 0x201f, (1, 1), power::os_term),
    service(
        "ibm,query-pe-dma-window",
        dma_window::QUERY,
        (3, 5),
        dma_window::query,
    ),
    service(
        "ibm,create-pe-dma-window",
        dma_window::CREATE,
        (5, 4),
        dma_window::create,
    ),
    service(
        "ibm,remove-pe-dma-window",
        dma_window::REMOVE,
        (1, 1),
        dma_window::remove,
    ),
    service(
        "ibm,reset-pe-dma-window",
        dma_window::RESET,
        (3, 1),
        dma_window::reset,
    ),
    service("ibm,set-eeh-option", 0x2020, (4, 1), eeh::set_option),
    service(
        "ibm,get-config-addr-info2",
        0x2021,
        (4, 2),
        eeh::address_info,
    ),
    service(
        "ibm,read-slot-reset-state2",
        0x2022,
        (3, 4),
        eeh::read_state,
    ),
    service("ibm,set-slot-reset", 0x2023, (4, 1), eeh::set_slot_reset),
    service("ibm,configure-pe", 0x2024, (3, 1), eeh::configure),
    service("ibm,slot-error-detail", 0x2025, (8, 1), eeh::error_detail),
    service("ibm,configure-bridge", 0x2030, (3, 1), eeh::configure),
    service("ibm,open-errinjct", 0x2031, (0, 2), error_injection::open),
    service("ibm,errinjct", 0x2032, (3, 1), error_injection::inject),
    service("ibm,close-errinjct", 0x2033, (1, 1), error_injection::close),
];

impl Service {
    /// Whether it is for a machine with EEH alone: a guest that finds it takes the machine for one.
    pub fn needs_eeh(&self) -> bool {
        eeh::TOKENS.contains(&self.token) || error_injection::TOKENS.contains(&self.token)
    }
}

/// A service that the kernel serves once the machine has named its token by
/// KVM_PPC_RTAS_DEFINE_TOKEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelService {
    /// Its name, in the device tree and for the kernel.
    pub name: &'static str,
    /// Its token.
    pub token: u32,
}

/// The services of the in-kernel interrupt controller in XICS mode (`rtas_handlers` in
/// arch/powerpc/kvm/book3s_rtas.c).
pub const KERNEL_SERVICES: &[KernelService] = &[
    KernelService {
        name: "ibm,set-xive",
        token: 0x200a,
    },
    KernelService {
        name: "ibm,get-xive",
        token: 0x200b,
    },
    KernelService {
        name: "ibm,int-off",
        token: 0x200c,
    },
    KernelService {
        name: "ibm,int-on",
        token: 0x200d,
    },
];

/// Serves the RTAS call whose argument block is at `block` in guest memory, the argument of
/// KVMPPC_H_RTAS.
///
/// A block that is not wholly in memory, with more than 16 arguments or returns, or with an unknown
/// token is H_PARAMETER. Nothing is written but the block's return words, and the buffer of
/// services that have one.
pub fn handle(
    memory: &GuestMemoryMmap,
    platform: &dyn Platform,
    block: GuestPhysicalAddress,
) -> (ReturnCode, Outcome) {
    let Some(mut call) = Call::read(memory, block) else {
        guest_message!(
            Level::Warn,
            "the argument block of an RTAS call at {block} is none"
        );
        return (ReturnCode::PARAMETER, Outcome::Done);
    };
    let (code, outcome) = dispatch(&mut call, platform);
    follow(&call);
    // The block was in memory when it was read, and guest memory does not go.
    if call.write_returns().is_none() {
        return (ReturnCode::PARAMETER, outcome);
    }
    (code, outcome)
}

/// Logs the call, with what it answers, at most twice a second for each service.
fn follow(call: &Call<'_>) {
    static LIMITERS: [RateLimiter; SERVICES.len()] =
        [const { RateLimiter::following() }; SERVICES.len()];
    if !log::log_enabled!(Level::Debug) {
        return;
    }
    let found = SERVICES
        .iter()
        .zip(&LIMITERS)
        .find(|(service, _)| service.token == call.token());
    if let Some((service, limiter)) = found {
        limited_message!(limiter, Level::Debug, "RTAS {}{call}", service.name);
    }
}

fn dispatch(call: &mut Call<'_>, platform: &dyn Platform) -> (ReturnCode, Outcome) {
    let Some(service) = find(call.token()) else {
        let token = call.token();
        // The kernel serves these; it hands them on only when it has no such controller.
        if KERNEL_SERVICES.iter().any(|service| service.token == token) {
            call.status(Status::Hardware);
            return (ReturnCode::SUCCESS, Outcome::Done);
        }
        guest_message!(
            Level::Warn,
            "there is no RTAS service with the token {token:#x}"
        );
        call.status(Status::Parameter);
        return (ReturnCode::PARAMETER, Outcome::Done);
    };
    if call.argument_count() < service.arguments || call.return_count() < service.returns {
        guest_message!(
            Level::Warn,
            "RTAS {} with {} arguments and {} returns in place of {} and {}",
            service.name,
            call.argument_count(),
            call.return_count(),
            service.arguments,
            service.returns
        );
        call.status(Status::Parameter);
        return (ReturnCode::SUCCESS, Outcome::Done);
    }
    (ReturnCode::SUCCESS, (service.handler)(call, platform))
}

fn find(token: u32) -> Option<&'static Service> {
    const FIRST: u32 = 0x2000;
    const NONE: u8 = u8::MAX;
    /// Where in [`SERVICES`] each token is.
    const PLACES: [u8; 64] = {
        let mut places = [NONE; 64];
        let mut place = 0u8;
        while (place as usize) < SERVICES.len() {
            places[(SERVICES[place as usize].token - FIRST) as usize] = place;
            place += 1;
        }
        places
    };
    let index = usize::try_from(token.checked_sub(FIRST)?).ok()?;
    SERVICES.get(usize::from(*PLACES.get(index)?))
}

#[cfg(test)]
mod dma_window_tests;
#[cfg(any(test, feature = "fuzz"))]
#[expect(clippy::unwrap_used, reason = "what tests rely on")]
mod fake;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod tests;
