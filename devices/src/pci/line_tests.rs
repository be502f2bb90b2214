use proptest::prelude::*;
use spapr_hypercalls::address::{Ioba, PageShift};
use spapr_hypercalls::world::Geometry;

use super::super::backend::InterruptKind::{Msi, MsiX};
use super::super::fake::{FakeFunction, Fixture};
use super::super::host_bridge::HostBridge;
use super::*;
use crate::tree::Node;

const FIRST: Lisn = Lisn(0x1200);

const WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 1 << 18,
};

fn at(device: u8, function: u8) -> DeviceFunction {
    DeviceFunction::new(device, function).unwrap()
}

#[test]
fn lines_of_all_bridges_are_routed_as_in_qemu() {
    let lisn = |bridge, device, pin| Route::new(bridge, at(device, 0), pin).map(|it| it.lisn.0);
    assert_eq!(lisn(0, 0, 1), Some(0x1200));
    assert_eq!(lisn(0, 0, 4), Some(0x1203));
    assert_eq!(lisn(1, 1, 1), Some(0x1205));
    assert_eq!(lisn(5, 3, 2), Some(0x1214));
    assert_eq!(lisn(30, 31, 4), Some(0x127a));
    for pin in [0, 5, 0xff] {
        assert_eq!(lisn(0, 0, pin), None);
    }
}

#[test]
fn a_line_is_connected_when_the_guest_first_listens_and_unmasked_each_time_after() {
    let fixture = Fixture::new();
    assert_eq!(fixture.backend.unmasked(), None);
    assert!(fixture.lines.sources().is_empty());
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(0));
    let event = fixture.lines.connected.lock()[&FIRST];
    assert_eq!(fixture.backend.line.lock().unwrap().0, event);
    for times in 1..3 {
        fixture.lines.sample(FIRST);
        assert_eq!(fixture.backend.unmasked(), Some(times));
    }
    // Another line's.
    fixture.lines.sample(Lisn(0x1201));
    assert_eq!(fixture.backend.unmasked(), Some(2));
}

#[test]
fn a_line_makes_room_for_vectors_and_comes_back_when_they_go_or_cannot_be_had() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    fixture.lines.sample(FIRST);
    function.change_msi(MsiX, 3).unwrap();
    assert_eq!(fixture.lines.sources().len(), 3);
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), None);
    function.free_msi().unwrap();
    assert_eq!(fixture.backend.unmasked(), None, "nobody listens");
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(0));
    fixture.lines.fault.fail_call(2);
    assert!(function.change_msi(MsiX, 3).is_err());
    assert!(fixture.lines.sources().is_empty());
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(0));
}

#[test]
fn a_line_that_cannot_be_connected_leaves_nothing_behind_and_is_tried_again() {
    let fixture = Fixture::new();
    fixture.backend.interrupt_fault.fail_call(1);
    fixture.lines.sample(FIRST);
    assert!(fixture.lines.sources().is_empty() && fixture.backend.unmasked().is_none());
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(0));
}

#[test]
fn a_function_that_is_stopped_is_not_connected_until_it_is_reset() {
    let fixture = Fixture::new();
    let function = &fixture.bridge.functions()[0];
    fixture.lines.sample(FIRST);
    function.quiesce().unwrap();
    assert!(fixture.lines.sources().is_empty());
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), None);
    function.reset().unwrap();
    fixture.lines.sample(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(0));
}

/// What a guest sees of the line of `fixture`: the pin in configuration space and in the tree, and
/// the routes.
fn seen(bridge: &HostBridge) -> (u32, Option<Vec<u32>>, Vec<[u32; 3]>) {
    let pin = bridge.functions()[0].read_config(0x3d, 1).unwrap();
    let node = bridge.describe(WINDOW, 3, None);
    let interrupts = node.children()[0].cells_of("interrupts");
    (pin, interrupts, routes(&node))
}

/// Device, pin and source of each entry of `interrupt-map`.
fn routes(node: &Node) -> Vec<[u32; 3]> {
    let map = node.cells_of("interrupt-map").unwrap_or_default();
    let entries = map.chunks(7);
    entries
        .map(|entry| [entry[0], entry[3], entry[5]])
        .collect()
}

#[test]
fn a_guest_sees_a_line_only_when_it_works() {
    let fixture = Fixture::behind(1, |function| function);
    let route = [0, 1, 0x1204];
    assert_eq!(seen(&fixture.bridge), (1, Some(vec![1]), vec![route]));

    let none = (0, None, vec![]);
    let fixture = Fixture::with(FakeFunction::without_line);
    assert_eq!(seen(&fixture.bridge), none);
    let fixture = Fixture::with(|function| {
        function.poke(0x3d, 0);
        function
    });
    assert_eq!(seen(&fixture.bridge), none);
}

/// Has the guest turn decoding on or off.
fn decode(fixture: &Fixture, command: u32) {
    let function = &fixture.bridge.functions()[0];
    function.write_config(0x04, 2, command).unwrap();
}

