//! Interrupt lines (INTx): of drivers that use no MSI and of devices that have none, with both interrupt
//! controllers.

use std::time::Duration;

use super::devices::{ECHOED_BYTES, FRAME_BYTES, use_both};
use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{self, assert_nothing_is_left};
use crate::harness::interrupts::{
    CONTROLLERS, LIST_LINES, MSI, MSI_X, NAME_CONTROLLER, NO_MSI, lines_of, without,
};
use crate::harness::jobs::{JOIN_NETWORK, READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::scratch::LINES_MARK;

/// Has two devices do DMA at once, each by its line; lines are numbered from 0x1200 on, four for each bridge.
fn use_lines_of_both(controller: &str) -> Finished {
    let finished = use_both(&[NO_MSI, ("--interrupt-controller", controller)]);
    let expected = ["4608 Level eth0", "4612 Level nvme0q0,"];
    assert_eq!(lines_of(&finished), expected, "{finished}");
    finished
}

#[test]
fn drivers_that_use_no_msi_are_served_by_the_lines_of_their_devices() {
    let finished = use_lines_of_both("xive");
    assert!(
        // Each ends here; one can be for several frames.
        finished.number("/hypercalls/H_INT_ESB") > ECHOED_BYTES / FRAME_BYTES / 4,
        "{finished}"
    );
}

#[test]
fn with_xics_drivers_that_use_no_msi_are_served_by_the_lines_of_their_devices() {
    use_lines_of_both("xics");
}

/// Takes so many interrupts, one for each read; says how many came, and what the kernel says of lost
/// or unwanted ones.
fn take_interrupts(count: u64) -> String {
    format!(
        "
count() {{
    awk -v cpus=$(nproc) '/nvme/ {{ for (i = 2; i < 2 + cpus; i++) sum += $i }} END {{ print sum + 0 }}' \
        /proc/interrupts
}}
before=$(count)
began=$(cut -d' ' -f1 /proc/uptime)
dd if=/dev/nvme0n1 of=/dev/null bs=512 count={count} iflag=direct 2>/dev/null || exit 1
echo LAB-GUEST-TAKEN $(($(count) - before))
echo LAB-GUEST-SECONDS $began $(cut -d' ' -f1 /proc/uptime)
echo LAB-GUEST-TROUBLE $(dmesg | grep -c -i -e 'nvme.*timeout' -e 'nobody cared')
"
    )
}

/// Has guests with one processor and with two take as many interrupts of a line, each for a read of an NVMe without
/// doorbells in memory: of one with them, the emulator loses count and keeps the line raised (docs/devices.md).
fn take_all(controllers: &[(&str, &str)], count: u64, limit: Duration) {
    let device = host::device("nvme-no-dbcs");
    for (controller, name) in controllers {
        for cpus in ["1", "2"] {
            let take = take_interrupts(count);
            let job = [WAIT_FOR_NVME, NAME_CONTROLLER, &take, LIST_LINES, READ_HEAD].concat();
            let vmm = Vmm::job(&job).option("--vfio", &device).time_limit(limit);
            let finished = vmm
                .option("--cpus", cpus)
                .option(NO_MSI.0, NO_MSI.1)
                .option("--interrupt-controller", controller)
                .run()
                .assert_job_done();
            assert_eq!(finished.guest("CONTROLLER"), *name, "{finished}");
            let expected = ["4608 Level nvme0q0,"];
            assert_eq!(lines_of(&finished), expected, "{finished}");
            assert_eq!(finished.guest("TROUBLE"), "0", "{finished}");
            let taken: u64 = finished.guest("TAKEN").parse().expect("a number");
            // None is lost, or a read would have timed out. With two processors one can be for two reads, the second of
            // which is started while the first one's interrupt is still served; with XICS, one that is served late may be
            // followed by one that finds nothing to do.
            let least = if cpus == "1" { count } else { count / 2 };
            let most = match *controller {
                "xive" => count + count / 100,
                _ => count * 5 / 2,
            };
            assert!(
                (least..=most).contains(&taken),
                "{taken} with {cpus} processors: {finished}"
            );
            assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
            assert_nothing_is_left();
        }
    }
}

#[test]
fn of_five_thousand_interrupts_none_is_lost_and_few_are_too_many() {
    take_all(&CONTROLLERS, 5_000, Duration::from_secs(300));
}

/// The block of the NVMe that says whether the guest has been here before.
const MARK_BLOCK: u64 = LINES_MARK.start_4k();

#[test]
fn after_a_reboot_lines_work_as_before() {
    for (controller, _) in CONTROLLERS {
        let reboot = format!(
            "
mark='before the reboot with {controller}'
if ! dd if=/dev/nvme0n1 bs=4096 skip={MARK_BLOCK} count=1 iflag=direct 2>/dev/null | grep -q \"$mark\"; then
    printf '%-4096s' \"$mark\" |
        dd of=/dev/nvme0n1 bs=4096 seek={MARK_BLOCK} iflag=fullblock oflag=direct || exit 1
    reboot -f
    sleep 60
    exit 1
fi
"
        );
        let job = [WAIT_FOR_NVME, &reboot, READ_HEAD, LIST_LINES].concat();
        let vmm = Vmm::job(&job).nvme().option(NO_MSI.0, NO_MSI.1);
        let vmm = vmm.option("--interrupt-controller", controller);
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        let expected = ["4608 Level nvme0q0,"];
        assert_eq!(lines_of(&finished), expected, "{finished}");
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        assert_nothing_is_left();
    }
}

/// Reads with a device that may raise no line, and then may again (Interrupt Disable, bit 10 of the command
/// register): what is read meanwhile comes when it may.
const DISABLE_LINE: &str = "
config=$(readlink -f /sys/block/nvme0n1/device/device)/config
command() { printf \"\\\\x$1\" | dd of=$config bs=1 seek=5 count=1 conv=notrunc 2>/dev/null || exit 1; }
command 04
dd if=/dev/nvme0n1 of=/tmp/read bs=4096 count=1 iflag=direct 2>/dev/null &
reader=$!
sleep 2
echo LAB-GUEST-MEANWHILE $(stat -c %s /tmp/read)
command 00
wait $reader || exit 1
echo LAB-GUEST-THEN $(stat -c %s /tmp/read)
echo LAB-GUEST-TROUBLE $(dmesg | grep -c -i -e 'nvme.*timeout' -e 'nobody cared')
";

#[test]
fn a_line_that_the_guest_has_its_device_not_raise_is_silent_until_it_may() {
    for (controller, _) in CONTROLLERS {
        let job = [WAIT_FOR_NVME, DISABLE_LINE, READ_HEAD].concat();
        let vmm = Vmm::job(&job).nvme().option(NO_MSI.0, NO_MSI.1);
        let vmm = vmm.option("--interrupt-controller", controller);
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.guest("MEANWHILE"), "0", "{finished}");
        assert_eq!(finished.guest("THEN"), "4096", "{finished}");
        assert_eq!(finished.guest("TROUBLE"), "0", "{finished}");
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    }
}

#[test]
fn a_device_that_has_its_line_alone_works_and_that_is_told() {
    for (controller, _) in CONTROLLERS {
        let job = [WAIT_FOR_NVME, READ_HEAD].concat();
        let vmm = without(Vmm::job(&job).nvme(), &[MSI, MSI_X]).option("--log", "info");
        let vmm = vmm.option("--interrupt-controller", controller);
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        let message = format!(
            "PCI device {} has neither MSI nor MSI-X: it interrupts by its line (INTx)",
            host::nvme()
        );
        assert!(finished.errors().contains(&message), "{finished}");
        assert_nothing_is_left();
    }
}

/// Sends 128 KiB to the echo server, reads the head of a controller's disk, and a part of that from a USB disk as well,
/// which is slow.
const USE_ALL: &str = "
for _ in $(seq 120); do
    [ -b /dev/sda ] && [ -b /dev/sdb ] && break
    sleep 0.25
done
for disk in sda sdb; do
    case $(readlink -f /sys/block/$disk) in
    */usb*) usb=$disk ;;
    *) other=$disk ;;
    esac
