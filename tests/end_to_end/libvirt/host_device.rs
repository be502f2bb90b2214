//! Managed PCI devices of the host: taken from their driver, given to a guest, and given back.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::jobs::head_sha256;
use crate::harness::libvirt::{Description, Domain, driver, kill, nvme, start};

/// Printed by the guest's init.
const GUEST_IS_UP: &str = "LAB-GUEST-INIT";

/// What a user types to have the guest read the head of the NVMe, past its page cache.
const READ_HEAD: &str = "until [ -b /dev/nvme0n1 ]; do sleep 0.2; done; \
    dd if=/dev/nvme0n1 bs=1M count=8 iflag=direct,fullblock 2>/dev/null | sha256sum";

/// The time in which the host finds its device again.
const LIMIT: Duration = Duration::from_secs(30);

/// Has the guest read the head of the NVMe, which has to be what is there.
#[track_caller]
fn assert_reads(domain: &Domain) {
    let mut console = domain.attach_console();
    console.typist.command(READ_HEAD, &head_sha256());
    console.leave();
}

/// Kills libvirtd and starts it again: it has to find the domain in that state.
#[track_caller]
fn assert_found_again(domain: &Domain, state: &str) {
    kill();
    start();
    assert!(domain.state().starts_with(state), "{}", domain.state());
}

/// The host's block device on an NVMe.
fn block_device(address: &str) -> Option<PathBuf> {
    let controllers = fs::read_dir(format!("/sys/bus/pci/devices/{address}/nvme")).ok()?;
    let controller = controllers.flatten().next()?.file_name();
    let device = PathBuf::from(format!("/dev/{}n1", controller.to_str()?));
    device.exists().then_some(device)
}

/// Fails unless the NVMe has its own driver, and the host reads from it what is there.
#[track_caller]
fn assert_given_back(address: &str) {
    assert_eq!(driver(address), "nvme", "not given back");
    let deadline = Instant::now() + LIMIT;
    let device = loop {
        if let Some(device) = block_device(address) {
            break device;
        }
        assert!(Instant::now() < deadline, "no block device on {address}");
        thread::sleep(Duration::from_millis(100));
    };
    let read = format!("head -c 8388608 {} | sha256sum", device.display());
    let output = Command::new("sh").args(["-c", &read]).output().expect("sh");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.split(' ').next(), Some(&*head_sha256()), "{output:?}");
}

#[test]
fn a_managed_device_stays_through_its_domains_life_and_is_given_back() {
    let address = nvme();
    let domain = Description::new("hostdev-life")
        .host_device(&address)
        .define();
    domain.start();
    assert_found_again(&domain, "running");
    domain.wait_for_console(GUEST_IS_UP, 1);
    assert_reads(&domain);
    domain.virsh("suspend");
    assert_found_again(&domain, "paused");
    domain.virsh("resume");
    assert_reads(&domain);
    domain.virsh("reset");
    domain.wait_for_console(GUEST_IS_UP, 2);
    assert_reads(&domain);
    assert_found_again(&domain, "running");
    domain.virsh("reboot");
    domain.wait_for_console(GUEST_IS_UP, 3);
    assert_reads(&domain);
    assert_eq!(driver(&address), "vfio-pci");
    domain.virsh("shutdown");
    domain.wait_for_state("shut off (shutdown)");
    assert_given_back(&address);
    // In the middle of its boot.
    domain.start();
    assert_eq!(driver(&address), "vfio-pci");
    domain.wait_for_console("Linux version", 1);
    domain.virsh("destroy");
    assert_eq!(domain.state(), "shut off (destroyed)");
    assert_given_back(&address);
}
