//! What a VMM keeps resident beside its guest's memory.

use std::fs;

use spapr_lab::proc_sizes;

use crate::harness::Vmm;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};

/// What a VMM may have: its code that ran, its data, and what its threads need; the guest's memory, and what of the
/// kernel's is mapped, are not counted. Much of the code is never run, or once: in the compiler's order all of it
/// would be here, and be 1.2 MiB more (vmm/text-order.ld).
const MOST_BYTES: u64 = 7 << 19;

/// A mapping as large is the guest's memory.
const GUEST_BYTES: u64 = 512 << 20;

/// Resident bytes of all that /proc/PID/smaps lists but guest memory and mappings of KVM's descriptors.
fn own_bytes(smaps: &str) -> u64 {
    let mut own = 0;
    let mut is_own = true;
    for line in smaps.lines() {
        if let Some(bytes) = proc_sizes::bytes(line, "Size:") {
            is_own &= bytes < GUEST_BYTES;
        } else if let Some(bytes) = proc_sizes::bytes(line, "Rss:") {
            own += if is_own { bytes } else { 0 };
        } else if line.starts_with(|first: char| !first.is_ascii_uppercase()) {
            // A mapping's first line begins with its addresses, the others with a capital.
            is_own = !line.contains("anon_inode:kvm");
        }
    }
    own
}

#[test]
fn a_vmm_whose_guest_reads_its_device_holds_the_code_that_runs_and_little_else() {
    let job = [
        WAIT_FOR_NVME,
        READ_HEAD,
        "echo LAB-GUEST-READ\nsleep 1000\n",
    ]
    .concat();
    let mut running = Vmm::job(&job).nvme_with_windows().start();
    running.wait_for_console("LAB-GUEST-READ", 1);
    let console = running.console();
    assert!(console.contains(&head_sha256()), "{console}");
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", running.id())).expect("it has ended");
    let own = own_bytes(&smaps);
    assert!(own <= MOST_BYTES, "{} KiB:\n{smaps}", own >> 10);
    assert!(own > 1 << 20, "{smaps}");
}
