//! DMA of a passed-through NVMe, with the TCE calls served in the kernel and in user space.

use spapr_lab::tce_returns::TceReturns;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{
    COUNT_CPUS, READ_ALL, READ_SMALL, SMALL_READS, WAIT_FOR_NVME, data_sha256,
};
use crate::harness::tce_handlers::Handler;

/// Has a guest with so many processors read the NVMe in large and in small pieces, and returns what
/// the kernel's handler of H_PUT_TCE did meanwhile.
fn read_with(cpus: &str, options: &[&str]) -> (Finished, TceReturns) {
    let handler = Handler::watch("put_tce");
    let job = [COUNT_CPUS, WAIT_FOR_NVME, READ_ALL, READ_SMALL].concat();
    let vmm = Vmm::job(&job).nvme().option("--cpus", cpus);
    let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("CPUS"), cpus, "{finished}");
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
    (finished, handler.returns())
}

#[test]
fn in_auto_mode_the_kernel_serves_single_entries() {
    let (finished, kernel) = read_with("4", &["--tce", "auto"]);
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    assert_eq!(finished.number("/windows/0/container"), 2, "{finished}");
    assert!(kernel.answered >= SMALL_READS, "{kernel:?}\n{finished}");
    let left = finished.tce_calls("H_PUT_TCE");
    // What is left is the first mapping of each region of memory, which locks it.
    assert!(
        left * 20 <= kernel.answered,
        "{left} reached the VMM, {kernel:?}\n{finished}"
    );
    assert!(
        finished.tce_calls("H_PUT_TCE_INDIRECT") > 0,
        "lists are the VMM's\n{finished}"
    );
}

/// Pieces in which guest memory of 1 GiB is locked at most, as its device reads: three in each region.
const MOST_PIECES: u64 = 12;

#[test]
fn in_user_mode_every_call_reaches_the_vmm() {
    let (finished, kernel) = read_with("1", &["--tce", "user"]);
    assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
    assert_eq!(kernel.answered, 0, "{kernel:?}\n{finished}");
    assert!(finished.tce_calls("H_PUT_TCE") >= SMALL_READS, "{finished}");
    // A call for which memory was locked was made again, and is counted once.
    let again = kernel.left.checked_sub(finished.tce_calls("H_PUT_TCE"));
    let again = again.unwrap_or_else(|| panic!("{kernel:?}\n{finished}"));
    assert!(again <= MOST_PIECES, "{again}: {kernel:?}\n{finished}");
    assert_eq!(finished.number("/windows/0/container"), 2, "{finished}");
}

#[test]
fn a_version_1_container_has_every_call_served_by_the_vmm() {
    let (finished, kernel) = read_with("1", &["--iommu", "v1"]);
    assert_eq!(finished.number("/windows/0/container"), 1, "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
    assert!(finished.stat("/windows/0/reason").is_string(), "{finished}");
    assert_eq!(kernel.answered, 0, "{kernel:?}\n{finished}");
    assert!(finished.tce_calls("H_PUT_TCE") >= SMALL_READS, "{finished}");
}
