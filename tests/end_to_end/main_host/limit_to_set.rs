//! The limit on locked memory that messages say to set: one number, whoever says it, and enough.

use std::path::Path;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, give_to_user, group_node, open_to_all};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::tce_calls::{H_NOT_ENOUGH_RESOURCES, H_SUCCESS, TceCalls};
use crate::harness::vmm::User;

/// Reads into 768 MiB of memory that stay in use, past the page cache, and waits for all of it.
const READ_EVERYWHERE: &str = "
for part in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mkfifo /read-$part
    sleep 1000 < /read-$part &
    dd if=/dev/nvme0n1 of=/read-$part bs=64M count=1 iflag=direct 2>/dev/null &
done
while [ $(awk '$3 == \"nvme0n1\" { print $6 }' /proc/diskstats) -lt 1572864 ]; do sleep 0.2; done
killall dd sleep
";

/// The limits, in KiB, that `messages` say to set.
fn limits_to_set(messages: &str) -> Vec<u64> {
    let after = messages.split("`ulimit -l ").skip(1);
    let numbers = after.map(|rest| rest.split_once('`').expect("a command").0);
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// The one number of all messages of a run.
#[track_caller]
fn limit_to_set(finished: &Finished) -> u64 {
    let limits = limits_to_set(finished.errors());
    let first = *limits
        .first()
        .unwrap_or_else(|| panic!("no limit\n{finished}"));
    assert!(limits.iter().all(|&limit| limit == first), "{finished}");
    first
}

/// Has a guest read with exactly the limit that the refusal names, and with so many windows at the end.
fn reads_with_the_limit_of_the_refusal(windows: usize, with: impl Fn(Vmm) -> Vmm) {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    let job = [WAIT_FOR_NVME, READ_EVERYWHERE, READ_HEAD].concat();
    let memlock = 65536 << 10;
    let refused = with(Vmm::job(&job)).run_by(User { memlock }).run();
    refused.assert_refused(&["the guest could map nothing", "RLIMIT_MEMLOCK is 67108864"]);
    let memlock = limit_to_set(&refused) << 10;
    let finished = with(Vmm::job(&job)).run_by(User { memlock }).run();
    let finished = finished.assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.errors(), "", "{finished}");
    // All of it was locked, or by the default window all but some blocks of 32 MiB that nothing was read
    // into: less would not have been enough.
    let locked = finished.number("/memory/process_locked_bytes");
    let spare = if windows == 1 { 256 << 20 } else { 2 << 20 };
    assert!(locked <= memlock && locked + spare > memlock, "{finished}");
    assert!(finished.number("/windows/0/failures") == 0, "{finished}");
    let made = finished.stat("/windows").as_array().expect("windows");
    assert_eq!(made.len(), windows, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn with_exactly_the_limit_that_the_refusal_names_all_reads_come_out_right() {
    reads_with_the_limit_of_the_refusal(2, Vmm::nvme_with_windows);
}

#[test]
fn warning_and_log_name_the_same_limit_as_the_refusal() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    let refused = TceCalls::vmm().run_by(User { memlock: 8 << 20 }).run();
    let enough = limit_to_set(&refused);
    // One region and the tables: the least that a guest is started with.
    let memlock = enough - (768 << 10);
    let memlock = memlock << 10;
    let mut guest = TceCalls::start(TceCalls::vmm().run_by(User { memlock }));
    // Eight blocks of 32 MiB are as much as a region.
    for block in 1..=8u64 {
        let put = format!("put {block}000 {:x}", (block << 25) | 3);
        assert_eq!(guest.make(&put).0, H_SUCCESS, "{put}");
    }
    assert_eq!(guest.make("put 9000 12000003").0, H_NOT_ENOUGH_RESOURCES);
    let finished = guest.power_off().assert_powered_off();
    assert_eq!(limits_to_set(finished.errors()).len(), 2, "{finished}");
    assert_eq!(limit_to_set(&finished), enough, "{finished}");
    assert_nothing_is_left();
}

/// The same without a dynamic window, whose table then needs no memory.
mod long {
    use super::*;

    #[test]
    fn with_the_default_window_alone_all_reads_come_out_right_with_the_limit_named() {
        reads_with_the_limit_of_the_refusal(1, Vmm::nvme);
    }
}
