//! Domains as tools write them, of which the emulator alone is changed; README.md beside this says where each comes
//! from.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use crate::every_host::disk::qcow2;
use crate::harness::interface::Interface;
use crate::harness::libvirt::{Domain, inside, start, virsh, virsh_refuses};
use crate::harness::vmm::Folder;
use crate::libvirt::agent::number;
use crate::libvirt::disk::folder;
use crate::libvirt::network::Bridge;

/// The page that says what to change.
const PAGE: &str = include_str!("../../../../../docs/from-qemu.md");

/// The most time until a guest's balloon tells of its memory.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// What a tool writes.
struct Written {
    /// The domain's name.
    name: &'static str,
    /// The description.
    xml: &'static str,
    /// Where the disk's image is, seen by libvirt.
    disk: Option<&'static str>,
    /// Folders that the tool makes.
    folders: &'static [&'static str],
    /// Its network card's address, if its terminal is one that virsh opens, where it is looked for.
    card: Option<&'static str>,
}

/// A domain's XML with this program as its emulator, and nothing else changed.
#[track_caller]
fn with_own_emulator(xml: &str) -> String {
    let (before, rest) = xml.split_once("<emulator>").expect("an emulator");
    let (_, after) = rest.split_once("</emulator>").expect("its end");
    format!("{before}<emulator>/usr/bin/spapr-vmm-qemu</emulator>{after}")
}

impl Written {
    /// Makes what the tool makes before it has libvirt define the domain.
    fn prepare(&self, folder: &Folder) {
        for path in self.folders {
            inside(&["mkdir", "-p", "-m", "777", path]);
        }
        let Some(path) = self.disk else { return };
        let backing = folder.file("backing");
        File::create_new(&backing)
            .and_then(|file| file.set_len(64 << 20))
            .expect("an image");
        let image = qcow2(folder, "image", &backing.to_string_lossy());
        inside(&["cp", &image.to_string_lossy(), path]);
    }

    /// Defines the domain, with devices beside those that are always written.
    fn define(&self, more: &str) -> Domain {
        let xml = with_own_emulator(self.xml);
        let xml = xml.replacen("</emulator>", &format!("</emulator>{more}"), 1);
        let path = format!("/tmp/{}.xml", self.name);
        fs::write(&path, xml).expect("write");
        virsh(&["define", &path]);
        Domain {
            name: self.name.to_owned(),
        }
    }

    /// Fails unless the domain runs, its guest tells of its memory, has read its disk, and has its card and its port
    /// for an agent.
    #[track_caller]
    fn assert_works(&self, domain: &Domain) {
        virsh(&["dommemstat", self.name, "--period", "1"]);
        domain.wait_as_long_as(BOOT_LIMIT, "statistics", |domain| {
            let said = domain.virsh("dommemstat");
            number(&said, "unused").is_some_and(|kib| kib != 0)
        });
        if self.disk.is_some() {
            let counts = virsh(&["domblkstat", self.name, "vda"]);
            assert!(
                number(&counts, "rd_req").is_some_and(|it| it != 0),
                "{counts}"
            );
        }
        let Some(card) = self.card else { return };
        let mut console = domain.attach_console();
        for (line, expected) in [
            ("cat /sys/class/net/eth*/address", card),
            (
                "cat /sys/class/virtio-ports/*/name",
                "org.qemu.guest_agent.0",
            ),
            ("cat /sys/block/vda/size", "131072"),
        ] {
            console.typist.command(line, expected);
        }
        console.leave();
    }

    /// All of it.
    #[track_caller]
    fn assert_starts(&self) {
        start();
        let folder = folder();
        self.prepare(&folder);
        self.assert_starts_with("", |_| {});
    }

    /// The same with more devices, at which `look` has a look.
    #[track_caller]
    fn assert_starts_with(&self, more: &str, look: impl FnOnce(&Domain)) {
        let domain = self.define(more);
        domain.start();
        self.assert_works(&domain);
        look(&domain);
        domain.virsh("destroy");
        domain.virsh("undefine");
    }
}

const VIRT_INSTALL_BRIDGE: Written = Written {
    name: "virt-install-bridge",
    xml: include_str!("virt-install-bridge.xml"),
    disk: Some("/tmp/unedited.qcow2"),
    folders: &[],
    card: Some("52:54:00:d8:be:62"),
};

const VIRT_INSTALL_PASST: Written = Written {
    name: "virt-install-passt",
    xml: include_str!("virt-install-passt.xml"),
    card: Some("52:54:00:00:e4:1e"),
    ..VIRT_INSTALL_BRIDGE
};

const MINIMAL: Written = Written {
    name: "minimal",
    xml: include_str!("minimal.xml"),
    disk: None,
    folders: &[],
    card: None,
};

