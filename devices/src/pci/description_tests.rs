use std::sync::Arc;

use spapr_hypercalls::address::{Ioba, PageShift};

use super::super::fake::{FakeFunction, Fixture};
use super::*;

const WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 1 << 18,
};

#[test]
fn bridge_node_equals_qemu_s() {
    let node = Fixture::new().bridge.describe(WINDOW, 97, None);
    let cells = |name: &str| node.cells_of(name).unwrap();
    assert_eq!(node.name(), "pci@800000020000000");
    assert_eq!(cells("reg"), [0x0800_0000, 0x2000_0000, 0, 0]);
    assert_eq!(
        cells("ranges"),
        [
            0x0100_0000,
            0,
            0,
            0x2000,
            0,
            0,
            0x1_0000, //
            0x0200_0000,
            0,
            0x8000_0000,
            0x2000,
            0x8000_0000,
            0,
            0x8000_0000, //
            0x0300_0000,
            0x2100,
            0,
            0x2100,
            0,
            0x100,
            0,
        ]
    );
    assert_eq!(cells("ibm,pe-total-#msi"), [97]);
    assert_eq!(cells("ibm,dma-window"), [0x8000_0000, 0, 0, 0, 0x4000_0000]);
}

#[test]
fn a_bridge_has_its_default_window_where_and_as_large_as_it_is() {
    let bridge = Fixture::new().bridge;
    let of = |start, entries| {
        let window = Geometry {
            bus_offset: Ioba(start),
            entries,
            ..WINDOW
        };
        let node = bridge.describe(window, 97, None);
        node.cells_of("ibm,dma-window").unwrap()
    };
    let liobn = 0x8000_0000;
    assert_eq!(
        of(0x4000_0000, 1 << 16),
        [liobn, 0, 0x4000_0000, 0, 1 << 28]
    );
    assert_eq!(of(0x2_8000_0000, 1 << 21), [liobn, 2, 0x8000_0000, 2, 0]);
}

#[test]
fn a_bridge_names_the_services_for_dynamic_windows_only_where_it_has_them() {
    let bridge = Fixture::new().bridge;
    let services = Some(([1, 2, 3], [3, 4, 5, 6]));
    let both = ["ibm,ddw-applicable", "ibm,ddw-extensions"];
    let of = |node: &Node| both.map(|name| node.cells_of(name));
    let with = bridge.describe(WINDOW, 97, services);
    assert_eq!(of(&with), [Some(vec![1, 2, 3]), Some(vec![3, 4, 5, 6])]);
    assert_eq!(of(&bridge.describe(WINDOW, 97, None)), [None, None]);
}

/// What Linux looks at, in `of_irq_parse_pci` and `of_irq_parse_raw`.
#[test]
fn a_guest_finds_where_the_line_of_a_device_goes() {
    let with_line = Fixture::behind(1, |function| function);
    let node = with_line.bridge.describe(WINDOW, 97, None);
    let cells = |name: &str| node.cells_of(name).unwrap();
    assert_eq!(cells("#interrupt-cells"), [1]);
    assert_eq!(cells("interrupt-map-mask"), [0xf800, 0, 0, 7]);
    let route = [0, 0, 0, 1, CONTROLLER_PHANDLE, 0x1204, 1];
    assert_eq!(cells("interrupt-map"), route);
    assert_eq!(node.children()[0].cells_of("interrupts"), Some(vec![1]));
    let without = Fixture::with(FakeFunction::without_line);
    let node = without.bridge.describe(WINDOW, 97, None);
    assert_eq!(node.property("interrupt-map"), None);
    assert_eq!(node.children()[0].property("interrupts"), None);
}

#[test]
fn function_node_tells_bars_and_vectors() {
    let bridge = Fixture::new().bridge.describe(WINDOW, 97, None);
    let node = &bridge.children()[0];
    let cells = |name: &str| node.cells_of(name).unwrap();
    assert_eq!(node.name(), "mass-storage@0");
    let numbers = [
        ("vendor-id", 0x1b36),
        ("device-id", 0x10),
        ("class-code", 0x1_0802),
        ("subsystem-vendor-id", 0x1af4),
        ("subsystem-id", 0x1100),
        ("ibm,req#msi", 32),
        ("ibm,req#msi-x", 65),
    ];
    for (name, value) in numbers {
        assert_eq!(cells(name), [value], "{name}");
    }
    let reg = [
        [0, 0, 0, 0, 0],
        [0x0300_0010, 0, 0, 0, 0x4000],
        [0x4300_0018, 0, 0, 0, 0x10_0000],
        [0x0100_0020, 0, 0, 0, 0x40],
        [0x0200_0024, 0, 0, 0, 0x1000],
    ];
    assert_eq!(cells("reg"), reg.concat());
    let assigned = [
        [0x8200_0010, 0, 0x8000_0000, 0, 0x4000],
        [0xc300_0018, 0x2100, 0, 0, 0x10_0000],
        [0x8100_0020, 0, 0x1000, 0, 0x40],
        [0x8200_0024, 0, 0x8001_0000, 0, 0x1000],
    ];
    assert_eq!(cells("assigned-addresses"), assigned.concat());
}

#[test]
fn functions_of_one_device_say_so() {
    let fixture = Fixture::new();
    let function = |name: &str| -> Arc<dyn FunctionBackend> {
        Arc::new(FakeFunction::new(name, fixture.space.clone()))
    };
    let at = |device, function| DeviceFunction::new(device, function).unwrap();
    let functions = vec![
        (at(3, 1), function("b")),
        (at(3, 0), function("a")),
        (at(4, 0), function("c")),
    ];
    let bridge = HostBridge::new(1, &fixture.board, functions).unwrap();
    let node = bridge.describe(WINDOW, 97, None);
    let names: Vec<_> = node.children().iter().map(Node::name).collect();
    assert_eq!(
        names,
        ["mass-storage@3", "mass-storage@3,1", "mass-storage@4"]
    );
    let header = |index: usize| bridge.functions()[index].read_config(0x0e, 1).unwrap();
    assert_eq!([header(0), header(1), header(2)], [0x80, 0x80, 0]);
    assert_eq!(node.cells_of("ibm,dma-window").unwrap()[0], 0x8000_0100);

    let twice = vec![(at(0, 0), function("a")), (at(0, 0), function("b"))];
    let error = HostBridge::new(2, &fixture.board, twice).err().unwrap();
    assert!(error.to_string().contains("00.0"), "{error}");
}
