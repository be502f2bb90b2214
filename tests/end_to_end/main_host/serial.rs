//! A guest with ports and a balloon beside a passed-through device.

use std::io::{BufRead, BufReader, Write};

use crate::every_host::balloon::resident;
use crate::every_host::serial::{AGENT, ask, connect};
use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::vmm::Folder;

/// Answers line for line until it is told to end. Its memory was used and is free by then.
const JOB: &str = r#"
mount -t tmpfs -o size=600m tmpfs /root
dd if=/dev/zero of=/root/fill bs=1M count=256 2>/dev/null && rm /root/fill
for port in /sys/class/virtio-ports/*; do agent=/dev/${port##*/}; done
exec 3<>$agent
while :; do
    read -r line <&3 || { sleep 0.1; continue; }
    [ "$line" = end ] && break
    echo "{\"return\": \"$line\"}" >&3
done
cd /
"#;

#[test]
fn a_port_and_a_balloon_work_beside_an_nvme_and_what_it_may_reach_stays() {
    let folder = Folder::new();
    let agent = folder.file("agent");
    let job = [JOB, WAIT_FOR_NVME, READ_HEAD].concat();
    let running = Vmm::job(&job)
        .nvme_with_windows()
        .option("--serial-port", &format!("{AGENT}={}", agent.display()))
        .argument("--balloon")
        .argument("--sandbox")
        .option("--cpus", "2")
        .start();
    let mut peer = connect(&agent);
    ask(&peer, "memory is free");
    let before = resident(running.id());
    // Time in which a guest would report it.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let after = resident(running.id());
    assert!(
        before > 256 && after + 32 > before,
        "{before} MiB, and {after} later"
    );
    peer.write_all(b"end\n").expect("cannot say");
    let mut rest = String::new();
    // Until the guest is gone.
    let _ = BufReader::new(&peer).read_line(&mut rest);
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}