#[test]
fn a_line_that_nobody_knows_to_be_listened_to_is_connected_when_its_device_decodes() {
    let fixture = Fixture::sampled_by_time();
    let function = &fixture.bridge.functions()[0];
    decode(&fixture, 4);
    fixture.lines.sample_again(FIRST);
    assert_eq!(fixture.backend.unmasked(), None);
    decode(&fixture, 6);
    assert_eq!(fixture.backend.unmasked(), Some(0));
    assert_eq!(fixture.lines.sources().len(), 1);
    // It stays so, whatever comes.
    decode(&fixture, 6);
    decode(&fixture, 0);
    decode(&fixture, 2);
    fixture.lines.sample_again(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(1));
    // Until there are vectors.
    function.change_msi(MsiX, 3).unwrap();
    decode(&fixture, 6);
    fixture.lines.sample_again(FIRST);
    assert_eq!(fixture.backend.unmasked(), None);
    assert_eq!(fixture.lines.sources().len(), 3);
    function.free_msi().unwrap();
    assert_eq!(fixture.backend.unmasked(), Some(0));
    // Of a device that is not decoded, nobody can want it.
    function.change_msi(MsiX, 3).unwrap();
    decode(&fixture, 0);
    function.free_msi().unwrap();
    assert_eq!(fixture.backend.unmasked(), None);
    decode(&fixture, 1);
    assert_eq!(fixture.backend.unmasked(), Some(0));
    function.quiesce().unwrap();
    fixture.lines.sample_again(FIRST);
    assert!(fixture.lines.sources().is_empty());
    assert_eq!(fixture.backend.unmasked(), None);
}

#[test]
fn a_line_that_the_guest_lets_know_of_is_not_connected_for_decoding() {
    let fixture = Fixture::new();
    decode(&fixture, 6);
    fixture.lines.sample_again(FIRST);
    assert_eq!(fixture.backend.unmasked(), None);
    fixture.lines.sample(FIRST);
    fixture.lines.sample_again(FIRST);
    assert_eq!(fixture.backend.unmasked(), Some(1));
}

/// What a guest may do about its function's interrupts.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sample,
    SampleAgain,
    Command(u16),
    Vectors(bool, u32),
    Free,
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u32)>> {
    let step = prop_oneof![
        Just(Step::Sample),
        Just(Step::SampleAgain),
        any::<u16>().prop_map(Step::Command),
        (any::<bool>(), any::<u32>()).prop_map(|(kind, count)| Step::Vectors(kind, count % 70)),
        Just(Step::Free),
        Just(Step::Reset),
    ];
    prop::collection::vec((step, 0u32..4), 1..40)
}

proptest! {
    /// The fakes panic when the line and vectors are on at once, or one of them twice.
    #[test]
    fn a_guest_never_has_its_line_and_vectors_at_once(by_time: bool, steps in steps()) {
        let fixture = match by_time {
            true => Fixture::sampled_by_time(),
            false => Fixture::new(),
        };
        let function = &fixture.bridge.functions()[0];
        for (step, fault) in steps {
            fixture.backend.interrupt_fault.fail_call(fault);
            // What fails leaves less behind, and nothing else.
            match step {
                Step::Sample => fixture.lines.sample(FIRST),
                Step::SampleAgain => fixture.lines.sample_again(FIRST),
                Step::Command(value) => drop(function.write_config(0x04, 2, value.into())),
                Step::Vectors(_, 0) | Step::Free => drop(function.free_msi()),
                Step::Vectors(true, count) => drop(function.change_msi(MsiX, count)),
                Step::Vectors(false, count) => drop(function.change_msi(Msi, count)),
                Step::Reset => drop(function.reset()),
            }
            fixture.backend.interrupt_fault.fail_call(0);
            let sources = fixture.lines.sources();
            let line = fixture.backend.unmasked().is_some();
            prop_assert_eq!(sources.contains(&FIRST), line);
            let vectors = fixture.backend.enabled.lock().as_ref().map_or(0, |(_, it)| it.len());
            prop_assert_eq!(sources.len(), vectors + usize::from(line));
            prop_assert_eq!(fixture.board.lisns.in_use(), vectors);
        }
        function.quiesce().unwrap();
        prop_assert!(fixture.lines.sources().is_empty());
    }
}

#[test]
fn functions_of_one_device_share_a_route() {
    let fixture = Fixture::new();
    let function = |name: &str| -> Arc<dyn FunctionBackend> {
        Arc::new(FakeFunction::new(name, fixture.space.clone()))
    };
    let functions = vec![
        (at(3, 0), function("a")),
        (at(3, 1), function("b")),
        (at(4, 0), function("c")),
    ];
    let bridge = HostBridge::new(1, &fixture.board, functions).unwrap();
    let routes = routes(&bridge.describe(WINDOW, 3, None));
    assert_eq!(routes, [[0x1800, 1, 0x1207], [0x2000, 1, 0x1204]]);
}
