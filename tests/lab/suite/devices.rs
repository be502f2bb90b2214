//! The devices that hosts have for their tests, beside the NVMe and the network card.

use super::hosts::MAIN_HOST;
use crate::host::{DeviceKind, HostKind};

/// Modules whose tests need devices that only these hosts have, and only in runs of tests that take long. Bare metal with
/// pages of 4 KiB alone can have a virtual function ([`DeviceKind::IgbVf`]).
const NEEDING_DEVICES: [(&str, &[HostKind]); 2] = [
    ("every_host::virtual_functions::", &[HostKind::P9Pages4k]),
    ("every_host::every_device::", &HOSTS_WITH_EVERY_ONE),
];
/// The hosts that have one of each kind that they can have.
pub(super) const HOSTS_WITH_EVERY_ONE: [HostKind; 2] = [MAIN_HOST, HostKind::Lpar9Pages64k];
/// The tests that use all of them: each module takes about as long as all others of a host.
pub(super) const LONGEST: [&str; 2] = [
    "every_host::every_device::long::ours::",
    "every_host::every_device::long::qemus::",
];
/// What the main host always has.
const ALWAYS: &[DeviceKind] = &[
    DeviceKind::Rtl8139,
    DeviceKind::NvmeNoDbcs,
    DeviceKind::Ich9Ahci,
    DeviceKind::UsbEhci,
    DeviceKind::Rtl8139Pair,
    DeviceKind::Edu,
    DeviceKind::PciTestdev,
    DeviceKind::Igb,
];
/// What it has beside them for tests that take long.
const LONG: &[DeviceKind] = &[
    DeviceKind::UsbXhci,
    DeviceKind::Megasas,
    DeviceKind::NvmeBuffer,
    DeviceKind::Nvme2048,
    DeviceKind::Switch,
    DeviceKind::PciBridge,
    DeviceKind::IvshmemPlain,
];
/// What an LPAR has for them.
const LPAR_LONG: &[DeviceKind] = &[
    DeviceKind::E1000,
    DeviceKind::Rtl8139,
    DeviceKind::NvmeNoDbcs,
    DeviceKind::NvmeBuffer,
    DeviceKind::Nvme2048,
    DeviceKind::Ich9Ahci,
    DeviceKind::UsbEhci,
    DeviceKind::UsbXhci,
    DeviceKind::Megasas,
    DeviceKind::Igb,
    DeviceKind::PciBridge,
];

/// The devices of a host, which may run tests that take long.
pub(super) fn of(host: HostKind, takes_long: bool) -> Vec<DeviceKind> {
    let always = if host == MAIN_HOST { ALWAYS } else { &[] };
    let long: &[DeviceKind] = match host {
        _ if !takes_long => &[],
        MAIN_HOST => LONG,
        HostKind::P9Pages4k => &[DeviceKind::IgbVf],
        HostKind::Lpar9Pages64k => LPAR_LONG,
        _ => &[],
    };
    [always, long].concat()
}

/// The modules whose tests a host cannot run for want of devices.
pub(super) fn absent(host: HostKind, takes_long: bool) -> impl Iterator<Item = &'static str> {
    NEEDING_DEVICES
        .iter()
        .filter(move |(_, hosts)| !takes_long || !hosts.contains(&host))
        .map(|(module, _)| *module)
}
