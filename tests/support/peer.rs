//! QEMU, with which spapr-vmm is compared in a lab host.

/// The options of its machine. Emulated hosts have none of the mitigations of speculation that it insists on by itself.
pub const QEMU_MACHINE: &str =
    "pseries,accel=kvm,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off";
