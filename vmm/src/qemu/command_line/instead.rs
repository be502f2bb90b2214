//! What QEMU has and this program has not, and what to do instead.

/// Disks of any kind.
const DISKS: &str = "disks are virtio's: -blockdev driver=file,node-name=NODE,filename=FILE with -device \
    virtio-blk-pci,drive=NODE (<disk> with <target bus='virtio'/> in a libvirt domain), or scsi-hd or scsi-cd behind \
    virtio-scsi-pci (<target bus='scsi'/>, with <controller type='scsi' model='virtio-scsi'/>)";

/// Network cards of any kind.
const NETWORK: &str = "network cards are virtio's: -netdev tap,id=NET,ifname=NAME with -device \
    virtio-net-pci,netdev=NET (<interface> with <model type='virtio'/> in a libvirt domain)";

/// Screens, keyboards, mice and sound.
const GRAPHICS: &str = "there is no graphics, sound or USB; the guest has a serial terminal \
    (-serial stdio, or -chardev with -device spapr-vty). In a libvirt domain, remove <graphics>, <sound>, <input>, \
    <hub> and <redirdev>, and have <video><model type='none'/></video> and <controller type='usb' model='none'/>";

/// Firmware.
const FIRMWARE: &str = "there is no firmware; a guest starts from -kernel and -initrd \
    (<kernel>, <initrd> and <cmdline> below <os> in a libvirt domain, and no <loader>, <nvram> or <boot>)";

/// The human monitor, and what is like it.
const MONITOR: &str = "there is no monitor for people; QMP is at -qmp unix:PATH,server=on,wait=off";

/// Saved and moving guests.
const MIGRATION: &str = "guests are not saved or migrated";

/// Debugging.
const DEBUGGING: &str = "there is no such trace; -spapr-vmm log=debug tells of rare events";

/// Memory with places.
const MEMORY: &str = "memory is that of -m and of one -object memory-backend-ram, -memfd or -file, named by \
    -machine memory-backend=ID (in a libvirt domain, remove <numa> below <cpu>, <numatune>, <maxMemory> and \
    <memory> below <devices>)";

/// Memory that is bound to nodes of the host.
const HOST_NODES: &str = "guest memory is bound to no NUMA node of the host; in a libvirt domain, remove <numatune>, \
    and bind the whole process by control groups (<vcpu cpuset='…'>)";

/// Trusted platform modules.
const TPM: &str = "there is no TPM; in a libvirt domain, remove <tpm>";

/// Watchdogs.
const WATCHDOG: &str = "there is no watchdog; in a libvirt domain, remove <watchdog>. What becomes of a guest that \
    crashes is said by <on_crash>";

/// What firmware of a PC tells.
const SMBIOS: &str =
    "pseries guests have no SMBIOS or ACPI; in a libvirt domain, remove <sysinfo> and <smbios>";

/// Devices of no kind above.
const OTHERS: &str = "there is no such device; in a libvirt domain, remove its element";

/// Files and folders of the host's.
const SHARED: &str = "files of the host's are shared by virtiofsd, and not in this way (-device vhost-user-fs-pci). In a \
     libvirt domain, have <driver type='virtiofs'/> in <filesystem>, without accessmode=";

/// What to do in place of one of QEMU's options; `None` for a word that is none of them.
pub(super) fn of_option(name: &str) -> Option<&'static str> {
    Some(match name {
        "drive" | "hda" | "hdb" | "hdc" | "hdd" | "cdrom" | "fda" | "fdb" | "sd" | "mtdblock"
        | "snapshot" | "iscsi" => DISKS,
        "vnc" | "spice" | "sdl" | "gtk" | "curses" | "usb" | "usbdevice" | "full-screen"
        | "audio" | "k" | "g" => GRAPHICS,
        "bios" | "pflash" | "fw_cfg" | "prom-env" | "option-rom" | "L" => FIRMWARE,
        "qmp-pretty" => MONITOR,
        "incoming" | "loadvm" | "only-migratable" | "replay" | "icount" => MIGRATION,
        "d" | "D" | "trace" | "gdb" | "s" | "dfilter" => DEBUGGING,
        "numa" | "mem-path" | "mem-prealloc" => MEMORY,
        "tpmdev" => TPM,
        "watchdog" | "watchdog-action" | "action" => WATCHDOG,
        "smbios" | "acpitable" => SMBIOS,
        "fsdev" | "virtfs" => SHARED,
        _ => return None,
    })
}

