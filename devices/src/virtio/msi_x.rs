//! The MSI-X table of a device that this process makes (PCI Local Bus Specification 3.0, 6.8.2).
//!
//! What messages the guest writes into it goes nowhere: vectors are interrupt sources of the machine, which the
//! guest is given by RTAS (ibm,change-msi). What counts is the mask of each vector.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::Signal;

/// Bytes of an entry: message address (8), data (4), control (4).
pub(super) const ENTRY_BYTES: usize = 16;
const CONTROL_OFFSET: usize = 12;
const CONTROL_MASKED: u8 = 1;

/// What a vector is to have signalled.
pub(super) enum Target<'a> {
    /// That.
    Event(&'a Arc<EventFd>),
    /// Nothing at present: it is pending then ([`MsiX::signal`]).
    Masked,
    /// There is no such vector, or vectors are disabled.
    Nothing,
}

/// A table, with what its vectors signal.
pub(super) struct MsiX {
    entries: Vec<[u8; ENTRY_BYTES]>,
    /// Vectors that were to be signalled while they were masked.
    pending: Vec<bool>,
    /// By what vectors interrupt; empty while they are disabled.
    signals: Vec<Signal>,
}

impl MsiX {
    /// A table of `vectors`, all masked, as after a reset.
    pub(super) fn new(vectors: usize) -> Self {
        let mut masked = [0; ENTRY_BYTES];
        masked[CONTROL_OFFSET] = CONTROL_MASKED;
        Self {
            entries: vec![masked; vectors],
            pending: vec![false; vectors],
            signals: Vec::new(),
        }
    }

    pub(super) fn vectors(&self) -> usize {
        self.entries.len()
    }

    /// Has vector *n* interrupt by `signals[n]`; none interrupts without.
    pub(super) fn connect(&mut self, signals: Vec<Signal>) {
        self.signals = signals;
        self.pending.fill(false);
    }

    /// Reads the table; what lies beyond it reads 0.
    pub(super) fn read_table(&self, offset: usize, data: &mut [u8]) {
        let table = self.entries.as_flattened();
        for (at, byte) in (offset..).zip(data) {
            *byte = table.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the table. Vectors that are unmasked now and were to be signalled before are.
    pub(super) fn write_table(&mut self, offset: usize, data: &[u8]) {
        let table = self.entries.as_flattened_mut();
        for (at, byte) in (offset..).zip(data) {
            // Only the mask is there to be written in an entry's control.
            let writable = match at % ENTRY_BYTES {
                ..CONTROL_OFFSET => 0xff,
                CONTROL_OFFSET => CONTROL_MASKED,
                _ => 0,
            };
            if let Some(place) = table.get_mut(at) {
                *place = byte & writable;
            }
        }
        for vector in 0..self.vectors() {
            if self.pending[vector] && !self.is_masked(vector) {
                self.signal(vector);
            }
        }
    }

    /// Reads the bits of vectors that are pending.
    pub(super) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let vectors = self.pending.iter().skip(at.saturating_mul(8)).take(8);
            *byte = vectors.enumerate().fold(
                0,
                |bits, (bit, &pending)| {
                    if pending { bits | 1 << bit } else { bits }
                },
            );
        }
    }

    /// Signals `vector`, or notes that it is to be when it is unmasked. Others are ignored.
    pub(super) fn signal(&mut self, vector: usize) {
        if vector >= self.vectors() {
            return;
        }
        let masked = self.is_masked(vector);
        self.pending[vector] = masked;
        if let Some(signal) = self.signals.get(vector).filter(|_| !masked) {
            signal.send();
        }
    }

    /// What whoever signals `vector` by itself is to signal.
    pub(super) fn target(&self, vector: usize) -> Target<'_> {
        if vector < self.vectors() && self.is_masked(vector) {
            return Target::Masked;
        }
        let signal = self.signals.get(vector);
        signal.map_or(Target::Nothing, |signal| Target::Event(signal.event()))
    }

    fn is_masked(&self, vector: usize) -> bool {
        self.entries[vector][CONTROL_OFFSET] & CONTROL_MASKED != 0
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn table() -> (MsiX, [Arc<EventFd>; 2]) {
        let events = [0; 2].map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let mut table = MsiX::new(2);
        table.connect(events.iter().cloned().map(Signal::from).collect());
        (table, events)
    }

    fn count(event: &EventFd) -> u64 {
        event.read().unwrap_or(0)
    }

    #[test]
    fn what_is_masked_is_pending_until_it_is_not() {
        let (mut table, events) = table();
        table.signal(1);
        table.signal(1);
        let mut bits = [0xff; 4];
        table.read_pending(0, &mut bits);
        assert_eq!((bits, count(&events[1])), ([2, 0, 0, 0], 0));
        table.write_table(16 + 12, &[0; 4]);
        table.read_pending(0, &mut bits);
        assert_eq!((bits, count(&events[1])), ([0; 4], 1));
        table.signal(1);
        assert_eq!(count(&events[1]), 1);
        assert_eq!(count(&events[0]), 0);
    }

    #[test]
    fn messages_are_kept_and_what_is_reserved_is_not() {
        let (mut table, _events) = table();
        table.write_table(0, &[0xa5; 16]);
        let mut entry = [0; 16];
        table.read_table(0, &mut entry);
        let mut expected = [0xa5; 16];
        expected[12..].copy_from_slice(&[1, 0, 0, 0]);
        assert_eq!(entry, expected);
        table.write_table(30, &[0xff; 8]);
        let mut beyond = [0xff; 4];
        table.read_table(32, &mut beyond);
        assert_eq!(beyond, [0; 4]);
        table.signal(2);
    }
}
