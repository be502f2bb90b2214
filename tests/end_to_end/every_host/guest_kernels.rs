//! Guests with other kernels than the host's: older and newer ones, with smaller and larger pages.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, page_bytes};
use crate::harness::jobs::{
    COUNT_CPUS, NAME_KERNEL, READ_HEAD, READ_SMALL, WAIT_FOR_NVME, head_sha256,
};
use crate::harness::vmm::GuestKernel;

/// Has a guest with each kernel read the NVMe in large and in small pieces, with these options, and checks
/// how it went.
pub(crate) fn read_with_every_kernel(options: &[&str], check: impl Fn(&Finished)) {
    read_with(&GuestKernel::all(), options, check);
}

/// The same with these kernels.
fn read_with(kernels: &[GuestKernel], options: &[&str], check: impl Fn(&Finished)) {
    let job = [
        COUNT_CPUS,
        NAME_KERNEL,
        WAIT_FOR_NVME,
        READ_HEAD,
        READ_SMALL,
    ]
    .concat();
    for kernel in kernels {
        let vmm = Vmm::job_of(kernel, &job)
            .nvme_with_windows()
            .option("--cpus", "2");
        let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
        let finished = vmm.run().assert_job_done();
        let name = &kernel.name;
        assert_eq!(finished.guest("CPUS"), "2", "{name}: {finished}");
        let page = kernel.page_bytes().to_string();
        assert_eq!(finished.guest("PAGE"), page, "{name}: {finished}");
        assert_eq!(
            finished.guest("KERNEL"),
            kernel.version(),
            "{name}: {finished}"
        );
        check(&finished);
        let digest = finished.guest("SHA256");
        assert_eq!(digest, head_sha256(), "{name}: {finished}");
        assert_nothing_is_left();
    }
}

/// Fails unless the guest's DMA went through a dynamic window that stands so.
#[track_caller]
pub(crate) fn uses_dynamic_window(finished: &Finished, path: &str) {
    assert_eq!(finished.stat("/windows/1/path"), path, "{finished}");
    assert!(finished.number("/windows/1/map_ioctls") > 0, "{finished}");
}

/// Fails unless the guest's DMA went through the default window, which stands so, and there is no other.
#[track_caller]
pub(crate) fn uses_default_window(finished: &Finished, path: &str) {
    assert_eq!(finished.stat("/windows/0/path"), path, "{finished}");
    assert!(finished.number("/windows/0/map_ioctls") > 0, "{finished}");
    let windows = finished.stat("/windows").as_array().map(Vec::len);
    assert_eq!(windows, Some(1), "{finished}");
}

/// The oldest, and the newest with pages of the other size; the host's own is what all other tests run.
#[test]
fn guests_of_other_kernels_and_page_sizes_read_their_device() {
    let mut kernels = GuestKernel::all();
    kernels.retain(|kernel| {
        let other_pages = kernel.page_bytes() != page_bytes();
        kernel.name.starts_with("bookworm-64k") || kernel.name.starts_with("forky") && other_pages
    });
    assert_eq!(kernels.len(), 2, "{kernels:?}");
    read_with(&kernels, &[], |finished| {
        uses_dynamic_window(finished, "bound");
    });
}
