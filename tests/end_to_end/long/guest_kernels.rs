//! Guests with every kernel, in each way to serve their TCE calls.

use crate::every_host::guest_kernels::{
    read_with_every_kernel, uses_default_window, uses_dynamic_window,
};

#[test]
fn in_the_default_mode() {
    read_with_every_kernel(&[], |run| uses_dynamic_window(run, "bound"));
}

#[test]
fn with_the_default_window_alone() {
    read_with_every_kernel(&["--ddw", "off"], |run| uses_default_window(run, "bound"));
}

#[test]
fn with_the_vmm_serving_every_call() {
    read_with_every_kernel(&["--ddw", "off", "--tce", "user"], |run| {
        uses_default_window(run, "user");
    });
}

#[test]
fn with_dynamic_windows_and_the_vmm_serving_every_call() {
    read_with_every_kernel(&["--tce", "user"], |run| uses_dynamic_window(run, "user"));
}

#[test]
fn with_a_container_of_version_1() {
    read_with_every_kernel(&["--iommu", "v1"], |run| {
        uses_default_window(run, "user");
        assert_eq!(run.number("/windows/0/container"), 1, "{run}");
    });
}
