//! What a guest keeps over its reboots, while other processes wait for it, and what it does not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io, ptr, sync::Arc};

use rustix::process::Signal;
use spapr_lab::proc_sizes;

use crate::harness::Vmm;
use crate::harness::finished::printed;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{HugePages, assert_nothing_is_left, open_group};
use crate::harness::running::Running;

const REBOOTS: usize = 20;
/// The most time that they take on an emulated host.
const LIMIT: Duration = Duration::from_secs(400);
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// The guest's memory.
const GUEST_PAGES: u64 = 128;
const MEMORY: &str = "256M";
/// Huge pages that the host has beside it.
const SPARE_PAGES: usize = 4;

/// Printed by the guest in each of its lives, with what it finds of the life before and when it has used its
/// device.
const FOUND: &str = "REBOOTS dirty=";
const READ: &str = "REBOOTS-READ";

/// Someone who tries to get what a guest has, all the time, and keeps it if that succeeds, until dropped.
struct Rival<T> {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, Option<T>)>>,
}

impl<T: Send + 'static> Rival<T> {
    fn start(mut try_to_get: impl FnMut() -> Option<T> + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut tries, mut got) = (0, None);
            while !over.load(Ordering::Relaxed) {
                if got.is_none() {
                    got = try_to_get();
                    tries += 1;
                }
                thread::sleep(Duration::from_micros(200));
            }
            (tries, got)
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }

    /// Fails if the rival got what it wanted.
    #[track_caller]
    fn assert_got_nothing(mut self, what: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("taken once");
        let (tries, got) = thread.join().expect("a rival panicked");
        assert!(got.is_none(), "another process got {what} in try {tries}");
        assert!(tries > 100, "only {tries} tries to get {what}");
    }
}

impl<T> Drop for Rival<T> {
    /// A test that fails leaves the guest's things to those that follow.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic would be told as one.
            drop(thread.join());
        }
    }
}

impl Rival<fs::File> {
    /// For the NVMe's group.
    fn for_the_group() -> Self {
        Self::start(|| open_group().ok())
    }
}

/// Huge pages of 2 MiB, until dropped.
struct Mapped(usize);

impl Mapped {
    /// One page more than the host has to spare.
    fn new() -> Option<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_HUGETLB
                | 21 << libc::MAP_HUGE_SHIFT,
        );
        // SAFETY: maps memory where there is none.
        let address = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            assert_eq!(
                io::Error::last_os_error().raw_os_error(),
                Some(libc::ENOMEM)
            );
            return None;
        }
        Some(Self(address.addr()))
    }

    const BYTES: usize = (SPARE_PAGES + 1) * HUGE_PAGE_BYTES;
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, to which nobody refers.
        unsafe { libc::munmap(ptr::without_provenance_mut(self.0), Self::BYTES) };
    }
}

/// Fails unless each life that has begun found nothing of the one before; how many there are.
#[track_caller]
fn clean_lives(running: &Running) -> usize {
    let console = running.console();
    let lives = printed(&console, FOUND);
    let clean = lives.iter().all(|found| *found == "0 entries=0 command=0");
    assert!(clean, "{lives:?}");
    lives.len()
}

#[test]
fn over_twenty_reboots_nobody_else_gets_the_device_or_the_huge_pages_and_the_guest_finds_them_clear()
 {
    let pages = GUEST_PAGES + u64::try_from(SPARE_PAGES).expect("a small number");
    let pool = HugePages::take(pages);
    let mut running = Vmm::bare_metal("reboots-guest", "")
        .nvme()
        .option("--memory", MEMORY)
        .option("--hugepages", "2M")
        .argument("--sandbox")
        .time_limit(LIMIT)
        .start();
    running.wait_for_console(READ, 1);
    let group = Rival::for_the_group();
    let huge_pages = Rival::start(Mapped::new);
    running.wait_for_console(READ, REBOOTS + 1);
    group.assert_got_nothing("the group");
    huge_pages.assert_got_nothing("huge pages");
    assert!(clean_lives(&running) > REBOOTS);
    running.signal(Signal::TERM);
    let finished = running.finish();
    finished.assert_status(1);
    assert_eq!(finished.stat("/outcome"), "signal", "{finished}");
    let reboots = usize::try_from(finished.number("/reboots")).expect("a small number");
    assert!(reboots >= REBOOTS, "{finished}");
    assert_nothing_is_left();
    // All of them are the host's again.
    drop(pool);
}

/// What a process holds of memory, in bytes.
fn resident_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"));
    let status = status.expect("it has ended");
    let bytes = status
        .lines()
        .find_map(|line| proc_sizes::bytes(line, "VmRSS:"));
    bytes.expect("no VmRSS")
}

/// As libvirt has a guest reboot: it powers off, and is reset and let go on.
#[test]
fn a_guest_that_is_off_keeps_its_device_and_no_memory_until_it_starts_again() {
    const LIVES: usize = 3;
    let (mut running, mut monitor) = FrontEnd::bare_metal("reboots-guest", "then=off")
        .nvme()
        .argument("-no-shutdown")
        .start();
    running.wait_for_console(READ, 1);
    let group = Rival::for_the_group();
    for life in 1..=LIVES {
        running.wait_for_console(READ, life);
        monitor.wait_for("SHUTDOWN");
        monitor.wait_for("STOP");
        // The guest wrote to 160 MiB.
        let held = resident_bytes(running.id());
        assert!(held < 64 << 20, "{held} bytes of a guest that is off");
        thread::sleep(Duration::from_millis(200));
        if life < LIVES {
            monitor.ask("system_reset");
            monitor.ask("cont");
        }
    }
    group.assert_got_nothing("the group");
    assert_eq!(clean_lives(&running), LIVES);
    monitor.ask("quit");
    let finished = running.finish();
    finished.assert_status(0);
    assert_eq!(finished.number("/reboots"), LIVES as u64 - 1, "{finished}");
    assert_nothing_is_left();
}
