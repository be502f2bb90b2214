use proptest::prelude::*;

use super::super::backend::InterruptKind::{Msi, MsiX};
use super::super::config_space::register::COMMAND;
use super::super::fake::{FakeEndpoint, Fixture};
use super::*;
use crate::interrupts::Lisn;
use spapr_hypercalls::address::GuestPhysicalAddress;

const LSI: Lisn = Lisn(0x1200);
/// Memory decoding and bus mastering.
const ON: u32 = 6;
const RESETS: [PeRequest; 2] = [PeRequest::HotReset, PeRequest::FundamentalReset];

fn function(fixture: &Fixture) -> &Function {
    &fixture.bridge.functions()[0]
}

fn start(fixture: &Fixture) {
    function(fixture).write_config(COMMAND, 2, ON).unwrap();
}

fn mapped(fixture: &Fixture) -> usize {
    fixture.space.mapped.lock().len()
}

fn is_told(fixture: &Fixture) -> bool {
    let endpoint = fixture.bridge.endpoint.as_ref().unwrap();
    endpoint.frozen_told.load(Ordering::Relaxed)
}

#[test]
fn an_endpoint_has_an_address_of_its_own_and_is_also_found_by_that_of_its_function() {
    let (fixture, _) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    assert_eq!(bridge.endpoint_of(ConfigAddress(0)), Some((1, 1)));
    assert_eq!(bridge.endpoint_of(ConfigAddress(0x0800)), None);
    for (address, expected) in [
        (1, true),
        (0, true),
        (0x800, false),
        (4, false),
        (0x1_0001, false),
    ] {
        assert_eq!(bridge.is_endpoint(address), expected, "{address:#x}");
    }
    assert!(!bridge.is_endpoint(u32::MAX) && !bridge.is_endpoint(0x1000_0000));
    // A device of this process behind a bridge with a group.
    fixture.backend.in_endpoint.store(false, Ordering::Relaxed);
    assert_eq!(bridge.endpoint_of(ConfigAddress(0)), None);
    assert!(!bridge.is_endpoint(0));
}

#[test]
fn a_bridge_without_eeh_has_no_endpoint() {
    let fixture = Fixture::new();
    let bridge = &fixture.bridge;
    assert!(!bridge.has_eeh() && !bridge.is_endpoint(0) && !bridge.is_endpoint(1));
    assert!(bridge.request_of_endpoint(PeRequest::HotReset).is_err());
    assert!(bridge.endpoint_state().is_err());
    bridge.look_for_freeze();
    bridge.end_reset().unwrap();
}

