//! The nodes that every pseries machine has: root, `/chosen`, `/hypervisor`, memory, `/rtas`, the
//! interrupt controller and `/vdevice`.

use spapr_devices::interrupts::xive::{
    FIRST_RESERVED_PRIORITY, OS_THREAD_MANAGEMENT, PAGE_BYTES, QUEUE_SHIFT, USER_THREAD_MANAGEMENT,
};
use spapr_devices::interrupts::{ControllerKind, Lisn};
use spapr_devices::rtas;
use vm_fdt::{Error, FdtWriter, FdtWriterNode};

use super::long_names::cut;
use super::{BootFacts, INTERRUPT_CONTROLLER, MachineTree, cells};

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

pub(super) fn root_properties(tree: &mut FdtWriter, machine: &MachineTree) -> Result<(), Error> {
    // Linux' probe of the platform looks at device_type; guests that tell pseries from bare metal
    // by name know this one.
    tree.property_string("device_type", "chrp")?;
    tree.property_string("compatible", "qemu,pseries")?;
    tree.property_string("model", "IBM pSeries (spapr-vmm)")?;
    tree.property_string("vm,uuid", &machine.uuid)?;
    tree.property_string("system-id", &machine.uuid)?;
    if machine.interrupt_controller == ControllerKind::Xive {
        tree.property_array_u32("ibm,plat-res-int-priorities", &RESERVED_PRIORITIES)?;
    }
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)
}

pub(super) fn chosen(
    tree: &mut FdtWriter,
    machine: &MachineTree,
    boot: &BootFacts<'_>,
) -> Result<(), Error> {
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", boot.command_line)?;
    // The kernel's early console.
    let stdout = format!("/vdevice/{}", vty_name(machine));
    tree.property_string("stdout-path", &stdout)?;
    tree.property_string("linux,stdout-path", &stdout)?;
    tree.property_u32("linux,pci-probe-only", 0)?;
    let vector = architecture_vector_5(machine.interrupt_controller);
    tree.property("ibm,architecture-vec-5", &vector)?;
    tree.property("rng-seed", &machine.rng_seed)?;
    if let Some(initrd) = &boot.initrd {
        tree.property_u64("linux,initrd-start", initrd.start)?;
        tree.property_u64("linux,initrd-end", initrd.end)?;
    }
    tree.end_node(chosen)
}

pub(super) fn hypervisor(tree: &mut FdtWriter) -> Result<(), Error> {
    let hypervisor = tree.begin_node("hypervisor")?;
    tree.property_string("compatible", "linux,kvm")?;
    tree.end_node(hypervisor)
}

pub(super) fn memory(tree: &mut FdtWriter, machine: &MachineTree) -> Result<(), Error> {
    let memory = tree.begin_node("memory@0")?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[0, machine.ram_bytes])?;
    tree.end_node(memory)
}

pub(super) fn rtas(
    tree: &mut FdtWriter,
    machine: &MachineTree,
    boot: &BootFacts<'_>,
) -> Result<(), Error> {
    let node = tree.begin_node("rtas")?;
    let [_, base] = cells(boot.rtas.start);
    let [_, size] = cells(boot.rtas.end - boot.rtas.start);
    tree.property_u32("linux,rtas-base", base)?;
    tree.property_u32("linux,rtas-entry", base)?;
    tree.property_u32("rtas-size", size)?;
    tree.property_u32("rtas-error-log-max", RTAS_ERROR_LOG_BYTES)?;
    tree.property_u32("rtas-event-scan-rate", 1)?;
    tree.property_null("ibm,change-msix-capable")?;
    tree.property_null("ibm,extended-os-term")?;
    let functions = HYPERTAS_FUNCTIONS
        .iter()
        .map(|&name| name.to_owned())
        .collect();
    tree.property_string_list("ibm,hypertas-functions", functions)?;
    // Linux sizes a dynamic DMA window by the end of memory given here.
    let [end_high, end_low] = cells(machine.ram_bytes);
    let [block_high, block_low] = cells(LOGICAL_MEMORY_BLOCK_BYTES);
    let capacity = [end_high, end_low, block_high, block_low, machine.cpus];
    tree.property_array_u32("ibm,lrdr-capacity", &capacity)?;
    for (name, token) in rtas_services(machine.interrupt_controller) {
        tree.property_u32(cut(name), token)?;
    }
    tree.end_node(node)
}

