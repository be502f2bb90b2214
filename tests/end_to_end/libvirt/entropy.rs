//! A domain with a virtio entropy device.

use crate::harness::libvirt::Description;

/// Reads random bytes, which cannot be packed.
const JOB: &str = "
echo LAB-GUEST-RNG $(cat /sys/class/misc/hw_random/rng_current)
echo LAB-GUEST-PACKED $(dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | gzip -c | wc -c)
";

#[test]
fn a_domain_reads_random_bytes_by_guest_and_by_bus_addresses() {
    for (name, driver) in [("entropy", ""), ("entropy-iommu", "<driver iommu='on'/>")] {
        let xml = format!(
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend>{driver}</rng>"
        );
        let domain = Description::new(name).device(&xml).job(JOB).define();
        domain.start();
        domain.wait_for_state("shut off (shutdown)");
        let console = domain.console();
        assert!(console.contains("LAB-GUEST-RNG virtio_rng.0"), "{console}");
        let packed = console.split_once("LAB-GUEST-PACKED ").expect("a size").1;
        let packed: u64 = packed
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .expect("a number");
        assert!(packed >= 0x1_0000, "{console}");
        domain.virsh("undefine");
    }
}
