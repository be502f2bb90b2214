//! The limit on locked memory that libvirt sets, for guests that use all of their devices.

use std::process::Command;

use serde_json::Value;

use crate::harness::jobs::{JOIN_NETWORK, READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::libvirt::{Description, Domain, driver, nic, nvme, virsh_refuses};

/// What libvirt gives a guest of 1 GiB that has one device, and one that has two in groups of their own.
const LIMITS: [u64; 2] = [4_320_133_120, 6_471_811_072];

/// The limit for one device that `spapr-vmm iommu` foretells.
fn foretold() -> Value {
    let mut command = Command::new("spapr-vmm");
    let output = command.args(["iommu", "--memory", "1G", "--json"]).output();
    let report: Value = serde_json::from_slice(&output.expect("spapr-vmm").stdout).expect("JSON");
    assert_eq!(report["libvirt"][0]["groups"], 1, "{report:#}");
    report["libvirt"][0]["limit_bytes"].clone()
}

/// The limit that a domain's emulator has.
fn limit(domain: &Domain) -> u64 {
    let limits = domain.proc("limits");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok())
        .unwrap_or_else(|| panic!("no limit in {limits}"))
}

/// Runs a guest that does DMA with one device or both, which has to work.
pub(super) fn works(options: &str, devices: usize) {
    let (nvme, nic) = (nvme(), nic());
    let mut job = vec![WAIT_FOR_NVME, READ_HEAD];
    let mut description = Description::new("limit")
        .host_device(&nvme)
        .own_options(options);
    if devices == 2 {
        job.push(JOIN_NETWORK);
        description = description.host_device(&nic);
    }
    let domain = description.job(&job.concat()).define();
    domain.start();
    assert_eq!(limit(&domain), LIMITS[devices - 1]);
    domain.wait_for_state("shut off (shutdown)");
    let (console, messages) = (domain.console(), domain.messages());
    let seen = format!("{options}, {devices} devices\n{console}\n{messages}");
    assert!(console.contains(&head_sha256()), "{seen}");
    assert!(console.contains("LAB-GUEST-STATUS 0"), "{seen}");
    assert!(!messages.contains("locked memory"), "{seen}");
    let drivers = (driver(&nvme), driver(&nic));
    assert_eq!(drivers, ("nvme".into(), "e1000e".into()));
}

#[test]
fn libvirts_limit_is_enough() {
    assert_eq!(foretold(), LIMITS[0]);
    works("lock=first-map,iommu=v2", 2);
}

#[test]
fn a_hard_limit_that_is_too_small_is_told_with_our_message() {
    for lock in ["first-map", "attach"] {
        let domain = Description::new("hard-limit")
            .host_device(&nvme())
            .element("<memtune><hard_limit unit='MiB'>64</hard_limit></memtune>")
            .own_options(&format!("lock={lock}"))
            .define();
        let message = virsh_refuses(&["start", &domain.name]);
        let told = "only 67108864 bytes are available (RLIMIT_MEMLOCK is 67108864 bytes";
        assert!(message.contains(told), "{message}");
        assert!(message.contains("virsh memtune DOMAIN --hard-limit"));
    }
}
