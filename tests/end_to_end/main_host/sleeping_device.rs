//! A device that its guest has put to sleep (D3hot) or has decode nothing, so that it answers accesses to its
//! configuration space alone: that ends no host, whatever becomes of the guest. Of the lab's devices the igb alone does
//! sleep.

use rustix::process::Signal;

use super::devices::ECHO;
use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, device};
use crate::harness::jobs::{JOIN_NETWORK, WAIT_FOR_NVME, reboot_once};
use crate::harness::scratch::SLEEP_MARK;

/// Has the card go to D3hot (the capability of power management has number 1, its state is in the two lowest bits of the
/// byte 4 behind it), and says what state it is in then.
const SLEEP: &str = "
put 003 $(($(capability 1) + 4))
echo LAB-GUEST-STATE $(($(byte $(($(capability 1) + 4))) & 3))
";

/// Reads and writes bytes of the card's configuration space; a value is three octal digits.
const BYTES: &str = "
card=$(readlink -f /sys/class/net/eth0/device)
byte() { echo $(dd if=$card/config bs=1 skip=$1 count=1 2>/dev/null | od -An -tu1); }
put() { printf \"\\\\$1\" | dd of=$card/config bs=1 seek=$2 count=1 conv=notrunc 2>/dev/null; }
capability() {
    at=$(byte 52)
    while [ $at != 0 ] && [ $(byte $at) != $1 ]; do
        at=$(byte $((at + 1)))
    done
    echo $at
}
";

/// Has the card decode no memory, and then reset itself (the highest bit of device control in the capability of PCI
/// Express, number 16), awake and asleep; says whether its guest still finds decoding off.
const RESET_UNDECODED: &str = "
put 004 4
put 200 $(($(capability 16) + 9))
put 003 $(($(capability 1) + 4))
put 200 $(($(capability 16) + 9))
put 003 $(($(capability 1) + 4))
put 000 $(($(capability 1) + 4))
echo LAB-GUEST-DECODING $(($(byte 4) & 2))
";

/// Takes the sleeping card, and with it its vectors, from its driver, and gives it back.
const BIND_AGAIN: &str = "
driver=/sys/bus/pci/drivers/igb
echo $(basename $card) >$driver/unbind
echo $(basename $card) >$driver/bind
for _ in $(seq 40); do
    [ -e /sys/class/net/eth0 ] && break
    sleep 0.25
done
";

fn count(console: &str, line: &str) -> usize {
    console.matches(line).count()
}

#[test]
fn a_guest_whose_device_sleeps_or_decodes_nothing_frees_its_vectors_reboots_and_ends() {
    let reboot = reboot_once(SLEEP_MARK, "slept");
    let job = [
        WAIT_FOR_NVME,
        JOIN_NETWORK,
        ECHO,
        BYTES,
        RESET_UNDECODED,
        SLEEP,
        BIND_AGAIN,
        JOIN_NETWORK,
        ECHO,
        SLEEP,
        &reboot,
    ];
    let vmm = Vmm::job(&job.concat()).nvme_with_windows();
    let vmm = vmm.option("--vfio", &device("igb"));
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    let console = finished.console();
    assert_eq!(count(console, "LAB-GUEST-ECHO msix"), 4, "{finished}");
    assert_eq!(count(console, "LAB-GUEST-STATE 3"), 4, "{finished}");
    assert_eq!(count(console, "LAB-GUEST-DECODING 0"), 2, "{finished}");
    assert!(!finished.errors().contains("warn: "), "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_vmm_is_killed_while_its_guest_s_device_sleeps_and_the_next_guest_has_it_awake() {
    let job = [JOIN_NETWORK, ECHO, BYTES, SLEEP, "sleep 60\n"].concat();
    let vmm = Vmm::job(&job).option("--vfio", &device("igb"));
    let mut running = vmm.start();
    running.wait_for_console("LAB-GUEST-STATE 3", 1);
    running.signal(Signal::KILL);
    assert!(running.finish().signal().is_some());
    let job = [JOIN_NETWORK, ECHO].concat();
    let vmm = Vmm::job(&job).option("--vfio", &device("igb"));
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("ECHO"), "msix", "{finished}");
    assert_nothing_is_left();
}
