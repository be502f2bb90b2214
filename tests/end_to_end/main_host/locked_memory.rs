//! When guest memory is locked.

use std::fs;

use spapr_lab::proc_sizes::of_guest;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::HugePagesForWhoAsks;
use crate::harness::tce_calls::{H_SUCCESS, TceCalls};

/// A guest that has a device and does no DMA.
fn without_dma(lock: &str) -> Finished {
    let vmm = Vmm::bare_metal("flood-guest", "lines=1").nvme();
    vmm.option("--lock", lock).run().assert_powered_off()
}

#[test]
fn no_guest_memory_is_locked_before_the_first_mapping() {
    let finished = without_dma("first-map");
    assert_eq!(
        finished.number("/memory/peak_locked_bytes"),
        0,
        "{finished}"
    );
    // The window's tables at 8 bytes an entry: the host's, its table of user-space addresses, and KVM's,
    // and some for their administration.
    let locked = finished.number("/memory/process_locked_bytes");
    let entries = (1 << 30) >> 12;
    let tables = 3 * entries * 8;
    assert!(
        (tables..tables + tables / 16).contains(&locked),
        "{finished}"
    );
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
}

#[test]
fn all_memory_is_locked_at_the_start_when_asked_for() {
    let finished = without_dma("attach");
    assert_eq!(
        finished.number("/memory/peak_locked_bytes"),
        1 << 30,
        "{finished}"
    );
    assert!(
        finished.number("/memory/process_locked_bytes") >= 1 << 30,
        "{finished}"
    );
}

/// Linux clears its table as it starts. The kernel refuses to unmap in a container with which no memory has
/// been registered.
#[test]
fn clearing_before_the_first_mapping_is_no_error_and_locks_nothing() {
    let mut guest = TceCalls::start(TceCalls::vmm());
    for call in ["stuff 0 200", "stuff 1000 1", "put 2000 0"] {
        assert_eq!(guest.make(call).0, H_SUCCESS, "{call}");
    }
    let finished = guest.power_off().assert_powered_off();
    assert_eq!(finished.errors(), "", "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    assert_eq!(finished.number("/windows/0/failures"), 0, "{finished}");
    let locked = finished.number("/memory/peak_locked_bytes");
    assert_eq!(locked, 0, "{finished}");
}

/// A process that locks all it has gets pages as soon as it maps memory, and huge ones only if it asked before.
#[test]
fn memory_locked_for_a_domain_is_of_huge_pages_after_a_reset_too() {
    const GUEST_BYTES: u64 = 1 << 30;
    let _for_who_asks = HugePagesForWhoAsks::begin();
    let front_end = FrontEnd::linux().option("-overcommit", "mem-lock=on");
    let (mut running, mut monitor) = front_end.start();
    for start in 1..=2 {
        running.wait_for_console("LAB-GUEST-INIT", start);
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", running.id())).expect("smaps");
        let guest = |key| of_guest(&smaps, GUEST_BYTES, key);
        assert_eq!(guest("Locked:"), GUEST_BYTES, "start {start}");
        let huge = guest("AnonHugePages:");
        assert!(huge > GUEST_BYTES / 2, "start {start}: {huge} bytes");
        if start == 1 {
            monitor.ask("system_reset");
        }
    }
    monitor.ask("quit");
    running.finish().assert_status(0);
}
