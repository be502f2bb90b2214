//! Devices behind a PCIe-to-PCI bridge, which are of one IOMMU group, and behind the ports of a switch, which on bare
//! metal are of one each.

/// Of devices that no other tests have.
mod long {
    use std::time::Duration;

    use super::super::devices::LIST_DEVICES;
    use crate::harness::Vmm;
    use crate::harness::host::{assert_nothing_is_left, device, group_of, members_of};
    use crate::harness::interrupts::{LIST_LINES, NO_MSI, lines_of};
    use crate::harness::jobs::{JOIN_NETWORK, head_sha256, reboot_once_by_disk};

    const ECHOED_BYTES: u64 = 256 << 10;

    const WAIT_FOR_DISK: &str = "
for _ in $(seq 120); do
    [ -b /dev/sda ] && break
    sleep 0.25
done
[ -b /dev/sda ] || { echo LAB-GUEST-ERROR no disk; exit 1; }
";

    /// Reads the disk's first 8 MiB again and again, while so many bytes go to the echo server and come back.
    fn read_and_echo() -> String {
        format!(
            "
digest() {{ sha256sum | cut -d' ' -f1; }}
read_disk() {{
    while true; do
        dd if=/dev/sda bs=64k count=128 iflag=direct,fullblock 2>/dev/null | digest >>/tmp/digests
        [ -e /tmp/echoed ] && break
    done
}}
dd if=/dev/urandom of=/tmp/sent bs={ECHOED_BYTES} count=1 iflag=fullblock 2>/dev/null
read_disk &
reader=$!
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
touch /tmp/echoed
wait $reader
echo LAB-GUEST-BYTES $(stat -c %s /tmp/received)
[ $(digest </tmp/sent) = $(digest </tmp/received) ] && echo LAB-GUEST-ECHO same
echo LAB-GUEST-SHA256 $(sort -u /tmp/digests)
"
        )
    }

    /// A guest with two processors has a network card and a disk work at once, reboots, and does it again; the
    /// level-triggered interrupts of both lives.
    fn use_pair(card: &str, disk: &str, options: &[(&str, &str)]) -> Vec<String> {
        let work = read_and_echo();
        let reboot = reboot_once_by_disk("/dev/sda", &format!("{card}-{disk}"));
        let job = [WAIT_FOR_DISK, JOIN_NETWORK, &work, LIST_LINES, &reboot];
        let vmm = Vmm::job(&job.concat())
            .time_limit(Duration::from_secs(300))
            .option("--cpus", "2")
            .option("--vfio", &device(card))
            .option("--vfio", &device(disk));
        let vmm = options
            .iter()
            .fold(vmm, |vmm, (name, value)| vmm.option(name, value));
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        let bytes = ECHOED_BYTES.to_string();
        assert_eq!(finished.all("BYTES"), [&bytes, &bytes], "{finished}");
        assert_eq!(finished.all("ECHO"), ["same", "same"], "{finished}");
        let digest = head_sha256();
        assert_eq!(finished.all("SHA256"), [&digest, &digest], "{finished}");
        assert!(!finished.errors().contains("last user"), "{finished}");
        assert_nothing_is_left();
        let lines = lines_of(&finished).into_iter();
        lines.map(str::to_owned).collect()
    }

    /// The cards behind the bridge, of which the first has nothing but its line.
    const BRIDGED: [&str; 2] = ["pci-bridge-rtl8139", "pci-bridge-ich9-ahci"];

    #[test]
    fn two_cards_behind_a_pcie_to_pci_bridge_are_one_group_and_work_at_once() {
        let [card, disk] = BRIDGED;
        assert_eq!(group_of(&device(card)), group_of(&device(disk)));
        let lines = use_pair(card, disk, &[]);
        assert_eq!(lines, ["4608 Level eth0"; 2]);
        let lines = use_pair(card, disk, &[NO_MSI]);
        let expected = ["4608 Level eth0", "4609 Level ahci[0000:00:01.0]"];
        assert_eq!(lines, [[expected[0]; 2], [expected[1]; 2]].concat());
    }

    #[test]
    fn a_guest_can_have_one_of_two_cards_of_a_group_while_the_other_is_nobodys() {
        let [card, disk] = BRIDGED;
        assert_eq!(members_of(&device(disk)).len(), 2);
        let job = [WAIT_FOR_DISK, READ_DISK, LIST_DEVICES].concat();
        let vmm = Vmm::job(&job).option("--cpus", "2");
        let finished = vmm.option("--vfio", &device(disk)).run().assert_job_done();
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        assert_eq!(finished.all("DEVICE"), ["0x010601 ahci"], "{finished}");
        assert_nothing_is_left();
        let job = [JOIN_NETWORK, LIST_DEVICES].concat();
        let vmm = Vmm::job(&job).option("--cpus", "2");
        let finished = vmm.option("--vfio", &device(card)).run().assert_job_done();
        assert_eq!(finished.all("DEVICE"), ["0x020000 8139cp"], "{finished}");
        assert_nothing_is_left();
    }

    const READ_DISK: &str = "
echo LAB-GUEST-SHA256 $(dd if=/dev/sda bs=64k count=128 iflag=direct,fullblock 2>/dev/null |
    sha256sum | cut -d' ' -f1)
";

    #[test]
    fn devices_at_both_ports_of_a_switch_work_at_once() {
        let [card, disk] = ["switch-e1000e", "switch-megasas"];
        // Each port's bus is a partitionable endpoint of the host's.
        assert_ne!(group_of(&device(card)), group_of(&device(disk)));
        assert_eq!(use_pair(card, disk, &[]), [""; 0]);
        let lines = use_pair(card, disk, &[NO_MSI]);
        let expected = ["4608 Level eth0", "4612 Level megasas0-msix0"];
        assert_eq!(lines, [[expected[0]; 2], [expected[1]; 2]].concat());
    }
}
