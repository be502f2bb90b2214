//! Enhanced error handling (EEH, PAPR 7.3.11): the passed-through functions of a host bridge are one partitionable
//! endpoint (PE) of the host. After an error the host freezes it: its registers read as ones, and its DMA stops,
//! until someone thaws or resets it. That is the guest's to do, by RTAS.
//!
//! A reset wipes what the host's kernel has programmed into the functions. So their vectors are taken from them
//! before it, and given back after it to the same interrupt sources, of which a guest's driver need not know.
//! Their BARs leave the guest, and decoding is off when they are back, as after any reset: the host's kernel
//! switches it on (`eeh_pe_reenable_devices` in arch/powerpc/kernel/eeh.c) without vfio-pci's knowing, which
//! answers an access to such a BAR with SIGBUS.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;
use parking_lot::Mutex;

use super::address::ConfigAddress;
use super::function::Function;
use super::host_bridge::HostBridge;
use crate::guest_message;

/// What can be asked of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeRequest {
    /// EEH is not to be used.
    Disable,
    /// EEH is to be used.
    Enable,
    /// Registers can be reached again, of one that is frozen.
    ThawIo,
    /// DMA goes on, of one that is frozen.
    ThawDma,
    /// A hot reset begins.
    HotReset,
    /// A fundamental reset begins.
    FundamentalReset,
    /// The reset ends, and the endpoint is thawed.
    EndReset,
    /// Bridges in it are set up again.
    Configure,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeState {
    /// It works.
    Normal,
    /// It is being reset.
    Reset,
    /// It is frozen: neither registers nor DMA.
    Stopped,
    /// It is frozen for DMA alone.
    DmaStopped,
    /// Nobody can tell now.
    Unavailable,
}

/// An error to have an endpoint run into (PAPR 7.3.26, "ioa-bus-error" and "ioa-bus-error-64").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeError {
    /// Whether it is one of addresses with 64 bits.
    pub is_64_bit: bool,
    /// Which access it is of, and what happens: 0 to [`PeError::LAST_FUNCTION`].
    pub function: u32,
}

impl PeError {
    /// The last of its functions, a target abort of a DMA write.
    pub const LAST_FUNCTION: u32 = 19;
}

/// An endpoint as the host has it.
pub trait PeBackend: Send + Sync {
    /// Does what is asked for. A reset takes up to seconds.
    ///
    /// # Errors
    /// The host's refusal.
    fn request(&self, request: PeRequest) -> io::Result<()>;

    /// Its state.
    ///
    /// # Errors
    /// The host's refusal.
    fn state(&self) -> io::Result<PeState>;

    /// Has it run into an error, at an address of its own that the host's firmware chooses.
    ///
    /// # Errors
    /// The host's refusal.
    fn inject(&self, error: PeError) -> io::Result<()>;
}

/// The endpoint behind a host bridge.
pub(super) struct Endpoint {
    backend: Arc<dyn PeBackend>,
    /// Whether a reset has begun and not ended. Held over requests; no lock of a function is held when it is
    /// taken.
    in_reset: Mutex<bool>,
    /// Whether it was told that it is frozen, since it last was not.
    frozen_told: AtomicBool,
}

/// How RTAS names the endpoint of a bridge: bus 0, as in QEMU with a bit set that no function's address has, because
/// guests before Linux 5.10 take an address of 0 for none.
const PE_ADDRESS: u32 = 1;

impl HostBridge {
    /// The bridge with EEH, by the host's endpoint that its passed-through functions are.
    #[must_use]
    pub fn with_endpoint(mut self, backend: Arc<dyn PeBackend>) -> Self {
        self.endpoint = Some(Endpoint {
            backend,
            in_reset: Mutex::new(false),
            frozen_told: AtomicBool::new(false),
        });
        self
    }

