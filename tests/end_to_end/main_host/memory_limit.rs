//! The limit on locked memory, reached while the guest runs.

use std::path::Path;
use std::process::{ChildStdin, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::iommu::prediction;
use crate::harness::Vmm;
use crate::harness::host::{
    assert_nothing_is_left, give_to_user, group_node, locked_bytes, open_to_all,
};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::running::{Running, type_line};
use crate::harness::tce_calls::{H_NOT_ENOUGH_RESOURCES, H_SUCCESS, TceCalls};
use crate::harness::vmm::User;

/// What is locked at once of memory that the guest has not touched, on a host with pages of 64 KiB.
const BLOCK_BYTES: u64 = 32 << 20;
/// What the VMM logs each time that it cannot lock guest memory.
const REFUSED: &str = "bytes of guest memory for DMA";

/// Sets RLIMIT_MEMLOCK of a process.
fn set_limit(id: u32, bytes: Option<u64>) {
    let id = Pid::from_raw(id.cast_signed()).expect("a process");
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    prlimit(Some(id), Resource::Memlock, limit).expect("root may change the limit");
}

#[test]
fn a_map_past_the_limit_fails_and_succeeds_once_the_limit_is_raised() {
    let tables = prediction("1G", 2, "first-map", "before_dma_bytes");
    let least = prediction("1G", 2, "first-map", "first_mapping_bytes");
    let first = tables + BLOCK_BYTES;
    let most = prediction("1G", 2, "first-map", "most_bytes");
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    let limit = first + BLOCK_BYTES - 1;
    // With less than one region allowed it would not be started.
    let vmm = TceCalls::vmm().run_by(User { memlock: least });
    let mut guest = TceCalls::start(vmm);
    let id = guest.running().id();
    assert_eq!(locked_bytes(id), tables);
    set_limit(id, Some(limit));

    // A page of the first region.
    assert_eq!(guest.make("put 1000 4000003").0, H_SUCCESS);
    assert_eq!(locked_bytes(id), first);
    // Another of it locks nothing more.
    assert_eq!(guest.make("put 2000 5000003").0, H_SUCCESS);
    assert_eq!(locked_bytes(id), first);

    // A page of the second.
    assert_eq!(guest.make("put 3000 14000003").0, H_NOT_ENOUGH_RESOURCES);
    assert_eq!(guest.make("get 3000"), (H_SUCCESS, 0));
    assert_eq!(locked_bytes(id), first);
    let messages = guest.running().wait_for_message(REFUSED);
    let message = messages.lines().find(|line| line.contains(REFUSED));
    let message = message.expect("just seen");
    for part in [
        format!("DMA needs {BLOCK_BYTES} bytes of locked memory"),
        format!("only {} bytes are available", limit - first),
        format!("RLIMIT_MEMLOCK is {limit} bytes, of which {first} are in use"),
        format!("Set the limit to {most} bytes"),
    ] {
        assert!(message.contains(&part), "{part:?} in {message}");
    }
    // What was mapped before is.
    assert_eq!(guest.make("get 1000"), (H_SUCCESS, 0x400_0003));

    // The guest can try as often as it likes.
    assert_eq!(
        guest.make("repeat 3000 14000003 3e8").0,
        H_NOT_ENOUGH_RESOURCES
    );
    assert_eq!(locked_bytes(id), first);

    set_limit(id, Some(first + BLOCK_BYTES));
    assert_eq!(guest.make("put 3000 14000003").0, H_SUCCESS);
    assert_eq!(guest.make("get 3000"), (H_SUCCESS, 0x1400_0003));
    assert_eq!(locked_bytes(id), first + BLOCK_BYTES);

    // Memory stays locked until the window is reset.
    for ioba in ["1000", "2000", "3000"] {
        assert_eq!(guest.make(&format!("put {ioba} 0")).0, H_SUCCESS);
    }
    assert_eq!(locked_bytes(id), first + BLOCK_BYTES);

    let finished = guest.power_off().assert_powered_off();
    assert_eq!(finished.number("/windows/0/failures"), 1001, "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    let logged = finished.errors().matches(REFUSED).count();
    // Ten in ten seconds, and the thousand take no longer than a few of those.
    assert!((2..=50).contains(&logged), "{logged} messages\n{finished}");
    assert_nothing_is_left();
}

/// Reads into 768 MiB of memory that stay in use: each of the programs waits for one that never
/// takes what it has read.
const READ_EVERYWHERE: &str = "
echo LAB-GUEST-READY
read go
for part in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mkfifo /read-$part
    sleep 1000 < /read-$part &
    dd if=/dev/nvme0n1 of=/read-$part bs=64M count=1 iflag=direct 2>/dev/null &
done
read more
";

/// Runs a Linux guest that gets no more than what it has when it is ready, until it is refused more.
/// Returns how much it has.
fn refused_to_linux(job: &str) -> (Running, ChildStdin, u64) {
    let job = [WAIT_FOR_NVME, READ_EVERYWHERE, job].concat();
    let vmm = Vmm::job(&job).nvme().run_by(User { memlock: 2 << 30 });
    let mut running = vmm.stdin(Stdio::piped()).start();
    let mut keyboard = running.stdin();
    running.wait_for_console("LAB-GUEST-READY", 1);
    let locked = locked_bytes(running.id());
    assert!(locked < 1 << 30, "{locked} bytes are locked already");
    set_limit(running.id(), Some(locked));
    type_line(&mut keyboard, "go");
    let message = running.wait_for_message(REFUSED);
    assert!(message.contains(&format!("RLIMIT_MEMLOCK is {locked} bytes")));
    assert_eq!(locked_bytes(running.id()), locked);
    (running, keyboard, locked)
}

#[test]
fn a_linux_guest_goes_on_when_the_limit_is_raised() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    let job = ["killall dd\n", READ_HEAD].concat();
    let (running, mut keyboard, locked) = refused_to_linux(&job);
    // The NVMe driver takes the failure for one that passes, and makes its request again.
    set_limit(running.id(), Some(2 << 30));
    type_line(&mut keyboard, "on");
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert!(
        finished.number("/memory/process_locked_bytes") > locked,
        "{finished}"
    );
    assert!(finished.number("/windows/0/failures") > 0, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_linux_guest_that_is_refused_memory_can_power_off() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    // At power-off the NVMe's driver waits so long for requests that cannot end.
    let impatient = "echo 3 >/sys/module/nvme_core/parameters/io_timeout\nexit 0\n";
    let (running, mut keyboard, locked) = refused_to_linux(impatient);
    type_line(&mut keyboard, "enough");
    let finished = running.finish().assert_powered_off();
    let told = finished.console().contains("iommu_alloc failed");
    assert!(told, "{finished}");
    assert_eq!(
        finished.number("/memory/process_locked_bytes"),
        locked,
        "{finished}"
    );
    assert_nothing_is_left();
}
