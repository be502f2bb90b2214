//! A machine as its monitors have it.

use crate::dump::Snapshot;

/// What a machine lets its monitors do.
pub trait Controls: Send {
    /// Makes all processors leave the guest, and returns when they have.
    fn pause(&self);
    /// Lets them go on.
    fn resume(&self);
    /// Asks the guest to shut down.
    fn request_shutdown(&self);
    /// Has all processors take a system reset interrupt.
    fn system_reset(&self);
    /// What a paused guest holds; none when the machine has stopped.
    fn snapshot(&self) -> Option<Snapshot>;
}

impl Controls for crate::machine::MachineControls {
    fn pause(&self) {
        Self::pause(self);
    }

    fn resume(&self) {
        Self::resume(self);
    }

    fn request_shutdown(&self) {
        Self::request_shutdown(self);
    }

    fn system_reset(&self) {
        Self::system_reset(self);
    }

    fn snapshot(&self) -> Option<Snapshot> {
        Self::snapshot(self)
    }
}
