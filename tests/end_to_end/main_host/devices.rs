//! What a guest does with its devices beside DMA: taking and freeing interrupts, and having two.

use std::fs::File;
use std::path::Path;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, device, lab};
use crate::harness::interrupts::{LIST_LINES, MSI_X, without};
use crate::harness::jobs::{JOIN_NETWORK, READ_ALL, WAIT_FOR_NVME, data_sha256, head_sha256};
use crate::harness::tce_handlers::Handler;

/// Takes the NVMe from its driver and gives it back, time and again; says how many interrupt
/// vectors it had first and last.
const BIND_AGAIN: &str = "
device=$(basename $(readlink -f /sys/block/nvme0n1/device/device))
driver=/sys/bus/pci/drivers/nvme
vectors() { grep -c nvme /proc/interrupts; }
echo LAB-GUEST-FIRST $(vectors)
for _ in 1 2 3 4 5 6 7 8; do
    echo $device >$driver/unbind || exit 1
    [ -b /dev/nvme0n1 ] && { echo LAB-GUEST-ERROR still there; exit 1; }
    [ $(vectors) = 0 ] || { echo LAB-GUEST-ERROR vectors are left; exit 1; }
    echo $device >$driver/bind || exit 1
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -b /dev/nvme0n1 ] && break
        sleep 0.25
    done
done
echo LAB-GUEST-LAST $(vectors)
";