#[test]
fn a_freeze_is_told_once_until_it_is_over_without_the_guest_asking() {
    let (fixture, endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    bridge.look_for_freeze();
    assert!(!is_told(&fixture));
    endpoint.freeze();
    bridge.look_for_freeze();
    assert!(is_told(&fixture));
    // The host cannot be asked for once: that is no thaw.
    endpoint.fault.fail_call(1);
    bridge.look_for_freeze();
    assert!(is_told(&fixture));
    bridge.request_of_endpoint(PeRequest::ThawIo).unwrap();
    assert_eq!(bridge.endpoint_state().unwrap(), PeState::DmaStopped);
    assert!(is_told(&fixture));
    bridge.request_of_endpoint(PeRequest::ThawDma).unwrap();
    bridge.look_for_freeze();
    assert!(!is_told(&fixture));
    // That it is stopped while it is reset is how it is reset.
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    endpoint.freeze();
    bridge.look_for_freeze();
    bridge.endpoint_state().unwrap();
    assert!(!is_told(&fixture));
}

/// Decoding and bus mastering are off, but for what the host needs for its vectors.
fn assert_is_off(fixture: &Fixture) {
    assert_eq!(function(fixture).read_config(4, 2).unwrap() & 7, 0);
    assert_eq!(fixture.backend.config_u16(4) & 5, 0);
}

#[test]
fn vectors_and_bars_leave_the_device_for_a_reset_and_come_back_six_times_over() {
    let (fixture, endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    start(&fixture);
    let before = mapped(&fixture);
    assert_eq!(before, 3);
    function(&fixture).change_msi(MsiX, 3).unwrap();
    let enabled = fixture.backend.enabled.lock().clone();
    let connected = fixture.lines.connected.lock().clone();
    for round in 0..6 {
        endpoint.freeze();
        bridge.request_of_endpoint(RESETS[round % 2]).unwrap();
        assert_eq!(mapped(&fixture), 0);
        assert_eq!(*fixture.backend.enabled.lock(), None);
        // The guest still has its sources.
        assert_eq!(*fixture.lines.connected.lock(), connected);
        let source = connected.keys().copied().next();
        assert_eq!(function(&fixture).interrupt_source(0), source);
        // And cannot have the BARs back before the reset ends.
        start(&fixture);
        assert_eq!(mapped(&fixture), 0);
        let mut data = [0; 4];
        bridge.mmio_read(GuestPhysicalAddress(0x2000_8000_0000), &mut data);
        assert_eq!(data, [0xff; 4]);
        bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
        assert_eq!(*fixture.backend.enabled.lock(), enabled);
        // The kernel switched decoding on, which vfio-pci does not know.
        assert_is_off(&fixture);
        assert_eq!(mapped(&fixture), 0);
        bridge.request_of_endpoint(PeRequest::Configure).unwrap();
        assert_eq!(bridge.endpoint_state().unwrap(), PeState::Normal);
        start(&fixture);
        assert_eq!(mapped(&fixture), before);
    }
}

#[test]
fn a_guest_that_ends_a_reset_which_never_began_finds_decoding_off_too() {
    let (fixture, _endpoint) = Fixture::with_endpoint();
    start(&fixture);
    function(&fixture).change_msi(Msi, 2).unwrap();
    fixture
        .bridge
        .request_of_endpoint(PeRequest::EndReset)
        .unwrap();
    assert_is_off(&fixture);
    assert_eq!(mapped(&fixture), 0);
    assert!(fixture.backend.enabled.lock().is_some());
}

#[test]
fn a_line_leaves_the_device_for_a_reset_and_comes_back() {
    let (fixture, _endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    fixture.lines.sample(LSI);
    let event = fixture.backend.line.lock().unwrap().0;
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    assert_eq!(*fixture.backend.line.lock(), None);
    // The guest ends an interrupt that came before.
    fixture.lines.sample(LSI);
    fixture.lines.sample_again(LSI);
    assert_eq!(*fixture.backend.line.lock(), None);
    assert_eq!(fixture.lines.sources().len(), 1);
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
    assert_eq!(*fixture.backend.line.lock(), Some((event, 0)));
    fixture.lines.sample(LSI);
    assert_eq!(fixture.backend.unmasked(), Some(1));
    // Given up while it is reset.
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    function(&fixture).quiesce().unwrap();
    assert!(fixture.lines.sources().is_empty());
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
    assert_eq!(*fixture.backend.line.lock(), None);
}

#[test]
fn vectors_that_the_guest_gives_back_during_a_reset_are_gone_and_new_ones_are_enabled_after_it() {
    let (fixture, _endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    function(&fixture).change_msi(MsiX, 3).unwrap();
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    function(&fixture).free_msi().unwrap();
    assert_eq!(fixture.board.lisns.in_use(), 0);
    function(&fixture).change_msi(Msi, 2).unwrap();
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
    let enabled = fixture.backend.enabled.lock().clone();
    let connected = fixture.lines.connected.lock().values().copied().collect();
    assert_eq!(enabled, Some((Msi, connected)));
}

#[test]
fn a_reset_that_the_host_refuses_leaves_the_functions_silent_until_one_ends_well() {
    let (fixture, endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    start(&fixture);
    function(&fixture).change_msi(MsiX, 1).unwrap();
    endpoint.fault.fail_call(1);
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap_err();
    start(&fixture);
    assert_eq!(mapped(&fixture), 0);
    endpoint.fault.fail_call(1);
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap_err();
    assert_eq!(*fixture.backend.enabled.lock(), None);
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
    assert!(fixture.backend.enabled.lock().is_some());
    start(&fixture);
    assert_eq!(mapped(&fixture), 3);
    // The host has no vectors left for the device when it comes back: the guest can ask for others.
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    fixture.backend.host_vectors.store(0, Ordering::Relaxed);
    bridge.request_of_endpoint(PeRequest::EndReset).unwrap();
    fixture.backend.host_vectors.store(9, Ordering::Relaxed);
    function(&fixture).change_msi(MsiX, 2).unwrap();
    assert!(fixture.backend.enabled.lock().is_some());
}

#[test]
fn a_kernel_that_starts_in_the_middle_of_a_reset_gets_the_device_once_it_is_normal() {
    let (fixture, endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    bridge.request_of_endpoint(PeRequest::Enable).unwrap();
    start(&fixture);
    assert_eq!(mapped(&fixture), 0);
    *endpoint.state.lock() = PeState::Normal;
    bridge.request_of_endpoint(PeRequest::Enable).unwrap();
    start(&fixture);
    assert_eq!(mapped(&fixture), 3);
}

#[test]
fn a_machine_that_ends_in_a_reset_ends_the_reset() {
    let (fixture, endpoint) = Fixture::with_endpoint();
    let bridge = &fixture.bridge;
    start(&fixture);
    function(&fixture).change_msi(MsiX, 1).unwrap();
    bridge.request_of_endpoint(PeRequest::HotReset).unwrap();
    bridge.end_reset().unwrap();
    bridge.end_reset().unwrap();
    let requests = endpoint.requests.lock().clone();
    assert_eq!(requests, [PeRequest::HotReset, PeRequest::EndReset]);
    function(&fixture).reset().unwrap();
    assert!(fixture.lines.sources().is_empty());
    start(&fixture);
    assert_eq!(mapped(&fixture), 3);
}

fn any_request() -> impl Strategy<Value = PeRequest> {
    prop::sample::select(vec![
        PeRequest::Disable,
        PeRequest::Enable,
        PeRequest::ThawIo,
        PeRequest::ThawDma,
        PeRequest::HotReset,
        PeRequest::FundamentalReset,
        PeRequest::EndReset,
        PeRequest::Configure,
    ])
}

/// What a guest, the hardware or the host does.
fn act(fixture: &Fixture, endpoint: &FakeEndpoint, (what, request, value): (u8, PeRequest, u32)) {
    let function = function(fixture);
    // Refusals are the guest's to see; what has to hold is asserted by the fakes.
    match what {
        0..=3 => drop(fixture.bridge.request_of_endpoint(request)),
        4 => endpoint.freeze(),
        5 => drop(function.write_config(COMMAND, 2, value & 7)),
        6 => drop(function.change_msi(MsiX, value % 70)),
        7 => drop(function.change_msi(Msi, value % 40)),
        8 => drop(function.free_msi()),
        9 => fixture.lines.sample(LSI),
        10 => endpoint.fault.fail_call(value % 2),
        11 => fixture.backend.interrupt_fault.fail_call(value % 3),
        12 => fixture.bridge.look_for_freeze(),
        13 => drop(fixture.bridge.endpoint_state()),
        _ => {
            let bars = 0x10 + u16::try_from(value % 6).unwrap() * 4;
            drop(function.write_config(bars, 4, value << 14));
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_asks_of_an_endpoint_nothing_is_in_use_over_a_reset_and_all_goes_at_the_end(
        acts in prop::collection::vec((0..15u8, any_request(), any::<u32>()), 1..60),
    ) {
        let (fixture, endpoint) = Fixture::with_endpoint();
        for it in acts {
            act(&fixture, &endpoint, it);
            // A device that answers is decoded as the guest and vfio-pci have it.
            let decodes = fixture.backend.config_u16(4) & 2 != 0;
            prop_assert!(decodes || mapped(&fixture) == 0);
        }
        endpoint.fault.fail_call(0);
        fixture.backend.interrupt_fault.fail_call(0);
        fixture.bridge.end_reset().unwrap();
        fixture.bridge.reset().unwrap();
        prop_assert!(fixture.lines.sources().is_empty());
        prop_assert_eq!(mapped(&fixture), 0);
        prop_assert_eq!(*endpoint.state.lock() == PeState::Reset, false);
    }
}
