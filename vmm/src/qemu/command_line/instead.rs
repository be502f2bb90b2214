//! What QEMU has and this program has not, and what to do instead.

/// Disks of any kind.
const DISKS: &str = "disks are virtio's: -blockdev driver=file,node-name=NODE,filename=FILE with -device \
    virtio-blk-pci,drive=NODE (<disk> with <target bus='virtio'/> in a libvirt domain)";

/// Network cards.
const NETWORK: &str = "there are no network cards yet; pass one of the host's through \
    (-device vfio-pci,host=ADDRESS, <hostdev> in a libvirt domain)";

/// Screens, keyboards, mice and sound.
const GRAPHICS: &str = "there is no graphics, sound or USB; the guest has a serial terminal \
    (-serial stdio, or -chardev with -device spapr-vty)";

/// Firmware.
const FIRMWARE: &str = "there is no firmware; a guest starts from -kernel and -initrd";

/// The human monitor, and what is like it.
const MONITOR: &str = "there is no monitor for people; QMP is at -qmp unix:PATH,server=on,wait=off";

/// Saved and moving guests.
const MIGRATION: &str = "guests are not saved or migrated";

/// Debugging.
const DEBUGGING: &str = "there is no such trace; -spapr-vmm log=debug tells of rare events";

/// Memory with places.
const MEMORY: &str = "memory is that of -m and of one -object memory-backend-ram, -memfd or -file, named by \
    -machine memory-backend=ID";

/// Files and folders of the host's.
const SHARED: &str =
    "nothing of the host's files is shared with guests yet; put what is needed in -initrd";

/// What to do in place of one of QEMU's options; `None` for a word that is none of them.
pub(super) fn of_option(name: &str) -> Option<&'static str> {
    Some(match name {
        "drive" | "hda" | "hdb" | "hdc" | "hdd" | "cdrom" | "fda" | "fdb" | "sd" | "mtdblock"
        | "snapshot" | "iscsi" => DISKS,
        "netdev" => NETWORK,
        "vnc" | "spice" | "sdl" | "gtk" | "curses" | "usb" | "usbdevice" | "full-screen"
        | "audio" | "k" | "g" => GRAPHICS,
        "bios" | "pflash" | "fw_cfg" | "prom-env" | "option-rom" | "L" => FIRMWARE,
        "qmp-pretty" => MONITOR,
        "incoming" | "loadvm" | "only-migratable" | "replay" | "icount" => MIGRATION,
        "d" | "D" | "trace" | "gdb" | "s" | "dfilter" => DEBUGGING,
        "numa" | "mem-path" | "mem-prealloc" => MEMORY,
        "fsdev" | "virtfs" => SHARED,
        _ => return None,
    })
}

/// What to do in place of one of QEMU's devices; `None` for any other word.
pub(super) fn of_device(name: &str) -> Option<&'static str> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if begins(&[
        "virtio-scsi",
        "vhost-user-blk",
        "vhost-scsi",
        "scsi-",
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
    ]) {
        return Some(DISKS);
    }
    if begins(&[
        "virtio-net",
        "vhost-user-net",
        "spapr-vlan",
        "e1000",
        "igb",
        "rtl8139",
        "pcnet",
        "ne2k",
        "vmxnet",
        "usb-net",
    ]) {
        return Some(NETWORK);
    }
    if begins(&[
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
    ]) {
        return Some(GRAPHICS);
    }
    if begins(&["virtio-9p", "vhost-user-fs", "virtio-fs"]) {
        return Some(SHARED);
    }
    None
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
