use proptest::prelude::*;

use super::super::backend::InterruptKind::{Msi, MsiX};
use super::super::fake::Fixture;
use crate::interrupts::Lisn;

#[test]
fn a_sleeping_device_is_woken_before_its_vectors_are_changed() {
    let (fixture, _endpoint) = Fixture::with_endpoint();
    let function = &fixture.bridge.functions()[0];
    fixture.write(4, 1, 2);
    // The device fails the test that has its vectors taken or given in another state.
    for state in 1..=3 {
        let sleep = || fixture.write(0x64, 2, 0x8000 | state);
        sleep();
        function.change_msi(MsiX, 3).unwrap();
        assert_eq!(fixture.backend.config_u16(0x64) & 3, 0);
        assert_eq!(fixture.mapped().len(), 3, "its BARs are back");
        sleep();
        function.change_msi(Msi, 2).unwrap();
        sleep();
        function.enter_reset();
        function.leave_reset();
        sleep();
        function.free_msi().unwrap();
        function.change_msi(MsiX, 3).unwrap();
        sleep();
        function.reset().unwrap();
        assert_eq!(*fixture.backend.enabled.lock(), None);
        fixture.write(4, 1, 2);
    }
}

#[test]
fn a_device_that_stays_asleep_gets_no_vectors_and_keeps_those_it_has() {
    let fixture = Fixture::with(|function| function.with_read_only(0x64));
    let function = &fixture.bridge.functions()[0];
    function.change_msi(MsiX, 3).unwrap();
    fixture.backend.poke(0x64, 3);
    let error = function.free_msi().unwrap_err();
    let text = "it stays in power state D3";
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), text);
    assert!(fixture.backend.enabled.lock().is_some());
    let error = function.change_msi(MsiX, 3).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), text);
    assert!(fixture.lines.sources().is_empty());
    // For its line, the host would take them.
    fixture.write(4, 1, 2);
    fixture.lines.sample(Lisn(0x1200));
    assert_eq!(fixture.backend.unmasked(), None);
    fixture.backend.poke(0x64, 0);
    function.change_msi(MsiX, 2).unwrap();
    assert_eq!(fixture.lines.sources().len(), 2);
}

#[test]
fn a_device_that_answers_nothing_is_not_woken() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    function.change_msi(MsiX, 3).unwrap();
    // As vfio-pci shows a frozen one: some bits are its own.
    for (offset, value) in [(4, 0xff), (5, 0xfb), (0x64, 0xff), (0x65, 0x7e)] {
        fixture.backend.poke(offset, value);
    }
    let error = function.change_msi(MsiX, 2).unwrap_err();
    let text = "it answers nothing";
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), text);
    assert_eq!(
        *fixture.backend.enabled.lock(),
        None,
        "the old ones are taken"
    );
    assert_eq!(fixture.backend.config_u16(0x64), 0x7eff);
    function.quiesce().unwrap();
}

#[test]
fn a_device_with_vectors_decodes_memory_whatever_its_guest_has_and_the_guest_sees_its_own() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    let command = || {
        (
            fixture.backend.config_u16(4) & 7,
            function.read_config(4, 2).unwrap() & 7,
        )
    };
    // Off before there are vectors.
    function.change_msi(MsiX, 3).unwrap();
    assert_eq!(command(), (2, 0));
    assert!(fixture.mapped().is_empty());
    fixture.write(4, 2, 6);
    assert_eq!(command(), (6, 6));
    assert_eq!(fixture.mapped().len(), 3);
    for (offset, size) in [(4, 1), (4, 2), (4, 4)] {
        fixture.write(offset, size, 4);
        assert_eq!(command(), (6, 4));
        assert!(fixture.mapped().is_empty());
        assert_eq!(function.read_config(4, 4).unwrap() & 7, 4);
        assert_eq!(function.read_config(4, 1).unwrap(), 4);
    }
    // Elsewhere nothing is changed.
    assert_eq!(function.read_config(6, 2).unwrap(), 0x10);
    function.free_msi().unwrap();
    assert_eq!(command(), (4, 4));
}

#[test]
fn a_guest_that_has_its_device_reset_with_decoding_off_has_the_kernel_find_the_table() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    fixture.write(4, 2, 6);
    function.change_msi(MsiX, 3).unwrap();
    // The fake fails the test if its table does not answer then.
    let reset = || fixture.write(0xa8, 2, 0x8000);
    fixture.write(4, 2, 0);
    reset();
    fixture.write(0x64, 2, 3);
    reset();
    assert_eq!(fixture.backend.config_u16(0x64) & 3, 0, "awake for it");
    assert_eq!(function.read_config(4, 2).unwrap() & 7, 0);
}

