//! What a core file tells of a processor.

use parking_lot::{Mutex, MutexGuard};

/// The registers of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Next instruction address.
    pub nip: u64,
    /// Machine state register.
    pub msr: u64,
    /// Count register.
    pub ctr: u64,
    /// Link register.
    pub link: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Condition register.
    pub cr: u64,
    /// Data address register.
    pub dar: u64,
    /// Data storage interrupt status register.
    pub dsisr: u64,
    /// Floating-point and vector registers, where the processor has them.
    pub vectors: Option<Box<VectorRegisters>>,
}

/// Floating-point and vector registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorRegisters {
    /// Floating-point registers: the first halves of VSR0 to VSR31.
    pub fpr: [u64; 32],
    /// The second halves of VSR0 to VSR31.
    pub vsr_second: [u64; 32],
    /// Floating-point status and control register.
    pub fpscr: u64,
    /// Vector registers: VSR32 to VSR63.
    pub vr: [u128; 32],
    /// Vector status and control register.
    pub vscr: u32,
    /// Vector save register.
    pub vrsave: u32,
}

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
