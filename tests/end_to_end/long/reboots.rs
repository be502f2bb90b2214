//! Many reboots of a guest that has a device and dynamic windows.
//!
//! Guests of Linux 6.12 and later ask for their dynamic window again after a reboot while their first one is
//! still known to the machine; a machine that keeps windows across a reboot cannot make it then.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::scratch::TWENTY_REBOOTS_COUNT;
use crate::harness::vmm::GuestKernel;

const REBOOTS: u64 = 20;
/// The time that one life takes at the most, on an emulated host.
const LIFE: Duration = Duration::from_secs(60);
/// The 4 KiB block of the NVMe that says how often the guest has been here.
const COUNT_BLOCK: u64 = TWENTY_REBOOTS_COUNT.start_4k();

fn reboot_with(kernel: &str) {
    let count_and_reboot = format!(
        r#"
dmesg | grep -q 'create-pe-dma-window(2027).* returned 0 ' || {{ echo LAB-GUEST-ERROR no dynamic window; exit 1; }}
mark() {{
    printf '%-4096s' "$1" |
        dd of=/dev/nvme0n1 bs=4096 seek={COUNT_BLOCK} iflag=fullblock oflag=direct || exit 1
}}
lives=$(dd if=/dev/nvme0n1 bs=4096 skip={COUNT_BLOCK} count=1 iflag=direct |
    sed -n "s/^life \([0-9]*\) $(uname -r) .*/\1/p")
lives=${{lives:-0}}
if [ $lives -lt {REBOOTS} ]; then
    mark "life $((lives + 1)) $(uname -r) "
    reboot -f
    sleep 60
    exit 1
fi
mark done
"#
    );
    let job = [WAIT_FOR_NVME, READ_HEAD, &count_and_reboot].concat();
    let kernels = GuestKernel::all();
    let kernel = kernels.iter().find(|known| known.name == kernel);
    let finished = Vmm::job_of(kernel.expect("a kernel of the lab's"), &job)
        .nvme_with_windows()
        .option("--cpus", "2")
        .time_limit(LIFE * u32::try_from(REBOOTS + 1).expect("a small number"))
        .run()
        .assert_job_done();
    assert_eq!(finished.number("/reboots"), REBOOTS, "{finished}");
    let digest = format!("LAB-GUEST-SHA256 {}", head_sha256());
    let read = finished.console().matches(&digest).count();
    assert_eq!(Ok(read), usize::try_from(REBOOTS + 1), "{finished}");
    let windows = finished
        .console()
        .lines()
        .filter(|line| line.contains("create-pe-dma-window(2027)") && line.contains(" returned 0 "))
        .count();
    assert!(
        windows > usize::try_from(REBOOTS).expect("small"),
        "{finished}"
    );
    assert_nothing_is_left();
}

#[test]
fn a_guest_of_linux_6_12_reboots_twenty_times_and_reads_its_device_each_time() {
    reboot_with("trixie-64k");
}

#[test]
fn a_guest_of_linux_7_reboots_twenty_times_and_reads_its_device_each_time() {
    reboot_with("forky-64k");
}