done
digest() { sha256sum | cut -d' ' -f1; }
begin() { dd if=/dev/$1 bs=64k count=$2 iflag=direct,fullblock 2>/dev/null | digest; }
echo LAB-GUEST-SHA256 $(begin $other 128)
echo LAB-GUEST-OTHER $(begin $other 8)
echo LAB-GUEST-USB $(begin $usb 8)
dd if=/dev/urandom of=/tmp/sent bs=1k count=128 2>/dev/null
nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
echo LAB-GUEST-SENT $(digest </tmp/sent)
echo LAB-GUEST-RECEIVED $(digest </tmp/received)
";

/// A network card, a controller of a disk and one of a USB disk.
const FIRST_THREE: [&str; 3] = ["rtl8139", "ich9-ahci", "usb-ehci"];

/// A guest with three such devices, which do their work; its level-triggered interrupts.
fn use_three(devices: [&str; 3], options: &[(&str, &str)]) -> Vec<String> {
    let job = [JOIN_NETWORK, USE_ALL, LIST_LINES].concat();
    let devices = devices.map(host::device);
    let vmm = devices
        .iter()
        .fold(Vmm::job(&job), |vmm, device| vmm.option("--vfio", device));
    let vmm = options
        .iter()
        .fold(vmm, |vmm, (name, value)| vmm.option(name, value));
    let limit = Duration::from_secs(300);
    let finished = vmm.time_limit(limit).run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.guest("USB"), finished.guest("OTHER"), "{finished}");
    assert_eq!(finished.guest("RECEIVED"), finished.guest("SENT"));
    lines_of(&finished).into_iter().map(str::to_owned).collect()
}

