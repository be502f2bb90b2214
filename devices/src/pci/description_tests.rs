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
    let node = Fixture::new().bridge.node(WINDOW);
    assert_eq!(node.name, "pci@800000020000000");
    assert_eq!(node.reg, [0x0800_0000, 0x2000_0000, 0, 0]);
    assert_eq!(
        node.ranges.concat(),
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
    assert_eq!(node.pe_total_msi, 0xd00);
    assert_eq!(node.dma_window, [0x8000_0000, 0, 0, 0, 0x4000_0000]);
}

#[test]
fn function_node_tells_bars_and_vectors() {
    let node = Fixture::new().bridge.node(WINDOW).functions.remove(0);
    assert_eq!(node.name, "mass-storage@0");
    assert_eq!(
        (node.vendor_id, node.device_id, node.class_code),
        (0x1b36, 0x10, 0x1_0802)
    );
    assert_eq!(
        (node.subsystem_vendor_id, node.subsystem_id),
        (Some(0x1af4), Some(0x1100))
    );
    assert_eq!((node.req_msi, node.req_msi_x), (Some(32), Some(65)));
    let reg: Vec<_> = node.reg.iter().map(|entry| entry.cells()).collect();
    assert_eq!(
        reg,
        [
            [0, 0, 0, 0, 0],
            [0x0300_0010, 0, 0, 0, 0x4000],
            [0x4300_0018, 0, 0, 0, 0x10_0000],
            [0x0100_0020, 0, 0, 0, 0x40],
            [0x0200_0024, 0, 0, 0, 0x1000],
        ]
    );
    let assigned: Vec<_> = node
        .assigned_addresses
        .iter()
        .map(|entry| entry.cells())
        .collect();
    assert_eq!(
        assigned,
        [
            [0x8200_0010, 0, 0x8000_0000, 0, 0x4000],
            [0xc300_0018, 0x2100, 0, 0, 0x10_0000],
            [0x8100_0020, 0, 0x1000, 0, 0x40],
            [0x8200_0024, 0, 0x8001_0000, 0, 0x1000],
        ]
    );
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
    let names: Vec<_> = bridge
        .node(WINDOW)
        .functions
        .into_iter()
        .map(|node| node.name)
        .collect();
    assert_eq!(
        names,
        ["mass-storage@3", "mass-storage@3,1", "mass-storage@4"]
    );
    let header = |index: usize| bridge.functions()[index].read_config(0x0e, 1).unwrap();
    assert_eq!([header(0), header(1), header(2)], [0x80, 0x80, 0]);
    assert_eq!(bridge.node(WINDOW).dma_window[0], 0x8000_0100);

    let twice = vec![(at(0, 0), function("a")), (at(0, 0), function("b"))];
    let error = HostBridge::new(2, &fixture.board, twice).err().unwrap();
    assert!(error.to_string().contains("00.0"), "{error}");
}