#[test]
fn a_device_that_wakes_has_the_command_register_that_its_guest_wrote_meanwhile() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    let guests = || function.read_config(4, 2).unwrap() & 7;
    fixture.write(4, 2, 6);
    function.change_msi(MsiX, 3).unwrap();
    fixture.write(0x64, 2, 3);
    fixture.write(4, 2, 0);
    fixture.write(0x64, 2, 0);
    assert_eq!(guests(), 0);
    assert!(fixture.mapped().is_empty());
    fixture.write(4, 2, 6);
    fixture.write(0x64, 2, 3);
    fixture.write(4, 2, 0);
    function.free_msi().unwrap();
    assert_eq!((guests(), fixture.backend.config_u16(4) & 7), (0, 0));
    assert!(fixture.mapped().is_empty());
    fixture.write(4, 2, 6);
    function.change_msi(MsiX, 3).unwrap();
    fixture.write(0x64, 2, 3);
    function.quiesce().unwrap();
    assert_eq!(fixture.backend.config_u16(4) & 7, 0, "no DMA");
}

#[test]
fn a_device_that_only_a_reset_wakes_loses_its_vectors_then() {
    let fixture = Fixture::with(|function| function.with_read_only(0x64));
    let function = &fixture.bridge.functions()[0];
    fixture.write(4, 2, 4);
    function.change_msi(MsiX, 3).unwrap();
    fixture.backend.poke(0x64, 3);
    assert!(function.reset().is_err(), "it could not be stopped");
    assert_eq!(*fixture.backend.enabled.lock(), None);
    assert_eq!(fixture.backend.config_u16(4) & 7, 0);
    function.change_msi(MsiX, 3).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16, u32, u32),
    Give(bool, u32),
    Free,
    EnterReset,
    LeaveReset,
    Reset,
    Quiesce,
    Listen,
}

fn step() -> impl Strategy<Value = Step> {
    let registers = prop::sample::select(vec![4u16, 5, 0x64, 0x65, 0xa8, 0xa9]);
    let values = prop_oneof![0u32..8, Just(0x8000), Just(0x80), any::<u32>()];
    prop_oneof![
        8 => (registers, prop::sample::select(vec![1u32, 2, 4]), values)
            .prop_map(|(offset, size, value)| Step::Write(offset, size, value)),
        3 => (any::<bool>(), 1u32..5).prop_map(|(has_table, count)| Step::Give(has_table, count)),
        1 => Just(Step::Free),
        1 => Just(Step::EnterReset),
        1 => Just(Step::LeaveReset),
        1 => Just(Step::Reset),
        1 => Just(Step::Quiesce),
        1 => Just(Step::Listen),
    ]
}

proptest! {
    /// The fake fails the test whenever the host's kernel would go to memory that does not answer, or a BAR is in the
    /// guest that does not.
    #[test]
    fn whatever_a_guest_does_with_decoding_power_and_resets_the_host_finds_the_vectors_table(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let (fixture, _endpoint) = Fixture::with_endpoint();
        let function = &fixture.bridge.functions()[0];
        let mut in_reset = false;
        for step in steps {
            match step {
                Step::Write(offset, size, value) => {
                    let _ = function.write_config(offset, size, value);
                }
                Step::Give(has_table, count) => {
                    let kind = if has_table { MsiX } else { Msi };
                    function.change_msi(kind, count).unwrap();
                }
                Step::Free => function.free_msi().unwrap(),
                Step::EnterReset => {
                    function.enter_reset();
                    in_reset = true;
                }
                Step::LeaveReset => {
                    function.enter_reset();
                    function.leave_reset();
                    in_reset = false;
                }
                Step::Reset => {
                    function.reset().unwrap();
                    in_reset = false;
                    prop_assert_eq!(fixture.backend.config_u16(4) & 7, 0);
                }
                Step::Quiesce => function.quiesce().unwrap(),
                Step::Listen => fixture.lines.sample(Lisn(0x1200)),
            }
            let command = function.read_config(4, 2).unwrap();
            let is_awake = function.read_config(0x64, 2).unwrap() & 3 == 0;
            let answers = command & 2 != 0 && is_awake && !in_reset;
            prop_assert_eq!(!fixture.mapped().is_empty(), answers, "{:#x}", command);
            let has_vectors = fixture.backend.enabled.lock().is_some();
            prop_assert!(fixture.backend.config_u16(4) & 2 != 0 || !has_vectors);
        }
    }
}
