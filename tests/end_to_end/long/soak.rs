//! Guests that start, stop, end and are killed again and again: nothing of the host's grows, nothing is read
//! wrong, and the kernel has nothing to say.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::finished::printed;
use crate::harness::front_end::FrontEnd;
use crate::harness::growth::{Held, HostMemory, fill_memory};
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{
    JOIN_NETWORK, READ_ALL, READ_FOR_EVER, READ_HEAD, WAIT_FOR_NVME, data_sha256, head_sha256,
};
use crate::harness::kernel_log::KernelLog;
use crate::harness::running::Running;

/// The most time that a test takes.
const LIMIT: Duration = Duration::from_secs(2400);

/// Lives after which a process has all that it will ever have.
const WARM_UP: usize = 5;
const REBOOTS: usize = 50;
const KILLS: u64 = 100;
const STOPS: usize = 1_000;
const TOGETHER: Duration = Duration::from_secs(600);
const FILLINGS: usize = 10;

/// A job that prints a digest after the other.
fn digest_for_ever() -> String {
    [WAIT_FOR_NVME, "while true; do", READ_HEAD, "done\n"].concat()
}

/// Sends random bytes to the echo host and compares what comes back.
const ECHO_FOR_EVER: &str = "
while true; do
    dd if=/dev/urandom of=/tmp/sent bs=256k count=1 2>/dev/null
    nc 10.0.2.100 7 </tmp/sent >/tmp/received || exit 1
    cmp /tmp/sent /tmp/received || exit 1
    echo LAB-GUEST-ECHOED
done
";

const DIGEST: &str = "LAB-GUEST-SHA256 ";
/// What a guest prints once it has read.
const LAP: &str = "LAB-GUEST-LAP";

/// Fails unless all digests that a guest has printed are right; how many there were.
#[track_caller]
fn right_digests(running: &Running) -> usize {
    let (console, right) = (running.console(), head_sha256());
    let digests = printed(&console, DIGEST);
    assert!(digests.iter().all(|digest| *digest == right), "{digests:?}");
    digests.len()
}

#[test]
fn fifty_reboots_leave_a_process_as_large_as_it_was() {
    let kernel_log = KernelLog::from_now();
    // A reset must not cut the line of the digest short: there is another behind it.
    let job = [WAIT_FOR_NVME, READ_HEAD, "echo LAB-GUEST-LAP\nsleep 1000"].concat();
    let (mut running, mut monitor) = FrontEnd::job(&job).nvme().time_limit(LIMIT).start();
    let mut warm = None;
    for life in 1..=REBOOTS {
        running.wait_for_console(LAP, life);
        if life == WARM_UP {
            warm = Some(Held::by(running.id()));
        }
        monitor.ask("system_reset");
    }
    running.wait_for_console(LAP, REBOOTS + 1);
    Held::by(running.id()).assert_not_more_than(&warm.expect("enough lives"));
    monitor.ask("quit");
    assert_eq!(right_digests(&running), REBOOTS + 1);
    let finished = running.finish();
    assert_eq!(finished.number("/reboots"), REBOOTS as u64, "{finished}");
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}

#[test]
fn a_hundred_kills_at_random_moments_leave_nothing() {
    let kernel_log = KernelLog::from_now();
    let job = [WAIT_FOR_NVME, READ_FOR_EVER].concat();
    let guest = || Vmm::job(&job).nvme_with_windows().option("--cpus", "2");
    let mut before = None;
    for kill in 0..KILLS {
        let mut running = guest().start();
        // The same moments in each run: of the start, and of reading.
        let moment = kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if kill % 2 == 0 {
            thread::sleep(Duration::from_millis(moment % 8_000));
        } else {
            running.wait_for_console(LAP, 1);
            thread::sleep(Duration::from_millis(moment % 1_000));
        }
        running.signal(Signal::KILL);
        drop(running);
        assert_nothing_is_left();
        if kill == WARM_UP as u64 {
            before = Some(HostMemory::now());
        }
    }
    HostMemory::now().assert_not_less_than(&before.expect("enough kills"));
    let job = [WAIT_FOR_NVME, READ_HEAD].concat();
    let finished = Vmm::job(&job).nvme_with_windows().run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}

#[test]
fn two_guests_use_their_devices_for_ten_minutes() {
    let kernel_log = KernelLog::from_now();
    let disk = Vmm::job(&digest_for_ever())
        .nvme_with_windows()
        .option("--cpus", "2");
    let net = [JOIN_NETWORK, ECHO_FOR_EVER].concat();
    let net = Vmm::job(&net).nic().option("--ddw", "off");
    let [mut disk, mut net] = [disk, net].map(|vmm| vmm.time_limit(LIMIT).start());
    disk.wait_for_console(DIGEST, WARM_UP);
    net.wait_for_console("LAB-GUEST-ECHOED", WARM_UP);
    let warm = [&disk, &net].map(|running| Held::by(running.id()));
    let until = Instant::now() + TOGETHER;
    while Instant::now() < until {
        thread::sleep(Duration::from_secs(10));
        right_digests(&disk);
        assert!(
            !net.console().contains("LAB-GUEST-STATUS"),
            "{}",
            net.console()
        );
    }
    for (running, warm) in [&disk, &net].into_iter().zip(&warm) {
        Held::by(running.id()).assert_not_more_than(warm);
    }
    assert!(right_digests(&disk) > 2 * WARM_UP);
    let echoed = net.console().matches("LAB-GUEST-ECHOED").count();
    assert!(echoed > 2 * WARM_UP, "{echoed}");
    for running in [disk, net] {
        running.signal(Signal::TERM);
        let finished = running.finish();
        finished.assert_status(1);
    }
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}

#[test]
fn a_guest_that_is_stopped_and_continued_a_thousand_times_reads_on() {
    let kernel_log = KernelLog::from_now();
    let (mut running, mut monitor) = FrontEnd::job(&digest_for_ever())
        .nvme()
        .option("-smp", "2")
        .time_limit(LIMIT)
        .start();
    running.wait_for_console(DIGEST, WARM_UP);
    let warm = Held::by(running.id());
    for stop in 0..STOPS {
        monitor.ask("stop");
        if stop % 100 == 0 {
            assert_eq!(monitor.status(), "paused");
            // What it had printed has come by then.
            thread::sleep(Duration::from_millis(200));
            let console = running.console();
            thread::sleep(Duration::from_millis(500));
            assert_eq!(running.console(), console, "it went on");
        }
        monitor.ask("cont");
        // Or it would never come to anything.
        thread::sleep(Duration::from_millis(20));
    }
    let so_far = right_digests(&running);
    running.wait_for_console(DIGEST, so_far + WARM_UP);
    right_digests(&running);
    assert_eq!(monitor.status(), "running");
    Held::by(running.id()).assert_not_more_than(&warm);
    monitor.ask("quit");
    drop(running.finish());
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}

/// To lock memory for DMA, the kernel moves it out of areas that it keeps for other uses; after a host was
/// full, more of it is there.
#[test]
fn guests_lock_their_memory_after_the_host_was_full() {
    let kernel_log = KernelLog::from_now();
    let job = [WAIT_FOR_NVME, READ_ALL].concat();
    for filling in 0..FILLINGS {
        fill_memory();
        let vmm = Vmm::job(&job).option("--cpus", "2");
        let vmm = match filling % 2 {
            0 => vmm.nvme(),
            _ => vmm.nvme_with_windows(),
        };
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
        finished.assert_no_complaint();
        assert_nothing_is_left();
    }
    kernel_log.assert_no_complaint();
}
