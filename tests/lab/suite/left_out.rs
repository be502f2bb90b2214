//! What a run of everything leaves to the main host.

use crate::host::HostKind;
use crate::kernels::HostKernel;

/// What a run of everything leaves out in an LPAR, whatever the size of its pages.
const LEFT_OUT_IN_LPARS: &[&str] = &[
    "every_host::disk::",
    "every_host::disk_kills::",
    "every_host::dma::a_version_1_container_",
    "every_host::dma::in_user_mode_",
    "every_host::dma_windows::a_guest_in_huge_pages_",
    "every_host::dma_windows::without_",
    "every_host::entropy::",
    "every_host::hostile_driver::",
    "every_host::hostile_guest::a_device_works_",
    "every_host::hostile_guest::nonsense_about_a_device_gets_error_codes_in_user_mode",
    "every_host::hostile_guest::ranges_",
    "every_host::range_ends::so_they_",
    "every_host::reboot::",
];

/// Tests that a run of everything leaves to the main host: they are dear, and show the same on other hosts, which
/// run them when a filter names them (`every_host::`).
pub(super) const LEFT_OUT: [(HostKind, HostKernel, &[&str]); 5] = [
    (
        HostKind::P9Pages4k,
        HostKernel::Trixie,
        &[
            "every_host::disk::",
            "every_host::disk_kills::",
            "every_host::dma::in_user_mode_",
            "every_host::dma_windows::after_",
            "every_host::dma_windows::without_",
            "every_host::entropy::",
            "every_host::hostile_driver::",
        ],
    ),
    (
        HostKind::P10Pages64k,
        HostKernel::Trixie,
        &[
            "every_host::disk::",
            "every_host::disk_kills::",
            "every_host::dma::a_version_1_container_",
            "every_host::dma::in_user_mode_",
            "every_host::dma_windows::",
            "every_host::entropy::",
            "every_host::hostile_driver::",
            "every_host::hostile_guest::a_device_works_",
            "every_host::hostile_guest::nonsense_about_a_device_gets_error_codes_in_user_mode",
            "every_host::hostile_guest::ranges_",
            "every_host::range_ends::so_they_",
            "every_host::reboot::",
        ],
    ),
    (
        HostKind::Lpar9Pages64k,
        HostKernel::Trixie,
        LEFT_OUT_IN_LPARS,
    ),
    (
        HostKind::Lpar9Pages4k,
        HostKernel::Trixie,
        LEFT_OUT_IN_LPARS,
    ),
    (
        HostKind::P9Pages64k,
        HostKernel::Forky,
        &[
            "every_host::disk::",
            "every_host::disk_kills::",
            "every_host::dma::a_version_1_container_",
            "every_host::dma::in_user_mode_",
            "every_host::dma_windows::a_guest_in_huge_pages_",
            "every_host::dma_windows::after_",
            "every_host::dma_windows::without_",
            "every_host::entropy::",
            "every_host::hostile_driver::",
            "every_host::hostile_guest::nonsense_about_a_device_gets_error_codes_in_user_mode",
            "every_host::reboot::",
        ],
    ),
];
