//! What is tried, and what has to be said.

/// A domain that cannot be started as it is.
pub(super) struct Case {
    /// Its name.
    pub(super) name: &'static str,
    /// What it has below `<devices>`, as XML.
    pub(super) devices: &'static str,
    /// What it has beside `<devices>`, as XML.
    pub(super) elements: &'static str,
    /// What of the usual domain is replaced by what.
    pub(super) changes: &'static [(&'static str, &'static str)],
    /// Words that have to be in what virsh says.
    pub(super) told: &'static str,
}

/// A domain with one device more.
const fn device(name: &'static str, devices: &'static str, told: &'static str) -> Case {
    Case {
        name,
        devices,
        elements: "",
        changes: &[],
        told,
    }
}

/// A domain with one element more.
const fn element(name: &'static str, elements: &'static str, told: &'static str) -> Case {
    Case {
        devices: "",
        elements,
        ..device(name, "", told)
    }
}

/// A domain in which something is replaced.
const fn change(
    name: &'static str,
    changes: &'static [(&'static str, &'static str)],
    told: &'static str,
) -> Case {
    Case {
        changes,
        ..device(name, "", told)
    }
}

pub(super) const CASES: &[Case] = &[
    device(
        "disk-scsi",
        "<disk type='file'><source file='/tmp/refused-disk'/><target dev='sda' bus='scsi'/></disk>",
        "-device spapr-vscsi is not supported: disks are virtio's",
    ),
    device(
        "disk-lsi-scsi",
        "<controller type='scsi' model='lsilogic'/>\
         <disk type='file'><source file='/tmp/refused-disk'/><target dev='sda' bus='scsi'/></disk>",
        "This QEMU doesn't support the LSI 53C895A SCSI controller",
    ),
    device(
        "disk-sata",
        "<disk type='file'><source file='/tmp/refused-disk'/><target dev='sda' bus='sata'/></disk>",
        "SATA is not supported with this QEMU binary",
    ),
    device(
        "disk-ide",
        "<disk type='file'><source file='/tmp/refused-disk'/><target dev='hda' bus='ide'/></disk>",
        "IDE controllers are unsupported for this QEMU binary or machine type",
    ),
    device(
        "disk-usb",
        "<disk type='file'><source file='/tmp/refused-disk'/><target dev='sda' bus='usb'/></disk>",
        "USB is disabled for this domain, but USB devices are present in the domain XML",
    ),
    device(
        "floppy",
        "<disk type='file' device='floppy'><source file='/tmp/refused-disk'/>\
         <target dev='fda' bus='fdc'/></disk>",
        "PowerPC pseries machines do not support floppy device",
    ),
    device(
        "cdrom",
        "<disk type='file' device='cdrom'><source file='/tmp/refused-disk'/>\
         <target dev='vda' bus='virtio'/></disk>",
        "disk type of 'vda' does not support ejectable media",
    ),
    device(
        "disk-nbd",
        "<disk type='network'><source protocol='nbd' name='x'><host name='localhost'/></source>\
         <target dev='vda' bus='virtio'/></disk>",
        "-blockdev: nbd is not supported; there are file, host_device, qcow2, raw",
    ),
    device(
        "disk-vmdk",
        "<disk type='file'><driver name='qemu' type='vmdk'/><source file='/tmp/refused-disk'/>\
         <target dev='vda' bus='virtio'/></disk>",
        "-blockdev: vmdk is not supported; there are file, host_device, qcow2, raw",
    ),
    device(
        "disk-throttled",
        "<disk type='file'><driver name='qemu' type='raw'/><source file='/tmp/refused-disk'/>\
         <target dev='vda' bus='virtio'/><iotune><total_iops_sec>100</total_iops_sec></iotune></disk>",
        "disks are not throttled; in a libvirt domain, remove <iotune>",
    ),
    change(
        "video",
        &[(
            "<video><model type='none'/></video>",
            "<video><model type='vga'/></video>",
        )],
        "domain configuration does not support video model 'vga'",
    ),
    device(
        "graphics",
        "<graphics type='vnc' port='-1'/>",
        "USB is disabled for this domain, but USB devices are present in the domain XML",
    ),
    device(
        "sound",
        "<sound model='ich6'/>",
        "-device intel-hda is not supported: there is no graphics, sound or USB",
    ),
    device(
        "keyboard",
        "<input type='keyboard' bus='virtio'/>",
        "virtio-keyboard is not supported by this QEMU binary",
    ),
    device(
        "tpm",
        "<tpm model='tpm-spapr'><backend type='emulator' version='2.0'/></tpm>",
        "TPM version '2.0' is not supported",
    ),
    device(
        "watchdog",
        "<watchdog model='i6300esb' action='reset'/>",
        "there is no watchdog; in a libvirt domain, remove <watchdog>",
    ),
    element(
        "iothreads",
        "<iothreads>1</iothreads>",
        "each disk has a thread of its own; in a libvirt domain, remove <iothreads>",
    ),
    element(
        "numa",
        "<cpu mode='host-passthrough'><numa><cell id='0' cpus='0-1' memory='1' unit='GiB'/></numa></cpu>",
        "-numa is not supported: memory is that of -m",
    ),
    element(
        "numatune",
        "<numatune><memory mode='strict' nodeset='0'/></numatune>",
        "guest memory is bound to no NUMA node of the host; in a libvirt domain, remove <numatune>",
    ),
    change(
        "smbios",
        &[
            (
                "<vcpu>",
                "<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo><vcpu>",
            ),
            ("</os>", "<smbios mode='sysinfo'/></os>"),
        ],
        "pseries guests have no SMBIOS or ACPI; in a libvirt domain, remove <sysinfo> and <smbios>",
    ),
    device(
        "filesystem",
        "<filesystem type='mount' accessmode='mapped'><source dir='/tmp'/><target dir='x'/></filesystem>",
        "In a libvirt domain, have <driver type='virtiofs'/> in <filesystem>",
    ),
    device(
        "filesystem-memory",
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/tmp'/><target dir='x'/></filesystem>",
        "'virtiofs' requires shared memory",
    ),
    element(
        "acpi",
        "<features><acpi/></features>",
        "does not support ACPI",
    ),
    change(
        "no-kernel",
        &[(
            "<kernel>/boot/vmlinux</kernel><initrd>/boot/initrd</initrd><cmdline>console=hvc0</cmdline>",
            "<boot dev='hd'/>",
        )],
        "no -kernel: a guest starts from a kernel (<kernel> below <os> in a libvirt domain)",
    ),
    change(
        "loader",
        &[(
            "</os>",
            "<loader readonly='yes' type='rom'>/usr/share/qemu/slof.bin</loader></os>",
        )],
        "-bios is not supported: there is no firmware",
    ),
    change(
        "fewer-processors",
        &[("<vcpu>2</vcpu>", "<vcpu current='1'>2</vcpu>")],
        "processors cannot be added later (in a libvirt domain: <vcpu> without current=)",
    ),
    element(
        "processor",
        "<cpu mode='host-model'><model>power9</model></cpu>",
        "guests have the host's processor, or its own model",
    ),
    change(
        "emulated",
        &[("<domain type='kvm'", "<domain type='qemu'")],
        "does not support virt type 'qemu'",
    ),
    change(
        "old-machine",
        &[("machine='pseries'", "machine='pseries-2.12'")],
        "does not support machine type 'pseries-2.12'",
    ),
    device(
        "second-terminal",
        "<serial type='pty'/>",
        "the guest has one terminal, and -serial or -device spapr-vty give it a second",
    ),
    element(
        "local-time",
        "<clock offset='localtime'/>",
        "(in a libvirt domain: <clock offset='utc'/>)",
    ),
    device(
        "device-that-is-not-there",
        "<hostdev mode='subsystem' type='pci' managed='yes'>\
         <source><address domain='0x0007' bus='0x01' slot='0x00' function='0x0'/></source></hostdev>",
        "Device 0007:01:00.0 not found",
    ),
];