/// Says which PCI devices there are, and their drivers.
pub(super) const LIST_DEVICES: &str = "
for device in /sys/bus/pci/devices/*; do
    echo LAB-GUEST-DEVICE $(cat $device/class) $(basename $(readlink $device/driver))
done
";

/// Reads the NVMe's first 8 MiB again and again, while 1 MiB goes to the echo server and comes back.
const READ_AND_ECHO: &str = "
read_nvme() {
    while true; do
        dd if=/dev/nvme0n1 bs=1M count=8 iflag=direct,fullblock 2>/dev/null |
            sha256sum | cut -d' ' -f1 >>/tmp/digests
        [ -e /tmp/echoed ] && break
    done
}
dd if=/dev/urandom of=/tmp/sent bs=1M count=1 2>/dev/null
sectors() { echo $(cat /sys/block/nvme0n1/stat) | cut -d' ' -f3; }
read_nvme &
reader=$!
before=$(sectors)
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
meanwhile=$(($(sectors) - before))
touch /tmp/echoed
wait $reader
digest() { sha256sum $1 | cut -d' ' -f1; }
echo LAB-GUEST-BYTES $(stat -c %s /tmp/received)
echo LAB-GUEST-SENT $(digest /tmp/sent)
echo LAB-GUEST-RECEIVED $(digest /tmp/received)
echo LAB-GUEST-SECTORS-MEANWHILE $meanwhile
echo LAB-GUEST-SHA256 $(sort -u /tmp/digests)
";

/// What one frame of the network card carries at most.
pub(super) const FRAME_BYTES: u64 = 1500;
pub(super) const ECHOED_BYTES: u64 = 1 << 20;

/// Has a guest with devices of two groups do DMA with both at once.
pub(super) fn use_both(options: &[(&str, &str)]) -> Finished {
    let job = [
        WAIT_FOR_NVME,
        LIST_DEVICES,
        JOIN_NETWORK,
        READ_AND_ECHO,
        LIST_LINES,
    ];
    let vmm = Vmm::job(&job.concat()).nic().nvme().option("--cpus", "2");
    let vmm = options
        .iter()
        .fold(vmm, |vmm, (name, value)| vmm.option(name, value));
    let finished = vmm.run().assert_job_done();
    let mut devices = finished.all("DEVICE");
    devices.sort_unstable();
    // PCI class codes: NVM Express, and an Ethernet controller.
    let expected = ["0x010802 nvme", "0x020000 e1000e"];
    assert_eq!(devices, expected, "{finished}");
    assert_eq!(finished.guest("BYTES"), ECHOED_BYTES.to_string());
    assert_eq!(finished.guest("RECEIVED"), finished.guest("SENT"));
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    let sectors = finished.guest("SECTORS-MEANWHILE").parse::<u64>();
    assert!(sectors.expect("a number") > 0, "{finished}");
    for (window, liobn, group) in [
        (0, "0x80000000", lab("LAB_NIC_GROUP")),
        (1, "0x80000100", lab("LAB_NVME_GROUP")),
    ] {
        let stat = |name: &str| finished.stat(&format!("/windows/{window}/{name}"));
        assert_eq!(stat("liobn"), liobn, "{finished}");
        assert_eq!(stat("group").to_string(), group, "{finished}");
    }
    assert_nothing_is_left();
    let nic = Path::new("/dev/vfio").join(lab("LAB_NIC_GROUP"));
    File::open(nic).expect("the network card's group is still in use");
    finished
}

/// How many TCE calls of a window reached the VMM.
fn calls_of(finished: &Finished, window: usize) -> u64 {
    let calls = finished.stat(&format!("/windows/{window}/calls"));
    let calls = calls.as_object().expect("counts by name").values();
    calls.filter_map(serde_json::Value::as_u64).sum()
}

#[test]
fn devices_of_two_groups_do_dma_at_once_in_auto_mode() {
    let handler = Handler::watch("put_tce");
    let finished = use_both(&[]);
    let kernel = handler.returns();
    // Each frame is mapped and unmapped.
    let frames = ECHOED_BYTES / FRAME_BYTES;
    assert!(kernel.answered > 2 * frames, "{kernel:?}\n{finished}");
    for window in [0, 1] {
        let path = finished.stat(&format!("/windows/{window}/path"));
        assert_eq!(path, "bound", "{finished}");
        // The first mapping of each region of memory.
        assert!(calls_of(&finished, window) > 0, "{finished}");
    }
}

/// Without the kernel.
mod long {
    use super::*;

    #[test]
    fn devices_of_two_groups_do_dma_at_once_in_user_mode() {
        let finished = use_both(&[("--tce", "user")]);
        for window in [0, 1] {
            let path = finished.stat(&format!("/windows/{window}/path"));
            assert_eq!(path, "user", "{finished}");
            let map_ioctls = finished.number(&format!("/windows/{window}/map_ioctls"));
            assert!(map_ioctls > 100, "{finished}");
        }
        let frames = ECHOED_BYTES / FRAME_BYTES;
        assert!(calls_of(&finished, 0) > 2 * frames, "{finished}");
        assert!(calls_of(&finished, 1) > 100, "{finished}");
    }

    #[test]
    fn interrupt_vectors_that_a_driver_frees_can_be_had_again() {
        let job = [WAIT_FOR_NVME, BIND_AGAIN, WAIT_FOR_NVME, READ_ALL].concat();
        let vmm = Vmm::job(&job).nvme_with_windows().option("--cpus", "4");
        let finished = vmm.run().assert_job_done();
        let first: u64 = finished.guest("FIRST").parse().expect("a number");
        // One for the administration queue and one for each processor's.
        assert_eq!(first, 5, "{finished}");
        assert_eq!(finished.guest("LAST"), "5", "{finished}");
        assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
        assert_nothing_is_left();
    }
}

/// Sends 64 KiB to the echo server and gets them back; by which kind of interrupt, it says as well.
pub(super) const ECHO: &str = "
dd if=/dev/urandom of=/tmp/sent bs=64k count=1 iflag=fullblock 2>/dev/null
nc -w 60 10.0.2.100 7 </tmp/sent >/tmp/received
cmp -s /tmp/sent /tmp/received && echo LAB-GUEST-ECHO $(cat /sys/class/net/eth0/device/msi_irqs/* | sort -u)
";

#[test]
fn a_card_that_has_msi_and_no_msi_x_works_by_msi() {
    for controller in ["xive", "xics"] {
        let job = [JOIN_NETWORK, ECHO].concat();
        let vmm = without(Vmm::job(&job), &[MSI_X]).option("--vfio", &device("igb"));
        let vmm = vmm.option("--interrupt-controller", controller);
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.guest("ECHO"), "msi", "{finished}");
        assert_nothing_is_left();
    }
}
