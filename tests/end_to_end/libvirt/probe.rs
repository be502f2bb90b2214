//! What libvirt learns of the emulator.

use crate::harness::libvirt::{Description, start, virsh, virsh_refuses};

#[test]
fn domain_capabilities_say_what_there_is() {
    start();
    let xml = virsh(&[
        "domcapabilities",
        "--emulatorbin",
        "/usr/bin/spapr-vmm-qemu",
        "--arch",
        "ppc64le",
        "--virttype",
        "kvm",
    ]);
    for part in [
        "<path>/usr/bin/spapr-vmm-qemu</path>",
        "<domain>kvm</domain>",
        "<machine>pseries</machine>",
        "<arch>ppc64le</arch>",
        "<mode name='host-passthrough' supported='yes'>",
        "<hostdev supported='yes'>",
        "<value>vfio</value>",
    ] {
        assert!(xml.contains(part), "no {part}\n{xml}");
    }
    // What libvirt asks about and is not there.
    for part in [
        "<value>qxl</value>",
        "<value>vga</value>",
        "<tpm supported='yes'>",
    ] {
        assert!(!xml.contains(part), "{part}\n{xml}");
    }
}

/// What libvirt or, for what libvirt lets pass, the emulator says of a domain with a device.
fn refusal(name: &str, device: &str) -> String {
    match Description::new(name).device(device).try_define() {
        Ok(domain) => virsh_refuses(&["start", &domain.name]),
        Err(why) => why,
    }
}

#[test]
fn devices_that_are_not_there_are_refused_by_name() {
    std::fs::write("/tmp/disk", [0; 4096]).expect("write");
    let disk = "<disk type='file'><source file='/tmp/disk'/><target dev='sda' bus='scsi'/></disk>";
    let message = refusal("with-disk", disk);
    let told = "-device spapr-vscsi is not supported: disks are virtio's";
    assert!(message.contains(told), "{message}");
    let card = "<interface type='mcast'><source address='230.0.0.1' port='5558'/>\
                <model type='virtio'/></interface>";
    let message = refusal("with-card", card);
    let told =
        "spapr-vmm: error: -netdev socket is not supported: frames come by -netdev tap or stream";
    assert!(message.contains(told), "{message}");
    let second = "<serial type='pty'/>";
    let message = refusal("two-terminals", second);
    assert!(message.contains("the guest has one terminal"), "{message}");
}