/// What cannot be done with a domain `running` that has a disk `vda`, and words that have to be in what virsh says.
pub(super) const TYPED: &[(&str, &str)] = &[
    // What the domain was defined from, in which libvirt's <uuid> is not.
    ("define /tmp/running.xml", "already exists with uuid"),
    (
        "attach-disk running /tmp/refused-disk-2 vdb --live",
        "nothing is added to a guest's disks while it runs",
    ),
    (
        "attach-device running /tmp/refused-hostdev.xml --live",
        "No more available PCI slots",
    ),
    (
        "detach-disk running vda --live",
        "nothing is attached to, changed in or detached from a guest that runs",
    ),
    (
        "setvcpus running 1 --live",
        "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count",
    ),
    (
        "setvcpus running 4 --live",
        "requested vcpus is greater than max allowable vcpus for the live domain",
    ),
    (
        "setvcpu running 1 --disable --live",
        "this qemu version does not support specific vCPU hotplug",
    ),
    (
        "setmaxmem running 2G --live",
        "cannot resize the maximum memory on an active domain",
    ),
    (
        "save running /tmp/refused-save",
        "guests are not saved or migrated; shut the guest down",
    ),
    (
        "managedsave running",
        "guests are not saved or migrated; shut the guest down",
    ),
    (
        "dump running /tmp/refused-dump",
        "guests are not saved or migrated; shut the guest down",
    ),
    (
        "snapshot-create running",
        "internal snapshot for disk vda unsupported for storage type raw",
    ),
    (
        "snapshot-create-as running s --disk-only",
        "nothing is added to a guest's disks while it runs",
    ),
    (
        "migrate running qemu:///system --live",
        "Unsafe migration: Migration without shared storage is unsafe",
    ),
    (
        "screenshot running /tmp/refused-shot",
        "the guest has no screen, keyboard or mouse; its terminal is at virsh console",
    ),
    (
        "send-key running KEY_A",
        "the guest has no screen, keyboard or mouse; its terminal is at virsh console",
    ),
    (
        "blkdeviotune running vda --total-iops-sec 100 --live",
        "disks are not throttled; in a libvirt domain, remove <iotune>",
    ),
    (
        "blockcopy running vda /tmp/refused-copy --transient-job",
        "there are no snapshots, copies or backups of a guest's disks while it runs",
    ),
    (
        "blockpull running vda",
        "there are no snapshots, copies or backups of a guest's disks while it runs",
    ),
    (
        "iothreadadd running 1",
        "nothing is attached to, changed in or detached from a guest that runs",
    ),
    (
        "qemu-monitor-command running --hmp info status",
        "Human monitor command is not available to run",
    ),
    (
        "vncdisplay running",
        "Failed to get VNC port. Is this domain using VNC?",
    ),
];
