//! The nodes that every pseries machine has: root, `/chosen`, `/hypervisor`, memory, `/rtas`, the
//! interrupt controller and `/vdevice`.

use spapr_devices::interrupts::Lisn;
use spapr_devices::rtas;
use vm_fdt::{Error, FdtWriter};

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
const ARCHITECTURE_VECTOR_5: [u8; 27] = {
    let mut vector = [0; 27];
    vector[0] = 25;
    vector[2] = 0x20; // PCI express
    vector[23] = 0x00; // XICS
    vector[24] = 0x40; // radix
    vector[26] = 0x40; // guest translation shootdown
    vector
};

pub(super) fn root_properties(tree: &mut FdtWriter, machine: &MachineTree) -> Result<(), Error> {
    // Linux' probe of the platform looks at device_type; guests that tell pseries from bare metal
    // by name know this one.
    tree.property_string("device_type", "chrp")?;
    tree.property_string("compatible", "qemu,pseries")?;
    tree.property_string("model", "IBM pSeries (spapr-vmm)")?;
    tree.property_string("vm,uuid", &machine.uuid)?;
    tree.property_string("system-id", &machine.uuid)?;
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
    tree.property("ibm,architecture-vec-5", &ARCHITECTURE_VECTOR_5)?;
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
    for (name, token) in rtas_services() {
        tree.property_u32(cut(name), token)?;
    }
    tree.end_node(node)
}

fn rtas_services() -> impl Iterator<Item = (&'static str, u32)> {
    let here = rtas::SERVICES
        .iter()
        .map(|service| (service.name, service.token));
    let kernel = rtas::KERNEL_SERVICES
        .iter()
        .map(|service| (service.name, service.token));
    here.chain(kernel)
}

/// Names of the RTAS services, which are properties.
pub(super) fn rtas_names() -> impl Iterator<Item = &'static str> {
    rtas_services().map(|(name, _)| name)
}

pub(super) fn interrupt_controller(
    tree: &mut FdtWriter,
    machine: &MachineTree,
) -> Result<(), Error> {
    let controller = tree.begin_node("interrupt-controller")?;
    tree.property_string("device_type", "PowerPC-External-Interrupt-Presentation")?;
    tree.property_string("compatible", "IBM,ppc-xicp")?;
    tree.property_null("interrupt-controller")?;
    tree.property_array_u32("ibm,interrupt-server-ranges", &[0, machine.cpus])?;
    tree.property_u32("#interrupt-cells", 2)?;
    tree.property_phandle(INTERRUPT_CONTROLLER)?;
    tree.end_node(controller)
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
    use super::ARCHITECTURE_VECTOR_5;

    #[test]
    fn option_vector_5_asks_for_radix_and_is_long_enough_to_be_read() {
        // Linux takes a vector of 24 bytes or fewer as "no radix" (early_check_vec5).
        assert!(ARCHITECTURE_VECTOR_5[0] > 24);
        assert_eq!(
            usize::from(ARCHITECTURE_VECTOR_5[0]) + 2,
            ARCHITECTURE_VECTOR_5.len()
        );
    }
}
