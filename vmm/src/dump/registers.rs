//! The registers that a core file tells of.

use parking_lot::{Mutex, MutexGuard};
use spapr_kvm::registers::Registers;

/// The registers that each processor had when it left the guest to be paused.
#[derive(Debug)]
pub struct SavedRegisters(Vec<Mutex<Option<Registers>>>);

impl SavedRegisters {
    /// Of `count` processors, none of which has run.
    pub fn new(count: u32) -> Self {
        Self((0..count).map(|_| Mutex::new(None)).collect())
    }

    /// Keeps those of processor `server`; for its own thread.
    pub fn save(&self, server: u32, registers: Registers) {
        if let Some(mut saved) = self.of(server) {
            *saved = Some(registers);
        }
    }

    /// Forgets those of processor `server`, which has stopped; for its own thread.
    pub fn forget(&self, server: u32) {
        if let Some(mut saved) = self.of(server) {
            *saved = None;
        }
    }

    /// Those of all processors, in their order.
    pub fn all(&self) -> Vec<Option<Registers>> {
        self.0.iter().map(|saved| saved.lock().clone()).collect()
    }

    fn of(&self, server: u32) -> Option<MutexGuard<'_, Option<Registers>>> {
        self.0.get(usize::try_from(server).ok()?).map(Mutex::lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_the_registers_that_it_saved_last_until_it_stops() {
        let saved = SavedRegisters::new(2);
        for nip in [1, 2] {
            let registers = Registers {
                nip,
                ..Registers::default()
            };
            saved.save(1, registers);
        }
        saved.save(2, Registers::default());
        let nips = || {
            let nip = |registers: &Option<Registers>| registers.as_ref().map(|all| all.nip);
            saved.all().iter().map(nip).collect::<Vec<_>>()
        };
        assert_eq!(nips(), [None, Some(2)]);
        saved.forget(1);
        assert_eq!(nips(), [None, None]);
    }
}
