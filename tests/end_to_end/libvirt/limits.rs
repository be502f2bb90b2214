//! The limit on locked memory that libvirt sets.

use crate::harness::jobs::data_sha256;
use crate::harness::libvirt::{Description, nic, nvme, virsh_refuses};

#[test]
fn libvirts_limit_is_enough_in_every_mode() {
    let (nvme, nic) = (nvme(), nic());
    for options in [
        "lock=first-map,iommu=v2",
        "lock=attach,iommu=v2",
        "lock=first-map,iommu=v1",
        "lock=attach,iommu=v1",
    ] {
        for devices in [1, 2] {
            let mut description = Description::new("limit")
                .append("job=nvme-digest")
                .host_device(&nvme)
                .own_options(options);
            if devices == 2 {
                description = description.host_device(&nic);
            }
            let domain = description.define();
            domain.start();
            domain.wait_for_state("shut off (shutdown)");
            let console = domain.console();
            let messages = domain.messages();
            assert!(
                console.contains(&data_sha256()),
                "{options}, {devices}\n{console}\n{messages}"
            );
            assert!(
                !messages.contains("an error from some point on"),
                "{messages}"
            );
        }
    }
}

#[test]
fn a_hard_limit_that_is_too_small_is_told_with_our_message() {
    let domain = Description::new("hard-limit")
        .host_device(&nvme())
        .element("<memtune><hard_limit unit='MiB'>64</hard_limit></memtune>")
        .own_options("lock=attach")
        .define();
    let message = virsh_refuses(&["start", &domain.name]);
    assert!(message.contains("RLIMIT_MEMLOCK"), "{message}");
}
