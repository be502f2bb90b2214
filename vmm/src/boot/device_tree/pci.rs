//! The nodes of PCI host bridges and of the functions behind them (PAPR, "PCI Host Bridge Nodes";
//! IEEE 1275 "PCI Bus Binding").

use spapr_devices::pci::{FunctionNode, HostBridgeNode, LineNode, NodeAddress};
use vm_fdt::{Error, FdtWriter};

use super::INTERRUPT_CONTROLLER;

pub(super) fn host_bridge(tree: &mut FdtWriter, bridge: &HostBridgeNode) -> Result<(), Error> {
    let node = tree.begin_node(&bridge.name)?;
    tree.property_string("device_type", "pci")?;
    tree.property_string("compatible", "IBM,Logical_PHB")?;
    tree.property_u32("#address-cells", 3)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("#interrupt-cells", 1)?;
    tree.property_array_u32("reg", &bridge.reg)?;
    tree.property_array_u32("bus-range", &bridge.bus_range)?;
    tree.property_array_u32("ranges", bridge.ranges.as_flattened())?;
    tree.property_null("used-by-rtas")?;
    tree.property_u32("ibm,pci-config-space-type", bridge.config_space_type)?;
    tree.property_u32("ibm,pe-total-#msi", bridge.pe_total_msi)?;
    tree.property_u32("ibm,#dma-address-cells", 2)?;
    tree.property_u32("ibm,#dma-size-cells", 2)?;
    tree.property_array_u32("ibm,dma-window", &bridge.dma_window)?;
    if let Some([applicable, extensions]) = &bridge.dynamic_windows {
        tree.property_array_u32("ibm,ddw-applicable", applicable)?;
        tree.property_array_u32("ibm,ddw-extensions", extensions)?;
    }
    if !bridge.lines.is_empty() {
        tree.property_array_u32("interrupt-map-mask", &LineNode::MASK)?;
        let map: Vec<u32> = bridge.lines.iter().flat_map(line).collect();
        tree.property_array_u32("interrupt-map", &map)?;
    }
    for function in &bridge.functions {
        self::function(tree, function)?;
    }
    tree.end_node(node)
}

/// An entry of `interrupt-map`: an address of three cells and a pin, then the controller and the
/// two cells by which it names a level-triggered source.
fn line(line: &LineNode) -> [u32; 7] {
    const LEVEL: u32 = 1;
    let LineNode { device, pin, lisn } = *line;
    [device, 0, 0, pin, INTERRUPT_CONTROLLER, lisn.0, LEVEL]
}

fn function(tree: &mut FdtWriter, function: &FunctionNode) -> Result<(), Error> {
    let node = tree.begin_node(&function.name)?;
    let cells = [
        ("vendor-id", Some(function.vendor_id)),
        ("device-id", Some(function.device_id)),
        ("revision-id", Some(function.revision_id)),
        ("class-code", Some(function.class_code)),
        ("subsystem-vendor-id", function.subsystem_vendor_id),
        ("subsystem-id", function.subsystem_id),
        ("cache-line-size", Some(function.cache_line_size)),
        ("devsel-speed", Some(function.devsel_speed)),
        ("min-grant", Some(function.min_grant)),
        ("max-latency", Some(function.max_latency)),
        (
            "ibm,pci-config-space-type",
            Some(function.config_space_type),
        ),
        ("ibm,req#msi", function.req_msi),
        ("ibm,req#msi-x", function.req_msi_x),
        ("interrupts", function.interrupts),
    ];
    for (name, value) in cells {
        if let Some(value) = value {
            tree.property_u32(name, value)?;
        }
    }
    tree.property_string("ibm,loc-code", &function.location_code)?;
    addresses(tree, "reg", &function.reg)?;
    addresses(tree, "assigned-addresses", &function.assigned_addresses)?;
    tree.end_node(node)
}

fn addresses(tree: &mut FdtWriter, name: &str, list: &[NodeAddress]) -> Result<(), Error> {
    let cells: Vec<u32> = list.iter().flat_map(|address| address.cells()).collect();
    tree.property_array_u32(name, &cells)
}
