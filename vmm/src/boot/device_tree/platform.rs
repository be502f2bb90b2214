//! The nodes that every pseries machine has: root, `/chosen`, `/hypervisor`, memory, `/rtas`, the
//! interrupt controller and `/vdevice`.

use spapr_devices::interrupts::xive::{
    FIRST_RESERVED_PRIORITY, OS_THREAD_MANAGEMENT, PAGE_BYTES, QUEUE_SHIFT, USER_THREAD_MANAGEMENT,
};
use spapr_devices::interrupts::{CONTROLLER_PHANDLE, ControllerKind, Lisn};
use spapr_devices::rtas;
use spapr_devices::tree::{Node, cells};
use spapr_hypercalls::world::GuestRange;

use super::{BootFacts, MachineTree};

/// Functions of the platform beyond plain RTAS (PAPR, "ibm,hypertas-functions"): those that this
/// VMM or the kernel's KVM serves.
const HYPERTAS_FUNCTIONS: &[&str] = &[
    "hcall-term",
    "hcall-dabr",
    "hcall-interrupt",
    "hcall-tce",
    "hcall-multi-tce",
    "hcall-vio",
    "hcall-splpar",
    "hcall-set-mode",
    "hcall-sprg0",
];

/// Size of a logical memory block, the unit in which memory would be added.
const LOGICAL_MEMORY_BLOCK_BYTES: u64 = 256 << 20;

/// The longest error log that RTAS returns.
const RTAS_ERROR_LOG_BYTES: u32 = 2048;

/// `ibm,architecture-vec-5`, the platform's answer to what the guest supports (PAPR,
/// "ibm,client-architecture-support", option vector 5): byte 0 is the number of option bytes less
/// one, byte n is option byte n.
const fn architecture_vector_5(controller: ControllerKind) -> [u8; 27] {
    let mut vector = [0; 27];
    vector[0] = 25;
    vector[2] = 0x20; // PCI express
    vector[23] = match controller {
        ControllerKind::Xics => 0x00,
        ControllerKind::Xive => 0x40, // exploitation mode
    };
    vector[24] = 0x40; // radix
    vector[26] = 0x40; // guest translation shootdown
    vector
}

/// Priorities that the hypervisor keeps for itself: the first, and how many.
const RESERVED_PRIORITIES: [u32; 2] = [
    FIRST_RESERVED_PRIORITY as u32,
    0xff - FIRST_RESERVED_PRIORITY as u32,
];

pub(super) fn root(machine: &MachineTree) -> Node {
    // Linux' probe of the platform looks at device_type (`pSeries_probe` in
    // arch/powerpc/platforms/pseries/setup.c); guests that tell pseries from bare metal by name know this one.
    let root = Node::new("")
        .string("device_type", "chrp")
        .string("compatible", "qemu,pseries")
        .string("model", "IBM pSeries (spapr-vmm)")
        .string("vm,uuid", &machine.uuid)
        .string("system-id", &machine.uuid);
    let root = match machine.interrupt_controller {
        ControllerKind::Xive => root.cells("ibm,plat-res-int-priorities", &RESERVED_PRIORITIES),
        ControllerKind::Xics => root,
    };
    root.cell("#address-cells", 2).cell("#size-cells", 2)
}

pub(super) fn chosen(machine: &MachineTree, boot: &BootFacts<'_>) -> Node {
    // The kernel's early console.
    let stdout = format!("/vdevice/{}", vty_name(machine));
    let vector = architecture_vector_5(machine.interrupt_controller);
    let chosen = Node::new("chosen")
        .string("bootargs", boot.command_line)
        .string("stdout-path", &stdout)
        .string("linux,stdout-path", &stdout)
        .cell("linux,pci-probe-only", 0)
        .bytes("ibm,architecture-vec-5", vector)
        .bytes("rng-seed", machine.rng_seed);
    match &boot.initrd {
        Some(initrd) => chosen
            .doublewords("linux,initrd-start", &[initrd.start])
            .doublewords("linux,initrd-end", &[initrd.end]),
        None => chosen,
    }
}

pub(super) fn hypervisor() -> Node {
    Node::new("hypervisor").string("compatible", "linux,kvm")
}

/// A block of memory. That at 0 is all the guest has before it takes over address translation: Linux takes the
/// first one's size for that of the real mode area.
pub(super) fn memory(block: &GuestRange) -> Node {
    Node::new(format!("memory@{:x}", block.start.0))
        .string("device_type", "memory")
        .doublewords("reg", &[block.start.0, block.bytes])
}

