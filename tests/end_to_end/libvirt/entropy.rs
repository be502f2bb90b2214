//! A domain with virtio entropy devices.

use crate::harness::libvirt::Description;

/// Reads random bytes from each device, which cannot be packed.
const JOB: &str = "
cd /sys/class/misc/hw_random
for device in virtio_rng.0 virtio_rng.1; do
    echo $device >rng_current
    echo LAB-GUEST-RNG $(cat rng_current) $(dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | gzip -c | wc -c)
done
";

#[test]
fn a_domain_reads_random_bytes_by_guest_and_by_bus_addresses() {
    let rng = |driver| {
        format!("<rng model='virtio'><backend model='random'>/dev/urandom</backend>{driver}</rng>")
    };
    let domain = Description::new("entropy")
        .device(&rng(""))
        .device(&rng("<driver iommu='on'/>"))
        .job(JOB)
        .define();
    domain.start();
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    for device in ["virtio_rng.0", "virtio_rng.1"] {
        let start = format!("LAB-GUEST-RNG {device} ");
        let packed = console.split_once(&start).and_then(|(_, rest)| {
            let number = rest.lines().next()?;
            number.trim().parse::<u64>().ok()
        });
        assert!(packed >= Some(0x1_0000), "{device}: {packed:?}\n{console}");
    }
    domain.virsh("undefine");
}
