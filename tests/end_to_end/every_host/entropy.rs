//! Guests with a virtio entropy device.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;

/// Reads of 64 bytes, each of which is a request to the device.
const SMALL_READS: u64 = 1_000;

/// Bytes that the guest reads in large pieces, twice.
const BYTES: u64 = 0x1_0000;

/// Reads from the device; random bytes are not two times the same, and cannot be packed.
pub(crate) fn job() -> String {
    format!(
        "
[ \"$(cat /sys/class/misc/hw_random/rng_current)\" = virtio_rng.0 ] ||
    {{ echo LAB-GUEST-ERROR $(cat /sys/class/misc/hw_random/rng_available); exit 1; }}
for file in a b; do
    dd if=/dev/hwrng of=/tmp/$file bs=4096 count=$(({BYTES} / 4096)) iflag=fullblock 2>/dev/null || exit 1
done
cmp -s /tmp/a /tmp/b && {{ echo LAB-GUEST-ERROR twice the same; exit 1; }}
echo LAB-GUEST-PACKED $(cat /tmp/a /tmp/b | gzip -c | wc -c)
dd if=/dev/hwrng of=/dev/null bs=64 count={SMALL_READS} 2>/dev/null || exit 1
"
    )
}

/// Fails unless what the guest read was random.
#[track_caller]
pub(crate) fn assert_random(finished: &Finished) {
    let packed: u64 = finished.guest("PACKED").parse().expect("a number");
    assert!(packed >= 2 * BYTES, "{packed}: {finished}");
}

/// What a guest's setting the device up takes; requests come on top, if they do.
const SET_UP_EXITS: u64 = 600;

#[test]
fn a_guest_gets_random_bytes_without_an_exit_for_each_request() {
    for by_bus_address in [false, true] {
        let mut vmm = Vmm::job(&job()).argument("--rng");
        if by_bus_address {
            vmm = vmm.argument("--iommu-platform");
        }
        let finished = vmm.run().assert_job_done();
        assert_random(&finished);
        let exits = finished.number("/exits/mmio");
        assert!(exits < SET_UP_EXITS, "{exits}: {finished}");
        // Its bridge has no hardware behind it.
        assert_eq!(finished.number("/windows/0/map_ioctls"), 0, "{finished}");
        finished.assert_no_complaint();
        assert_nothing_is_left();
    }
}
