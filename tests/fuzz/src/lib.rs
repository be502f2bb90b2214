//! Fuzz targets: what guests, monitors, users, kernels' makers and hosts can pass, as bytes.
//!
//! Each target reads its bytes as what comes from one of them, does it, and panics where something does not hold.
//! Those that need more than their crate shows have their body there, in a module `fuzz` behind a feature of that
//! name. Inputs that are kept are in `corpus/TARGET`; those that once had a target panic, in `found/TARGET`, named
//! for what they show. `cargo test` runs the targets on both; `cargo lab fuzz` looks for more.

#[cfg(not(target_arch = "powerpc64"))]
mod machines;
mod readers;
mod vty;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Who passes what it reads, and to what.
    pub what: &'static str,
    /// Bytes of an input at the most.
    pub most_bytes: usize,
    /// Does what the bytes say.
    pub run: fn(&[u8]),
}

const fn target(
    name: &'static str,
    most_bytes: usize,
    run: fn(&[u8]),
    what: &'static str,
) -> Target {
    Target {
        name,
        what,
        most_bytes,
        run,
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target(
        "tce",
        1024,
        spapr_hypercalls::engine::fuzz::tce_calls,
        "a guest's TCE calls, on the engine beside its model",
    ),
    #[cfg(not(target_arch = "powerpc64"))]
    target(
        "guest",
        2048,
        machines::guest,
        "a guest's hypercalls, RTAS calls and MMIO, on a machine with a fake of KVM",
    ),
    target(
        "rtas",
        1024,
        spapr_devices::rtas::fuzz::calls,
        "a guest's RTAS calls",
    ),
    target(
        "pci_config",
        1024,
        spapr_devices::pci::fuzz::config_space,
        "a guest's accesses to configuration space and BARs, with calls of the host that fail",
    ),
    target(
        "pci_capabilities",
        1024,
        spapr_devices::pci::fuzz::capabilities,
        "a device's configuration space, as a guest finds it",
    ),
    target(
        "xive",
        2048,
        spapr_devices::interrupts::xive::fuzz::calls,
        "a guest's XIVE hypercalls",
    ),
    target(
        "vty",
        512,
        vty::terminal,
        "a guest's terminal hypercalls, and input",
    ),
    target(
        "virtio_registers",
        1024,
        spapr_devices::virtio::fuzz::registers,
        "a driver's accesses to a virtio device's registers",
    ),
    target(
        "virtio_queue",
        1024,
        spapr_devices::virtio::fuzz::queue,
        "a driver's ring, descriptors and tables of a virtio device",
    ),
    target(
        "virtio_serial",
        2048,
        spapr_devices::virtio::serial::fuzz::serial,
        "a driver's and peers' part of a virtio serial device",
    ),
    target(
        "virtio_balloon",
        2048,
        spapr_devices::virtio::balloon::fuzz::balloon,
        "a driver's part of a memory balloon",
    ),
    target(
        "virtio_net",
        1024,
        spapr_devices::virtio::net::fuzz::card,
        "a network card's driver, and the other end of its network",
    ),
    target(
        "virtio_disk",
        1024,
        spapr_devices::virtio::block::fuzz::disk,
        "a driver's requests of a disk",
    ),
    target(
        "virtio_scsi",
        1024,
        spapr_devices::virtio::scsi::fuzz::controller,
        "a driver's requests of a SCSI controller",
    ),
    target(
        "disk_image",
        1024,
        spapr_devices::image::fuzz::qcow2,
        "a disk's image, of the format qcow2, and what a guest does with it",
    ),
    target(
        "vfio_region",
        512,
        spapr_devices::vfio::fuzz::region_info,
        "what a kernel says of a device's regions, with its chain of capabilities",
    ),
    #[cfg(not(target_arch = "powerpc64"))]
    target(
        "host_device_tree",
        64,
        machines::host_device_tree,
        "a host's description of its processors, up to the guest's device tree",
    ),
    target(
        "kernel",
        16 << 10,
        readers::kernel,
        "a kernel's file: ELF, or compressed",
    ),
    target(
        "run_options",
        512,
        readers::run_options,
        "a user's options of spapr-vmm run",
    ),
    target(
        "run_config",
        1024,
        readers::run_config,
        "a user's file of options for spapr-vmm run",
    ),
    target(
        "qemu_options",
        2048,
        readers::qemu_options,
        "libvirt's command line for QEMU",
    ),
    target(
        "qmp_bytes",
        1024,
        spapr_vmm::qemu::qmp::fuzz::bytes,
        "a monitor's client's bytes",
    ),
    target(
        "qmp_requests",
        1024,
        spapr_vmm::qemu::qmp::fuzz::requests,
        "a monitor's client's requests, with descriptors",
    ),
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
