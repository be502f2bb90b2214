//! A newer guest with a virtio entropy device.

use crate::every_host::entropy::{assert_random, job};
use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, page_bytes};
use crate::harness::jobs::{NAME_KERNEL, READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::vmm::GuestKernel;

#[test]
fn a_newer_guest_with_other_pages_gets_them_in_a_sandbox_beside_a_passed_through_device() {
    let mut kernels = GuestKernel::all();
    kernels
        .retain(|kernel| kernel.name.starts_with("forky") && kernel.page_bytes() != page_bytes());
    assert_eq!(kernels.len(), 1, "{kernels:?}");
    let job = [&job(), NAME_KERNEL, WAIT_FOR_NVME, READ_HEAD].concat();
    let finished = Vmm::job_of(&kernels[0], &job)
        .nvme_with_windows()
        .argument("--rng")
        .argument("--iommu-platform")
        .argument("--sandbox")
        .option("--cpus", "2")
        .run()
        .assert_job_done();
    assert_random(&finished);
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.guest("KERNEL"), kernels[0].version(), "{finished}");
    assert_nothing_is_left();
}
