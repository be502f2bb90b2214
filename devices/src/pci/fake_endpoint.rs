//! An endpoint that tests freeze, with one fake function in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{FakeFunction, Fault};
use crate::pci::{PeBackend, PeError, PeRequest, PeState};

/// What the host's kernel and firmware make of an endpoint (arch/powerpc/kernel/eeh.c).
pub(crate) struct FakeEndpoint {
    function: Arc<FakeFunction>,
    pub(crate) state: Mutex<PeState>,
    /// All requests that went well.
    pub(crate) requests: Mutex<Vec<PeRequest>>,
    /// All errors that it was made to run into.
    pub(crate) errors: Mutex<Vec<PeError>>,
    pub(crate) fault: Fault,
}

impl FakeEndpoint {
    pub(crate) fn of(function: &Arc<FakeFunction>) -> Arc<Self> {
        function.in_endpoint.store(true, Ordering::Relaxed);
        Arc::new(Self {
            function: Arc::clone(function),
            state: Mutex::new(PeState::Normal),
            requests: Mutex::default(),
            errors: Mutex::default(),
            fault: Fault::default(),
        })
    }

    /// The hardware has seen an error.
    pub(crate) fn freeze(&self) {
        *self.state.lock() = PeState::Stopped;
    }
}

impl PeBackend for FakeEndpoint {
    fn request(&self, request: PeRequest) -> io::Result<()> {
        let resets = matches!(
            request,
            PeRequest::HotReset | PeRequest::FundamentalReset | PeRequest::EndReset
        );
        if resets {
            self.function.assert_is_ready_for_reset();
        }
        self.fault.check()?;
        let mut state = self.state.lock();
        *state = match (request, *state) {
            (PeRequest::HotReset | PeRequest::FundamentalReset, _) => {
                self.function.wipe();
                PeState::Reset
            }
            (PeRequest::EndReset, _) => {
                self.function.enable_decoding();
                PeState::Normal
            }
            (PeRequest::ThawIo, PeState::Stopped) => PeState::DmaStopped,
            (PeRequest::ThawDma, PeState::DmaStopped) => PeState::Normal,
            // The kernel thaws what a new owner takes.
            (PeRequest::Enable, PeState::Stopped | PeState::DmaStopped) => PeState::Normal,
            (_, other) => other,
        };
        self.requests.lock().push(request);
        Ok(())
    }

    fn state(&self) -> io::Result<PeState> {
        self.fault.check()?;
        Ok(*self.state.lock())
    }

    fn inject(&self, error: PeError) -> io::Result<()> {
        self.fault.check()?;
        assert!(error.function <= PeError::LAST_FUNCTION);
        self.errors.lock().push(error);
        self.freeze();
        Ok(())
    }
}

impl FakeFunction {
    /// Nothing of it may be in use when it is reset from outside: not in the guest, nor by the kernel for interrupts.
    pub(crate) fn assert_is_ready_for_reset(&self) {
        assert_eq!(*self.enabled.lock(), None, "vectors over a reset");
        assert_eq!(self.unmasked(), None, "a line over a reset");
        let mapped = self.slots.mapped.lock();
        assert!(mapped.is_empty(), "BARs over a reset: {mapped:x?}");
    }

    /// What a reset leaves of what guest and kernel have written.
    pub(crate) fn wipe(&self) {
        let mut config = self.config.lock();
        for (value, writable) in config.iter_mut().zip(&self.writable) {
            *value &= !writable;
        }
    }

    /// What the kernel does after a reset, unasked.
    pub(crate) fn enable_decoding(&self) {
        self.config.lock()[4] |= 3;
    }

    /// What device and kernel do when something was written: leaving D3hot loses what the command register had
    /// meanwhile, and a function-level reset (device control, bit 15) brings the vectors' table back.
    pub(super) fn follow(&self, config: &mut [u8], power: u8, offset: u16, data: &[u8]) {
        let now = config[0x64] & 3;
        match (power & 3, now) {
            (0..=2, 3) => *self.slept_with.lock() = config[4],
            (3, 0) => {
                config[4] = *self.slept_with.lock();
                self.assert_table_answers(config);
            }
            _ => {}
        }
        let asks_for_reset = (usize::from(offset)..)
            .zip(data)
            .any(|(at, value)| at == 0xa9 && value & 0x80 != 0);
        if asks_for_reset {
            config[0xa9] &= 0x7f;
            self.assert_table_answers(config);
        }
    }

    pub(super) fn noting(&self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_err() {
            self.has_refused.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// The kernel's reset wakes it before.
    pub(super) fn wake_for_reset(&self) {
        let mut config = self.config.lock();
        config[0x64] &= !3;
        self.assert_table_answers(&config);
    }

    /// The kernel brings back the table of the vectors that it has, and does not look.
    fn assert_table_answers(&self, config: &[u8]) {
        let is_there = config[4] & 2 != 0 && config[0x64] & 3 == 0;
        assert!(
            is_there || self.enabled.lock().is_none(),
            "the kernel goes to a table that does not answer"
        );
    }

    /// The kernel goes to its memory for vectors, whatever its power state is.
    pub(super) fn assert_is_awake(&self) {
        let power = self.config_u16(0x64);
        let answers_nothing = self.config_u16(4) | 0x400 == u16::MAX;
        assert!(
            power & 3 == 0 || answers_nothing,
            "vectors of a sleeping device: {power:#x}"
        );
    }
}