    /// Whether the host has EEH for what is behind the bridge.
    pub const fn has_eeh(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The configuration address of the endpoint that the function at `address` is part of, and how many functions
    /// that has; `None` for a function that is in none.
    pub fn endpoint_of(&self, address: ConfigAddress) -> Option<(u32, usize)> {
        self.endpoint.as_ref()?;
        let function = self.function(address)?;
        let members = self.members().count();
        function
            .backend
            .is_in_endpoint()
            .then_some((PE_ADDRESS, members))
    }

    /// Whether `address` names the bridge's endpoint: by its own, or as guests before Linux 5.10 do by that of a
    /// function in it.
    pub fn is_endpoint(&self, address: u32) -> bool {
        let function = ConfigAddress(address);
        self.has_eeh() && address == PE_ADDRESS
            || function.register() == Some(0) && self.endpoint_of(function).is_some()
    }

    /// Asks something of the endpoint.
    ///
    /// # Errors
    /// The host's refusal. After that of a reset's beginning or end, the functions answer nothing until one ends
    /// well.
    pub fn request_of_endpoint(&self, request: PeRequest) -> io::Result<()> {
        let endpoint = self.endpoint.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut in_reset = endpoint.in_reset.lock();
        if matches!(
            request,
            PeRequest::HotReset | PeRequest::FundamentalReset | PeRequest::EndReset
        ) {
            *in_reset = true;
            self.members().for_each(Function::enter_reset);
        }
        {
            // Nobody takes or gives vectors meanwhile: a frozen device need not be awake for that, and a thawed one has to.
            let _vectors: Vec<_> = self.members().map(|it| it.vectors.lock()).collect();
            endpoint.backend.request(request)?;
        }
        let ends = match request {
            PeRequest::EndReset => true,
            // Whoever starts anew may find a reset that nobody will end.
            PeRequest::Enable if *in_reset => endpoint.backend.state()? == PeState::Normal,
            _ => false,
        };
        if ends {
            *in_reset = false;
            self.members().for_each(Function::leave_reset);
        }
        Ok(())
    }

    /// Has the endpoint run into an error, while it is not being reset.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] during a reset; the host's refusal.
    pub fn inject_error(&self, error: PeError) -> io::Result<()> {
        let endpoint = self.endpoint.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let in_reset = endpoint.in_reset.lock();
        if *in_reset {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        endpoint.backend.inject(error)
    }

    /// The endpoint's state. That it is frozen is told the first time.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn endpoint_state(&self) -> io::Result<PeState> {
        let endpoint = self.endpoint.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let state = endpoint.backend.state()?;
        // While it is reset, it is frozen by whoever resets it.
        if endpoint.in_reset.try_lock().is_some_and(|held| !*held) {
            self.tell(endpoint, state);
        }
        Ok(state)
    }

    /// Looks whether the endpoint is frozen, and tells it once: the host's kernel says so to nobody, as the
    /// endpoint is not its own (`eeh_dev_check_failure` in arch/powerpc/kernel/eeh.c).
    pub fn look_for_freeze(&self) {
        if let Some(endpoint) = &self.endpoint
            && let Some(in_reset) = endpoint.in_reset.try_lock()
            && !*in_reset
            && let Ok(state) = endpoint.backend.state()
        {
            self.tell(endpoint, state);
        }
    }

    /// Ends a reset that the guest has begun, for whoever has the functions next.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn end_reset(&self) -> io::Result<()> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(());
        };
        let mut in_reset = endpoint.in_reset.lock();
        if !std::mem::take(&mut *in_reset) {
            return Ok(());
        }
        self.members().for_each(Function::enter_reset);
        endpoint.backend.request(PeRequest::EndReset)
    }

    /// The addresses on the host of the functions in the endpoint, for messages.
    pub fn endpoint_names(&self) -> String {
        let names: Vec<_> = self.members().map(Function::name).collect();
        names.join(", ")
    }

    /// The functions that the endpoint is made of.
    fn members(&self) -> impl Iterator<Item = &Function> {
        let functions = self.functions().iter();
        functions.filter(|function| function.backend.is_in_endpoint())
    }

    fn tell(&self, endpoint: &Endpoint, state: PeState) {
        match state {
            PeState::Stopped | PeState::DmaStopped => {
                if !endpoint.frozen_told.swap(true, Ordering::Relaxed) {
                    guest_message!(
                        Level::Error,
                        "the host has frozen PCI device {} after an error (EEH): its registers read as ones, and \
                         its DMA is stopped. A guest whose kernel has EEH resets it when it notices; any other has \
                         to be started again",
                        self.endpoint_names()
                    );
                }
            }
            PeState::Normal => {
                if endpoint.frozen_told.swap(false, Ordering::Relaxed) {
                    guest_message!(
                        Level::Info,
                        "PCI device {} is no longer frozen: its guest has dealt with it",
                        self.endpoint_names()
                    );
                }
            }
            PeState::Reset | PeState::Unavailable => {}
        }
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