pub(super) fn rtas(machine: &MachineTree, boot: &BootFacts<'_>) -> Node {
    let [_, base] = cells(boot.rtas.start);
    let [_, size] = cells(boot.rtas.end - boot.rtas.start);
    // Linux sizes a dynamic DMA window by the end of memory given here (`ddw_memory_hotplug_max` in
    // arch/powerpc/platforms/pseries/iommu.c).
    let ends = machine.ram.iter().map(|block| block.start.0 + block.bytes);
    let [end_high, end_low] = cells(ends.fold(0, u64::max));
    let [block_high, block_low] = cells(LOGICAL_MEMORY_BLOCK_BYTES);
    let capacity = [end_high, end_low, block_high, block_low, machine.cpus];
    let node = Node::new("rtas")
        .cell("linux,rtas-base", base)
        .cell("linux,rtas-entry", base)
        .cell("rtas-size", size)
        .cell("rtas-error-log-max", RTAS_ERROR_LOG_BYTES)
        .cell("rtas-event-scan-rate", 1)
        .flag("ibm,change-msix-capable")
        .flag("ibm,extended-os-term")
        .strings("ibm,hypertas-functions", HYPERTAS_FUNCTIONS)
        .cells("ibm,lrdr-capacity", &capacity);
    let node = match machine.has_eeh {
        true => node.bytes("ibm,errinjct-tokens", rtas::error_kinds()),
        false => node,
    };
    rtas_services(machine).fold(node, |node, (name, token)| node.cell(name, token))
}

/// The services; those of the kernel are the XICS's.
fn rtas_services(machine: &MachineTree) -> impl Iterator<Item = (&'static str, u32)> {
    let (controller, has_eeh) = (machine.interrupt_controller, machine.has_eeh);
    let here = rtas::SERVICES
        .iter()
        .filter(move |service| has_eeh || !service.needs_eeh())
        .map(|service| (service.name, service.token));
    let kernel = rtas::KERNEL_SERVICES
        .iter()
        .map(|service| (service.name, service.token))
        .filter(move |_| controller == ControllerKind::Xics);
    here.chain(kernel)
}

pub(super) fn interrupt_controller(machine: &MachineTree) -> Node {
    let controller = match machine.interrupt_controller {
        ControllerKind::Xics => xics(machine),
        ControllerKind::Xive => xive(machine),
    };
    controller
        .flag("interrupt-controller")
        .cell("#interrupt-cells", 2)
        .cell("phandle", CONTROLLER_PHANDLE)
}

fn xics(machine: &MachineTree) -> Node {
    Node::new("interrupt-controller")
        .string("device_type", "PowerPC-External-Interrupt-Presentation")
        .string("compatible", "IBM,ppc-xicp")
        .cells("ibm,interrupt-server-ranges", &[0, machine.cpus])
}

/// `reg` has the pages of the thread interrupt management area for programs and for the operating
/// system; sources for the processors to interrupt each other by are `ibm,xive-lisn-ranges`
/// (`xive_spapr_init` in arch/powerpc/sysdev/xive/spapr.c).
fn xive(machine: &MachineTree) -> Node {
    let pages = [
        USER_THREAD_MANAGEMENT.0,
        PAGE_BYTES,
        OS_THREAD_MANAGEMENT.0,
        PAGE_BYTES,
    ];
    let name = format!("interrupt-controller@{:x}", USER_THREAD_MANAGEMENT.0);
    Node::new(name)
        .string("device_type", "power-ivpe")
        .string("compatible", "ibm,power-ivpe")
        .doublewords("reg", &pages)
        .cell("ibm,xive-eq-sizes", QUEUE_SHIFT)
        .cells("ibm,xive-lisn-ranges", &[Lisn::IPI.0, machine.cpus])
}

/// What tells the guest of events: its kernel asks RTAS check-exception at the interrupt (PAPR,
/// "Event Sources"; Linux, arch/powerpc/platforms/pseries/ras.c).
pub(super) fn event_sources() -> Node {
    let events = Node::new("epow-events")
        .cell("interrupt-parent", CONTROLLER_PHANDLE)
        .cells("interrupts", &[Lisn::EPOW.0, 0]);
    Node::new("event-sources").child(events)
}

fn vty_name(machine: &MachineTree) -> String {
    format!("vty@{:x}", machine.vty)
}

pub(super) fn vdevice(machine: &MachineTree) -> Node {
    let vty = Node::new(vty_name(machine))
        .string("device_type", "serial")
        .string("compatible", "hvterm1")
        .cell("reg", machine.vty)
        .cells("interrupts", &[Lisn::VIO.0, 0]);
    Node::new("vdevice")
        .string("device_type", "vdevice")
        .string("compatible", "IBM,vdevice")
        .cell("#address-cells", 1)
        .cell("#size-cells", 0)
        .cell("#interrupt-cells", 2)
        .cell("interrupt-parent", CONTROLLER_PHANDLE)
        .child(vty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_vector_5_asks_for_radix_and_is_long_enough_to_be_read() {
        for controller in [ControllerKind::Xics, ControllerKind::Xive] {
            let vector = architecture_vector_5(controller);
            // Linux takes a vector of 24 bytes or fewer as "no radix" (`early_check_vec5` in
            // arch/powerpc/mm/init_64.c).
            assert!(vector[0] > 24);
            assert_eq!(usize::from(vector[0]) + 2, vector.len());
        }
    }
}
