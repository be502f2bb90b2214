//! When guest memory is locked.

use crate::harness::Vmm;
use crate::harness::finished::Finished;

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
