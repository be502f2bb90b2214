//! Errors that the host freezes a device for (EEH), and a guest's recovery, with the host's own kernel and firmware.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::frozen::freeze;
use crate::harness::host::{assert_nothing_is_left, nvme};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::refusal::{Refusal, request};

/// What VFIO_CHECK_EXTENSION is asked for.
const VFIO_EEH: u32 = 5;

/// Prints what the guest's kernel made of EEH, and waits until the test has frozen its device. The emulated device goes
/// on answering, so that its driver notices nothing: the kernel is told to look.
const RECOVER: &str = "
mount -t debugfs debug /sys/kernel/debug
device=$(basename $(readlink -f /sys/block/nvme0n1/device/device))
echo LAB-GUEST-EEH $(dmesg | grep -c 'EEH: .*platform initialized')
echo LAB-GUEST-ENDPOINT $(cat /sys/bus/pci/devices/$device/eeh_pe_config_addr)
recover() {
    echo LAB-GUEST-READY $1
    for _ in $(seq 240); do
        echo $device > /sys/kernel/debug/powerpc/eeh_dev_check
        dmesg | grep -c 'EEH: Recovery successful' | grep -q \"^$1$\" && break
        sleep 0.5
    done
    echo LAB-GUEST-RECOVERED $(dmesg | grep -c 'EEH: Recovery successful')
}
";

/// Has the kernel notice one freeze more than it lets a device have.
const GIVE_UP: &str = "
echo LAB-GUEST-READY last
for _ in $(seq 240); do
    echo $device > /sys/kernel/debug/powerpc/eeh_dev_check 2>/dev/null
    dmesg | grep -q 'has been permanently disabled' && break
    sleep 0.5
done
sleep 2
echo LAB-GUEST-RECOVERIES $(dmesg | grep -c 'EEH: Recovery successful')
echo LAB-GUEST-GIVEN-UP $(dmesg | grep -c 'has been permanently disabled')
echo LAB-GUEST-DISKS $(ls /sys/block | grep -c nvme)
";

#[test]
fn a_guest_finds_eeh_and_its_nvme_works_again_after_each_time_the_host_froze_it() {
    let twice = "recover 1\nsleep 1\nrecover 2\nsleep 1\n";
    let job = [WAIT_FOR_NVME, RECOVER, twice, READ_HEAD].concat();
    let vmm = Vmm::job(&job).nvme();
    let mut running = vmm.time_limit(Duration::from_secs(240)).start();
    for round in 1..=2 {
        running.wait_for_console(&format!("LAB-GUEST-READY {round}"), 1);
        freeze(&nvme());
        running.wait_for_console("LAB-GUEST-RECOVERED", round);
    }
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.guest("EEH"), "1", "{finished}");
    assert_eq!(finished.guest("ENDPOINT"), "0x1", "{finished}");
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_device_that_the_host_freezes_is_told_of_though_its_guest_does_not_notice() {
    let job = [WAIT_FOR_NVME, "echo LAB-GUEST-READY\nsleep 600\n"].concat();
    let mut running = Vmm::job(&job).nvme().start();
    running.wait_for_console("LAB-GUEST-READY", 1);
    freeze(&nvme());
    let message = running.wait_for_message("has frozen PCI device");
    assert!(message.contains(&nvme()), "{message}");
    running.signal(rustix::process::Signal::TERM);
    running.finish();
    // The next guest finds it thawed; of a host without EEH, it is told that there is none.
    let count = "echo LAB-GUEST-EEH $(dmesg | grep -c 'EEH: .*platform initialized')\n";
    let no_eeh = Refusal {
        request: request::VFIO_CHECK_EXTENSION,
        argument: Some(VFIO_EEH),
        errno: 0,
    };
    let finished = Vmm::job(&[WAIT_FOR_NVME, count, READ_HEAD].concat())
        .nvme()
        .refusing(no_eeh)
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("EEH"), "0", "{finished}");
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}

mod long {
    use super::*;

    #[test]
    fn a_device_that_is_frozen_six_times_is_given_up_by_its_guest_and_works_for_the_next() {
        // Linux gives a device five in an hour (`eeh_max_freezes`).
        const RECOVERIES: usize = 5;
        let rounds: String = (1..=RECOVERIES)
            .map(|round| format!("recover {round}\nsleep 1\n"))
            .collect();
        let job = [WAIT_FOR_NVME, RECOVER, &rounds, GIVE_UP].concat();
        let vmm = Vmm::job(&job).nvme().time_limit(Duration::from_secs(480));
        let mut running = vmm.start();
        for round in 1..=RECOVERIES {
            running.wait_for_console(&format!("LAB-GUEST-READY {round}"), 1);
            freeze(&nvme());
            running.wait_for_console("LAB-GUEST-RECOVERED", round);
        }
        running.wait_for_console("LAB-GUEST-READY last", 1);
        freeze(&nvme());
        let message = running.wait_for_message("the guest has given up PCI device");
        assert!(message.contains(&nvme()), "{message}");
        let finished = running.finish().assert_job_done();
        let recoveries = RECOVERIES.to_string();
        assert_eq!(finished.guest("RECOVERIES"), recoveries, "{finished}");
        assert_eq!(finished.guest("GIVEN-UP"), "1", "{finished}");
        assert_eq!(finished.guest("DISKS"), "0", "{finished}");
        assert_nothing_is_left();
        let next = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat()).nvme().run();
        let next = next.assert_job_done();
        assert_eq!(next.guest("SHA256"), head_sha256(), "{next}");
        assert_nothing_is_left();
    }
}