mod long {
    use super::*;

    /// On an emulated host with much else to do, twenty milliseconds go by from one to the next.
    const LIMIT: Duration = Duration::from_secs(2700);

    #[test]
    fn of_a_hundred_thousand_interrupts_none_is_lost_and_few_are_too_many() {
        take_all(&CONTROLLERS[..1], 100_000, LIMIT);
    }

    #[test]
    fn with_xics_of_a_hundred_thousand_interrupts_none_is_lost_and_few_are_too_many() {
        take_all(&CONTROLLERS[1..], 100_000, LIMIT);
    }

    #[test]
    fn devices_that_have_nothing_but_a_line_work_beside_one_with_msi() {
        let lines = use_three(FIRST_THREE, &[("--interrupt-controller", "xive")]);
        assert_eq!(lines, ["4608 Level eth0", "4619 Level ehci_hcd:usb1"]);
    }

    #[test]
    fn devices_of_each_kind_work_by_their_lines() {
        for (controller, _) in CONTROLLERS {
            let options = [NO_MSI, ("--interrupt-controller", controller)];
            let lines = use_three(FIRST_THREE, &options);
            let expected = [
                "4608 Level eth0",
                "4612 Level ahci[0001:00:00.0]",
                "4619 Level ehci_hcd:usb1",
            ];
            assert_eq!(lines, expected);
        }
    }

    /// Of other makes, with MSI-X, too.
    const OTHER_THREE: [&str; 3] = ["igb", "megasas", "usb-xhci"];

    #[test]
    fn a_network_card_a_raid_controller_and_a_usb_controller_of_other_makes_work_by_messages() {
        for (controller, _) in CONTROLLERS {
            let lines = use_three(OTHER_THREE, &[("--interrupt-controller", controller)]);
            assert_eq!(lines, [""; 0]);
        }
    }

    #[test]
    fn a_network_card_a_raid_controller_and_a_usb_controller_of_other_makes_work_by_lines() {
        for (controller, _) in CONTROLLERS {
            let options = [NO_MSI, ("--interrupt-controller", controller)];
            let lines = use_three(OTHER_THREE, &options);
            assert_eq!(lines.len(), 3, "{lines:?}");
        }
    }
}
