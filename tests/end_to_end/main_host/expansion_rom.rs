//! Expansion ROMs: a device's own, one from a file, and none where the host has none to give.

use std::fs;
use std::path::Path;
use std::process::Command;

use spapr_lab::expansion_rom::{image, of_rtl8139};

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, device};
use crate::harness::vmm::Folder;

/// Prints the digest of the ROM of each device, by its vendor and kind.
const READ_ROMS: &str = "
# What the kernel says of its devices meanwhile would be in the midst of the lines below.
dmesg -n 1
for device in /sys/bus/pci/devices/*; do
    digest=none
    if [ -e $device/rom ]; then
        echo 1 >$device/rom
        digest=$(sha256sum <$device/rom | cut -d' ' -f1)
        echo 0 >$device/rom
    fi
    echo LAB-GUEST-ROM-$(cat $device/vendor)-$(cat $device/device) $digest
done
";

const RTL8139: &str = "ROM-0x10ec-0x8139";
const AHCI: &str = "ROM-0x8086-0x2922";
const EHCI: &str = "ROM-0x8086-0x24cd";

/// Puts `content` into a file; its SHA-256.
fn write(path: &Path, content: &[u8]) -> String {
    fs::write(path, content).expect("cannot write an image");
    let output = Command::new("sha256sum").arg(path).output();
    let output = output.expect("cannot run sha256sum").stdout;
    let text = String::from_utf8(output).expect("hexadecimal digits");
    let digest = text.split_whitespace().next();
    digest.expect("a digest").to_owned()
}

#[test]
fn a_guest_reads_the_expansion_roms_that_there_are_and_is_told_of_one_that_is_none() {
    let folder = Folder::new();
    let own = write(&folder.file("own"), &of_rtl8139());
    let path = folder.file("other");
    // Not of a size that a ROM can have: the guest's kernel reads as much as the image says.
    let other = write(&path, &image((0x8086, 0x2922), 3, 77));
    let path = path.to_str().expect("a path of ours");
    let ehci = device("usb-ehci");
    let finished = Vmm::job(READ_ROMS)
        .option("--vfio", &format!("{},rombar=1", device("rtl8139")))
        .option("--vfio", &format!("{},romfile={path}", device("ich9-ahci")))
        .option("--vfio", &format!("{ehci},rombar=1"))
        .run()
        .assert_job_done();
    assert_eq!(finished.guest(RTL8139), own, "{finished}");
    assert_eq!(finished.guest(AHCI), other, "{finished}");
    assert_eq!(finished.guest(EHCI), "none", "{finished}");
    let told = format!("no expansion ROM of PCI device {ehci}");
    assert!(finished.errors().contains(&told), "{finished}");
    assert_nothing_is_left();
}
