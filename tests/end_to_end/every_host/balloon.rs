//! Guests with a memory balloon.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::Duration;

use super::serial::connect;
use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::vmm::Folder;

/// Memory that the guest uses for a while, in MiB.
const USED: u64 = 256;

/// Fills memory, says so, lets go of it, and says so.
const JOB: &str = r#"
mount -t tmpfs -o size=600m tmpfs /root
dd if=/dev/zero of=/root/fill bs=1M count=256 2>/dev/null || exit 1
echo LAB-GUEST-USES memory
sleep 2
rm /root/fill
echo LAB-GUEST-FREED memory
# Until someone has seen that it is free.
for port in /sys/class/virtio-ports/*; do port=/dev/${port##*/}; done
until [ "$(head -c 1 $port)" = x ]; do sleep 0.1; done
"#;

/// MiB of a process that are in memory.
pub(crate) fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it has ended");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse::<u64>().ok())
        .expect("a number")
        >> 10
}

#[test]
fn what_a_guest_has_no_use_for_goes_back_to_the_host() {
    let folder = Folder::new();
    let path = folder.file("seen");
    let mut running = Vmm::job(JOB)
        .argument("--balloon")
        .option("--serial-port", &format!("seen={}", path.display()))
        .argument("--sandbox")
        .start();
    running.wait_for_console("LAB-GUEST-USES memory", 1);
    let before = resident(running.id());
    assert!(before > USED, "{before} MiB");
    running.wait_for_console("LAB-GUEST-FREED memory", 1);
    let mut after = before;
    for _ in 0..120 {
        thread::sleep(Duration::from_millis(500));
        after = resident(running.id());
        if after + USED / 2 < before {
            break;
        }
    }
    assert!(after + USED / 2 < before, "{before} MiB, and {after} later");
    // Until the guest has read it and is gone.
    let mut seen = connect(&path);
    seen.write_all(b"x").expect("cannot say");
    let finished = running.finish().assert_job_done();
    finished.assert_no_complaint();
    assert_nothing_is_left();
}