/// The services; those of the kernel are the XICS's.
fn rtas_services(controller: ControllerKind) -> impl Iterator<Item = (&'static str, u32)> {
    let here = rtas::SERVICES
        .iter()
        .map(|service| (service.name, service.token));
    let kernel = rtas::KERNEL_SERVICES
        .iter()
        .map(|service| (service.name, service.token))
        .filter(move |_| controller == ControllerKind::Xics);
    here.chain(kernel)
}

/// Names of the RTAS services, which are properties.
pub(super) fn rtas_names() -> impl Iterator<Item = &'static str> {
    rtas_services(ControllerKind::Xics).map(|(name, _)| name)
}

pub(super) fn interrupt_controller(
    tree: &mut FdtWriter,
    machine: &MachineTree,
) -> Result<(), Error> {
    let controller = match machine.interrupt_controller {
        ControllerKind::Xics => xics(tree, machine),
        ControllerKind::Xive => xive(tree, machine),
    }?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 2)?;
    tree.property_phandle(INTERRUPT_CONTROLLER)?;
    tree.end_node(controller)
}

fn xics(tree: &mut FdtWriter, machine: &MachineTree) -> Result<FdtWriterNode, Error> {
    let controller = tree.begin_node("interrupt-controller")?;
    tree.property_string("device_type", "PowerPC-External-Interrupt-Presentation")?;
    tree.property_string("compatible", "IBM,ppc-xicp")?;
    tree.property_array_u32("ibm,interrupt-server-ranges", &[0, machine.cpus])?;
    Ok(controller)
}

/// `reg` has the pages of the thread interrupt management area for programs and for the operating
/// system; sources for the processors to interrupt each other by are `ibm,xive-lisn-ranges` (Linux,
/// `xive_spapr_init`).
fn xive(tree: &mut FdtWriter, machine: &MachineTree) -> Result<FdtWriterNode, Error> {
    let name = format!("interrupt-controller@{:x}", USER_THREAD_MANAGEMENT.0);
    let controller = tree.begin_node(&name)?;
    tree.property_string("device_type", "power-ivpe")?;
    tree.property_string("compatible", "ibm,power-ivpe")?;
    let pages = [
        USER_THREAD_MANAGEMENT.0,
        PAGE_BYTES,
        OS_THREAD_MANAGEMENT.0,
        PAGE_BYTES,
    ];
    tree.property_array_u64("reg", &pages)?;
    tree.property_u32("ibm,xive-eq-sizes", QUEUE_SHIFT)?;
    tree.property_array_u32("ibm,xive-lisn-ranges", &[Lisn::IPI.0, machine.cpus])?;
    Ok(controller)
}

/// What tells the guest of events: its kernel asks RTAS check-exception at the interrupt (PAPR,
/// "Event Sources"; Linux, arch/powerpc/platforms/pseries/ras.c).
pub(super) fn event_sources(tree: &mut FdtWriter) -> Result<(), Error> {
    let sources = tree.begin_node("event-sources")?;
    let events = tree.begin_node("epow-events")?;
    tree.property_u32("interrupt-parent", INTERRUPT_CONTROLLER)?;
    tree.property_array_u32("interrupts", &[Lisn::EPOW.0, 0])?;
    tree.end_node(events)?;
    tree.end_node(sources)
}

fn vty_name(machine: &MachineTree) -> String {
    format!("vty@{:x}", machine.vty)
}

pub(super) fn vdevice(tree: &mut FdtWriter, machine: &MachineTree) -> Result<(), Error> {
    let vdevice = tree.begin_node("vdevice")?;
    tree.property_string("device_type", "vdevice")?;
    tree.property_string("compatible", "IBM,vdevice")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    tree.property_u32("#interrupt-cells", 2)?;
    tree.property_u32("interrupt-parent", INTERRUPT_CONTROLLER)?;
    let vty = tree.begin_node(&vty_name(machine))?;
    tree.property_string("device_type", "serial")?;
    tree.property_string("compatible", "hvterm1")?;
    tree.property_u32("reg", machine.vty)?;
    tree.property_array_u32("interrupts", &[Lisn::VIO.0, 0])?;
    tree.end_node(vty)?;
    tree.end_node(vdevice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_vector_5_asks_for_radix_and_is_long_enough_to_be_read() {
        for controller in [ControllerKind::Xics, ControllerKind::Xive] {
            let vector = architecture_vector_5(controller);
            // Linux takes a vector of 24 bytes or fewer as "no radix" (early_check_vec5).
            assert!(vector[0] > 24);
            assert_eq!(usize::from(vector[0]) + 2, vector.len());
        }
    }
}
