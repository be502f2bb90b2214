//! The engine, models of its hosts and of KVM's handlers, beside a plain model of what a guest should see: for
//! random sequences of calls (`engine/tests/model`), and for those that a fuzzer makes up.
//!
//! | file | what it is |
//! |---|---|
//! | `step` | what a guest and a machine may do |
//! | `machine` | the engine, its hosts and KVM's handlers, beside the model |
//! | `reference` | the plain model: tables, and the code of each call |

mod machine;
mod reference;
mod step;

pub(crate) use machine::Machine;
pub(crate) use step::{STORAGE, Step, windows};

use super::*;
use crate::abi::ReturnCode;
use crate::address::{GuestPhysicalAddress, Liobn};
use crate::policy::LockPolicy;
use crate::stats::WindowState;
use crate::testing::{ContainerVersion, FakeHost, FakeMemory};
use crate::world::GuestRange;

type TestEngine = Engine<FakeMemory, FakeHost>;

pub(crate) const MIB: u64 = 1 << 20;
const SUCCESS: ReturnCode = ReturnCode::SUCCESS;
const PARAMETER: ReturnCode = ReturnCode::PARAMETER;
const EXHAUSTED: ReturnCode = ReturnCode::NOT_ENOUGH_RESOURCES;

fn piece(start: u64, bytes: u64) -> GuestRange {
    GuestRange {
        start: GuestPhysicalAddress(start),
        bytes,
    }
}

/// Runs the steps on a machine of its own, and checks after each that the view is what the model says and the
/// hardware what the view shows, and at the end that everything is let go.
///
/// # Panics
/// When that does not hold.
pub(crate) fn run_all(policy: Policy, steps: &[Step]) {
    let mut machine = Machine::new(policy);
    for step in steps {
        machine.run(step);
        machine.check_after(step);
    }
    machine.check(|_| true);
    machine.hosts().for_each(FakeHost::clear_faults);
    let was_dirty = machine.model.dirty.contains(&true);
    // A host that refuses nothing any more lets everything go.
    machine.engine.reset_windows().unwrap();
    if !was_dirty {
        assert_eq!(machine.engine.snapshot().locked.bytes, 0);
    }
    for host in machine.hosts() {
        for (_, _, geometry) in windows() {
            assert!(host.hardware(geometry.bus_offset).is_none());
        }
    }
}