/// What names of QEMU's devices begin with, and what is said of them.
const DEVICES: &[(&[&str], &str)] = &[
    (
        &[
            "vhost-user-blk",
            "vhost-scsi",
            "scsi-block",
            "scsi-generic",
            "ide-",
            "nvme",
            "ahci",
            "megasas",
            "spapr-vscsi",
            "usb-storage",
            "lsi",
            "mptsas",
            "pvscsi",
            "floppy",
            "sdhci",
        ],
        DISKS,
    ),
    (
        &[
            "vhost-user-net",
            "spapr-vlan",
            "e1000",
            "igb",
            "rtl8139",
            "pcnet",
            "ne2k",
            "vmxnet",
            "usb-net",
        ],
        NETWORK,
    ),
    (
        &[
            "VGA",
            "secondary-vga",
            "virtio-gpu",
            "virtio-vga",
            "bochs-display",
            "cirrus",
            "qxl",
            "ramfb",
            "usb-",
            "virtio-keyboard",
            "virtio-mouse",
            "virtio-tablet",
            "intel-hda",
            "hda-",
            "AC97",
            "ES1370",
        ],
        GRAPHICS,
    ),
    (&["virtio-9p"], SHARED),
    (&["tpm-", "spapr-tpm-proxy"], TPM),
    (&["i6300esb", "ib700", "diag288"], WATCHDOG),
    (&["pc-dimm", "nvdimm", "virtio-mem", "virtio-pmem"], MEMORY),
    (&["spapr-nvram"], FIRMWARE),
    (
        &[
            "ivshmem",
            "virtio-crypto",
            "virtio-iommu",
            "virtio-input",
            "pci-bridge",
            "pcie-",
            "ccid",
            "spapr-rng",
        ],
        OTHERS,
    ),
];

/// What to do in place of one of QEMU's devices; `None` for any other word.
pub(super) fn of_device(name: &str) -> Option<&'static str> {
    let is_it = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let found = DEVICES.iter().find(|(prefixes, _)| is_it(prefixes));
    found.map(|(_, instead)| *instead)
}

/// What to do in place of one of QEMU's objects; `None` for any other word.
pub(super) fn of_object(name: &str) -> Option<&'static str> {
    Some(match name {
        "iothread" => "each disk has a thread of its own; in a libvirt domain, remove <iothreads>",
        "rng-egd" => {
            "entropy is the host kernel's; in a libvirt domain, <backend model='random'> or 'builtin' below <rng>"
        }
        "throttle-group" => "disks are not throttled; in a libvirt domain, remove <iotune>",
        "cryptodev-backend-builtin" | "cryptodev-backend-lkcf" => OTHERS,
        _ => return None,
    })
}

/// What to do in place of a property that is not there, of the option that errors call `option`.
pub(super) fn of_property(option: &str, name: &str) -> Option<&'static str> {
    Some(match (option, name) {
        ("-m", "slots" | "maxmem") => MEMORY,
        ("-boot", "order" | "once") => FIRMWARE,
        ("-machine", "max-cpu-compat") => {
            "guests have the host's processor, or its own model; in a libvirt domain, have \
             <cpu mode='host-passthrough'/>"
        }
        ("-device virtio-blk-pci", "iothread") => {
            "each disk has a thread of its own; in a libvirt domain, remove iothread= from its <driver>"
        }
        ("-device virtio-scsi-pci", "iothread") => {
            "each controller has a thread of its own; in a libvirt domain, remove iothread= from its <driver>"
        }
        ("-device virtio-rng-pci", "max-bytes" | "period") => {
            "entropy is not throttled; in a libvirt domain, remove <rate> from <rng>"
        }
        (_, "host-nodes" | "policy") if option.starts_with("-object memory-backend") => HOST_NODES,
        _ => return None,
    })
}

/// What to write in a libvirt domain where a property of the option that errors call `option` has another value than
/// it may have.
pub(super) fn of_value(option: &str, name: &str) -> Option<&'static str> {
    let is_blockdev = option.starts_with("-blockdev");
    Some(match (option, name) {
        ("-machine", "usb") => "<controller type='usb' model='none'/>",
        ("-machine", "cap-htm") => "no <htm>",
        ("-machine", "cap-nested-hv") => "no <nested-hv>",
        ("-machine", "resize-hpt") => "no <hpt>",
        ("-machine", "ic-mode" | "kernel-irqchip") => "no <ioapic>",
        ("-boot", "menu") => "no <bootmenu>",
        ("-cpu", "model") => "<cpu mode='host-passthrough'/>",
        ("-smp", "maxcpus") => "<vcpu> without current=",
        ("-rtc", "base") => "<clock offset='utc'/>",
        ("-rtc", "driftfix") => "<clock> without <timer>",
        ("-device virtio-blk-pci" | "-device scsi-hd" | "-device scsi-cd", "werror" | "rerror") => {
            "<driver> with other values of error_policy= and rerror_policy="
        }
        ("-device vfio-pci", "rombar" | "romfile") => {
            "<rom bar='on'/>, <rom file='…'/>, or no <rom>"
        }
        ("-object memory-backend-ram", "prealloc") => "<memoryBacking> without <allocation>",
        (_, "detect-zeroes") if is_blockdev => "<driver> without detect_zeroes=",
        _ => return None,
    })
}

/// What to do in place of a value other than `none` of an option that has no other.
pub(super) fn of_none(option: &str) -> &'static str {
    match option {
        "net" | "nic" => NETWORK,
        "monitor" => MONITOR,
        "parallel" => "there are no parallel ports",
        _ => GRAPHICS,
    }
}
