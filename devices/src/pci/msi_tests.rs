use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::super::backend::InterruptKind::{Msi, MsiX};
use super::super::fake::Fixture;
use super::*;

#[test]
fn vectors_become_consecutive_sources_and_go_away_again() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    assert_eq!(function.change_msi(MsiX, 3).unwrap(), MsiGrant::Granted(3));
    let sources = [Lisn(0x1300), Lisn(0x1301), Lisn(0x1302)];
    assert_eq!(
        fixture.lines.sources().into_iter().collect::<Vec<_>>(),
        sources
    );
    assert_eq!(function.interrupt_source(2), Some(Lisn(0x1302)));
    assert_eq!(function.interrupt_source(3), None);
    let enabled = fixture.backend.enabled.lock().clone().unwrap();
    let connected: Vec<i32> = fixture.lines.connected.lock().values().copied().collect();
    assert_eq!(enabled, (MsiX, connected));
    function.free_msi().unwrap();
    function.free_msi().unwrap();
    assert!(fixture.lines.sources().is_empty());
    assert_eq!(fixture.board.lisns.in_use(), 0);
}

#[test]
fn asking_for_too_many_says_how_many_there_are_and_keeps_the_old_ones() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    function.change_msi(MsiX, 2).unwrap();
    assert_eq!(function.change_msi(MsiX, 66).unwrap(), MsiGrant::AtMost(65));
    assert_eq!(
        function.change_msi(Msi, u32::MAX).unwrap(),
        MsiGrant::AtMost(32)
    );
    assert_eq!(fixture.lines.sources().len(), 2);
}

#[test]
fn when_the_host_has_fewer_vectors_the_guest_is_told_how_many_and_can_have_those() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    fixture.backend.host_vectors.store(9, Ordering::Relaxed);
    function.change_msi(MsiX, 4).unwrap();
    assert_eq!(function.change_msi(MsiX, 65).unwrap(), MsiGrant::AtMost(9));
    // None of the others is left, and nothing of these.
    assert!(fixture.lines.sources().is_empty());
    assert_eq!(fixture.board.lisns.in_use(), 0);
    assert_eq!(function.interrupt_source(0), None);
    assert_eq!(function.change_msi(MsiX, 9).unwrap(), MsiGrant::Granted(9));
    assert_eq!(fixture.lines.sources().len(), 9);
}

#[test]
fn when_few_numbers_are_left_the_guest_is_told_how_many_and_can_have_those() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    let numbers = &fixture.board.lisns;
    // 0x1fe9 to 0x1fff are left: 23 of them, 16 on their boundary.
    numbers.allocate(Lisn::MSI_COUNT - 23, false).unwrap();
    assert_eq!(function.change_msi(MsiX, 65).unwrap(), MsiGrant::AtMost(23));
    assert_eq!(function.change_msi(Msi, 32).unwrap(), MsiGrant::AtMost(16));
    assert_eq!(function.change_msi(Msi, 16).unwrap(), MsiGrant::Granted(16));
    assert_eq!(function.interrupt_source(0), Some(Lisn(0x1ff0)));
    function.free_msi().unwrap();
    numbers.allocate(23, false).unwrap();
    let error = function.change_msi(MsiX, 1).unwrap_err();
    let text = "no interrupt source numbers are left for 0000:01:00.0";
    assert_eq!(error.to_string(), text);
}

#[test]
fn plain_msi_has_any_number_of_vectors_up_to_32() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    for count in 1..=32 {
        let granted = function.change_msi(Msi, count).unwrap();
        assert_eq!(granted, MsiGrant::Granted(count));
        let first = function.interrupt_source(0).unwrap();
        assert!(first.0.is_multiple_of(count.next_power_of_two()), "{count}");
        assert_eq!(fixture.lines.sources().len(), count as usize);
    }
}

#[test]
fn vectors_asked_for_while_others_are_on_take_their_place() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    function.change_msi(MsiX, 3).unwrap();
    // As a kernel does that was entered by kexec: it knows nothing of those before.
    assert_eq!(function.change_msi(MsiX, 2).unwrap(), MsiGrant::Granted(2));
    let sources: Vec<Lisn> = fixture.lines.sources().into_iter().collect();
    assert_eq!(fixture.board.lisns.in_use(), 2);
    assert_eq!(function.interrupt_source(0), Some(sources[0]));
    assert_eq!(function.interrupt_source(1), Some(sources[1]));
    assert_eq!(function.interrupt_source(2), None);
    let enabled = fixture.backend.enabled.lock().clone().unwrap();
    assert_eq!((enabled.0, enabled.1.len()), (MsiX, 2));
}

#[test]
fn a_kind_that_the_function_lacks_is_refused() {
    let fixture = Fixture::with(|function| function.with_vectors(0, 8));
    let error = fixture.bridge.functions()[0]
        .change_msi(Msi, 1)
        .unwrap_err();
    assert_eq!(error.to_string(), "0000:01:00.0 has no MSI interrupts");
}

proptest! {
    #[test]
    fn failures_leave_no_line_and_no_number_behind(
        steps in prop::collection::vec(
            (any::<bool>(), 0u32..70, 0u32..40, 0u32..4),
            1..40,
        )
    ) {
        let fixture = Fixture::new();
        let function = &fixture.bridge.functions()[0];
        for (msi_x, count, line_fault, device_fault) in steps {
            let kind = if msi_x { MsiX } else { Msi };
            fixture.lines.fault.fail_call(line_fault);
            fixture.backend.interrupt_fault.fail_call(device_fault);
            if count == 0 {
                let _ = function.free_msi();
            } else {
                let _ = function.change_msi(kind, count);
            }
            fixture.lines.fault.fail_call(0);
            fixture.backend.interrupt_fault.fail_call(0);

            // The device, the lines, the numbers and what the guest is told always agree.
            let enabled = fixture.backend.enabled.lock().clone();
            let sources = fixture.lines.sources();
            prop_assert_eq!(fixture.board.lisns.in_use(), sources.len());
            let told: Vec<Lisn> = (0..).map_while(|i| function.interrupt_source(i)).collect();
            prop_assert_eq!(told, sources.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(enabled.map_or(0, |(_, events)| events.len()), sources.len());
        }
    }
}
