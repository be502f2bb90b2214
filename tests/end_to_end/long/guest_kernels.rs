//! Guests with every kernel, in each way to serve their TCE calls.

use crate::every_host::guest_kernels::read_with_every_kernel;

#[test]
fn with_the_default_window_alone() {
    read_with_every_kernel(&["--ddw", "off"]);
}

#[test]
fn with_the_vmm_serving_every_call() {
    read_with_every_kernel(&["--ddw", "off", "--tce", "user"]);
}

#[test]
fn with_dynamic_windows_and_the_vmm_serving_every_call() {
    read_with_every_kernel(&["--tce", "user"]);
}

#[test]
fn with_a_container_of_version_1() {
    read_with_every_kernel(&["--iommu", "v1"]);
}
