//! Network cards with several pairs of queues.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::every_host::network::{SET_UP_EXITS, assert_passed};
use crate::harness::Vmm;
use crate::harness::finished::printed;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interface::Interface;
use crate::harness::jobs::{WAIT_FOR_NVME, reboot_once};
use crate::harness::scratch::PAIRS_MARK;

/// Pings of each processor, and how many interrupts of its pair's they are at least: several may come with one.
const PINGS: u64 = 40;
const LEAST_INTERRUPTS: u64 = 15;

/// What a guest does: it passes data as one processor has it, then each processor pings the host by itself, and counts
/// interrupts of either pair's queue for received frames meanwhile. Linux has its processors' frames leave by the pairs in
/// their order (XPS), and the host's kernel has answers come by the pair that a flow came from.
pub(crate) fn job(interface: &Interface, pinned: u32) -> String {
    let (host, _) = interface.places();
    format!(
        "
cat >/tmp/passes <<'JOB'
{}
JOB
taskset -c {pinned} sh /tmp/passes || exit 1
echo LAB-GUEST-QUEUES $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)
count() {{ awk -v name=-input.$1 -v cpus=$(nproc) 'index($NF, name) {{ for (at = 2; at <= cpus + 1; at++) sum += $at }} END {{ print sum + 0 }}' /proc/interrupts; }}
for cpu in $(seq 0 $(($(nproc) - 1))); do
    before0=$(count 0) before1=$(count 1)
    taskset -c $cpu ping -c {PINGS} -i 0.02 -W 5 -q {host} >/dev/null || exit 1
    echo LAB-GUEST-BY$cpu $(($(count 0) - before0)) $(($(count 1) - before1))
done
grep virtio /proc/interrupts
echo LAB-GUEST-DONE yes
sleep 2
",
        interface.job()
    )
}

/// Fails unless, of so many processors, the first half has the first pair by itself, and the others the second.
#[track_caller]
pub(crate) fn assert_by_both(console: &str, cpus: usize) {
    for cpu in 0..cpus {
        let said = printed(console, &format!("LAB-GUEST-BY{cpu} "));
        let counts = said.iter().flat_map(|said| said.split(' '));
        let counts: Vec<u64> = counts.map(|it| it.parse().expect("a number")).collect();
        let &[first, second] = counts.as_slice() else {
            panic!("{cpu}: {counts:?}: {console}");
        };
        let (own, other) = match cpu < cpus / 2 {
            true => (first, second),
            false => (second, first),
        };
        assert!(own >= LEAST_INTERRUPTS, "{cpu}: {own}: {console}");
        assert!(other < LEAST_INTERRUPTS, "{cpu}: {other}: {console}");
    }
}

#[test]
fn a_guest_of_four_processors_uses_both_pairs_also_after_a_reboot() {
    for vhost in ["off", "on"] {
        let interface = Interface::of_several_queues("vm0", 1);
        let listener = interface.listen();
        let again = reboot_once(PAIRS_MARK, &format!("a-mark-of-the-pairs-test-{vhost}"));
        // The second pair's processor passes the data.
        let job = [WAIT_FOR_NVME, &again, &job(&interface, 2)].concat();
        let mut running = Vmm::job(&job)
            .nvme_with_windows()
            .option("--net", &format!("tap=vm0,queues=2,vhost={vhost}"))
            .option("--cpus", "4")
            .argument("--sandbox")
            .start();
        running.wait_for_console("LAB-GUEST-DONE", 1);
        assert_eq!(interface.queues(), 2, "{}", running.console());
        let finished = running.finish().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        assert_passed(&finished, listener);
        assert_eq!(finished.guest("QUEUES"), "2", "{finished}");
        assert_by_both(finished.console(), 4);
        let exits = finished.number("/exits/mmio");
        assert!(exits < 2 * SET_UP_EXITS, "{exits}: {finished}");
        assert_eq!(finished.errors(), "", "{finished}");
        assert_nothing_is_left();
    }
}

#[test]
fn a_guest_that_uses_one_of_two_pairs_gets_all_frames_by_it() {
    for vhost in ["off", "on"] {
        let interface = Interface::of_several_queues("vm0", 1);
        let listener = interface.listen();
        let mut running =
            Vmm::job(&[&interface.job(), "echo LAB-GUEST-DONE yes; sleep 2\n"].concat())
                .option("--net", &format!("tap=vm0,queues=2,vhost={vhost}"))
                .argument("--sandbox")
                .start();
        running.wait_for_console("LAB-GUEST-DONE", 1);
        // Linux uses no more than it has processors.
        assert_eq!(interface.queues(), 1, "{}", running.console());
        let finished = running.finish().assert_job_done();
        assert_passed(&finished, listener);
        assert_eq!(finished.errors(), "", "{finished}");
        assert_nothing_is_left();
    }
}

#[test]
fn the_front_end_has_both_pairs_with_the_words_of_libvirt() {
    let interface = Interface::of_several_queues("vm0", 1);
    let listener = interface.listen();
    let (running, _monitor) = FrontEnd::job(&job(&interface, 3))
        .option(
            "-netdev",
            r#"{"type":"tap","ifname":"vm0","queues":2,"vhost":true,"id":"n"}"#,
        )
        .option(
            "-device",
            r#"{"driver":"virtio-net-pci","mq":true,"vectors":6,"netdev":"n","id":"net0"}"#,
        )
        .option("-smp", "4")
        .option("-sandbox", "on")
        .start();
    let finished = running.finish();
    assert_passed(&finished, listener);
    assert_by_both(finished.console(), 4);
    assert_nothing_is_left();
}

#[test]
fn an_interface_of_one_queue_is_refused_with_what_to_type() {
    let _interface = Interface::new("vm0", 1);
    let refused = Vmm::job("true").option("--net", "tap=vm0,queues=2").run();
    refused.assert_refused(&[
        "--net: vm0 is no TAP interface with several queues",
        "mode tap multi_queue",
    ]);
    assert_nothing_is_left();
}

#[test]
fn queues_that_their_last_user_left_detached_are_used_and_one_queue_is_not_taken_for_two() {
    let interface = Interface::of_several_queues("vm0", 1);
    let listener = interface.listen();
    let queues = [interface.detached_queue(), interface.detached_queue()];
    let fd = |files: [&File; 2]| {
        let [first, second] = files.map(AsRawFd::as_raw_fd);
        format!("fd={first}:{second}")
    };
    let finished = Vmm::job(&job(&interface, 3))
        .option("--net", &fd([&queues[0], &queues[1]]))
        .option("--cpus", "4")
        .argument("--sandbox")
        .run()
        .assert_job_done();
    assert_passed(&finished, listener);
    assert_by_both(finished.console(), 4);
    // Such a descriptor is inherited.
    let again = File::from(rustix::io::dup(&queues[0]).expect("a descriptor"));
    let refused = Vmm::job("true")
        .option("--net", &fd([&queues[0], &again]))
        .run();
    refused.assert_refused(&["are not those of queues of one TAP interface"]);
    assert_nothing_is_left();
}

#[test]
fn an_interface_that_is_not_there_is_to_be_made_with_several_queues() {
    let refused = Vmm::job("true").option("--net", "tap=vm9,queues=2").run();
    refused.assert_refused(&["no interface vm9", "mode tap multi_queue"]);
    assert_nothing_is_left();
}
