use super::super::backend::InterruptKind::{Msi, MsiX};
use super::super::fake::Fixture;

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
    fixture.backend.poke(0x64, 0);
    *fixture.backend.enabled.lock() = None;
    function.change_msi(MsiX, 3).unwrap();
}

#[test]
fn a_device_that_answers_nothing_is_not_woken() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    function.change_msi(MsiX, 3).unwrap();
    fixture.backend.poke(0x64, 0xff);
    fixture.backend.poke(0x65, 0xff);
    function.free_msi().unwrap();
    assert_eq!(*fixture.backend.enabled.lock(), None);
    assert_eq!(fixture.backend.config_u16(0x64), u16::MAX);
}