const KUBEVIRT: Written = Written {
    name: "default_debian",
    xml: include_str!("kubevirt.xml"),
    disk: Some("/var/run/kubevirt-ephemeral-disks/disk-data/containerdisk/disk.qcow2"),
    folders: &[
        "/var/run/kubevirt-ephemeral-disks/disk-data/containerdisk",
        "/var/run/kubevirt-private/f262b36f-e4c0-4d3f-9bef-4903530245c0",
    ],
    // Its terminal is a socket of the launcher's.
    card: None,
};

const NOVA: Written = Written {
    name: "instance-00000001",
    xml: include_str!("nova.xml"),
    disk: Some("/var/lib/nova/instances/13e03a60-2bf8-4ad3-95dd-8fedfdc485d7/disk"),
    folders: &["/var/lib/nova/instances/13e03a60-2bf8-4ad3-95dd-8fedfdc485d7"],
    card: Some("fa:16:3e:5a:21:0c"),
};

#[test]
fn what_virt_install_writes_for_a_bridge_starts() {
    let _bridge = Bridge::new("lab-bridge");
    VIRT_INSTALL_BRIDGE.assert_starts();
}

#[test]
fn what_virt_install_writes_for_passt_starts() {
    let uplink = Bridge::new("lab-uplink");
    let _interface = Interface::of_passt(&uplink.0, 7);
    VIRT_INSTALL_PASST.assert_starts();
}

#[test]
fn graphics_of_virt_installs_are_refused_with_what_to_say_to_it() {
    start();
    fs::write(
        "/tmp/vnc.xml",
        with_own_emulator(include_str!("virt-install-vnc.xml")),
    )
    .expect("write");
    let refused = virsh_refuses(&["define /tmp/vnc.xml; start virt-install-vnc"]);
    let told = "domain configuration does not support video model 'vga'";
    assert!(refused.contains(told), "{refused}");
    for text in [told, "`--graphics none`"] {
        assert!(PAGE.contains(text), "docs/from-qemu.md: no {text}");
    }
}

#[test]
fn the_smallest_domain_starts_with_128_mib() {
    MINIMAL.assert_starts();
}

#[test]
fn what_kubevirt_writes_starts() {
    let output = Command::new("tunctl").args(["-t", "tap0"]).output();
    assert!(output.expect("no tunctl").status.success());
    KUBEVIRT.assert_starts();
    let _ = Command::new("tunctl").args(["-d", "tap0"]).output();
}

#[test]
fn what_nova_writes_starts() {
    let _bridge = Bridge::new("lab-bridge");
    NOVA.assert_starts();
}

/// A configuration drive, as Nova writes it for ppc64le.
const CONFIG_DRIVE: &str = "<disk type='file' device='cdrom'><driver name='qemu' type='raw' cache='none'/>\
     <source file='/var/lib/nova/instances/13e03a60-2bf8-4ad3-95dd-8fedfdc485d7/disk.config'/>\
     <target bus='scsi' dev='sda'/></disk>";
/// What it writes beside that for an image with the property `hw_scsi_model=virtio-scsi`.
const SCSI_CONTROLLER: &str = "<controller type='scsi' index='0' model='virtio-scsi'/>";

#[test]
fn what_nova_writes_for_a_configuration_drive_starts_with_one_property_of_the_image() {
    let _bridge = Bridge::new("lab-bridge");
    start();
    let folder = folder();
    NOVA.prepare(&folder);
    let drive = folder.file("disk.config");
    let mut content = b"configuration-drive".to_vec();
    content.resize(1 << 20, 0);
    fs::write(&drive, content).expect("write");
    let place = format!("{}/disk.config", NOVA.folders[0]);
    inside(&["cp", &drive.to_string_lossy(), &place]);

    let domain = NOVA.define(CONFIG_DRIVE);
    let refused = virsh_refuses(&["start", NOVA.name]);
    domain.virsh("undefine");
    let told = "-device spapr-vscsi is not supported: disks are virtio's";
    for text in [told, "<controller type='scsi' model='virtio-scsi'/>"] {
        assert!(refused.contains(text), "no {text}\n{refused}");
        assert!(PAGE.contains(text), "docs/from-qemu.md: no {text}");
    }

    let devices = [CONFIG_DRIVE, SCSI_CONTROLLER].concat();
    NOVA.assert_starts_with(&devices, |domain| {
        let mut console = domain.attach_console();
        let read = "dd if=/dev/sr0 bs=2048 count=1 2>/dev/null | head -c 19";
        console.typist.command(read, "configuration-drive");
        console.typist.command("cat /sys/block/sr0/size", "2048");
        console.leave();
    });
}
