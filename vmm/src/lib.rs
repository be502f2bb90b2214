//! The `spapr-vmm` program: command line, guest memory, boot, the processors' loop. KVM is in `spapr_kvm`.
//!
//! | module | what it is for |
//! |---|---|
//! | [`spec`] | a machine as it is asked for, in plain types |
//! | [`cli`] | the command line |
//! | [`qemu`] | the front end for libvirt: QEMU's command line and QMP |
//! | [`run`] | `spapr-vmm run`: from the command line to the guest's end |
//! | [`attachments`] | what devices of `spapr-vmm run` have at their other ends |
//! | [`failing_disks`] | `spapr-vmm run` pauses its guest when the host fails a disk |
//! | [`nics`] | the host's side of network cards |
//! | [`session`] | a machine from its first life to its last, for both front ends |
//! | [`iommu_report`] | `spapr-vmm iommu`: what IOMMU groups can do, and what a guest locks |
//! | [`lifecycle`] | how a machine's run ends, and who waits for it |
//! | [`shared_areas`] | memory of a processor that the hypervisor reads and writes |
//! | [`speculation`] | defences against speculation that the processor has, as a guest sees them |
//! | [`partition`] | what the processors of a machine share |
//! | [`machine`] | the pseries machine: what it is made of, its passed-through devices |
//! | [`vcpu`] | a processor's loop and the hypercalls that are no DMA |
//! | [`boot`] | kernel, initial RAM disk and device tree in guest memory |
//! | [`random`] | random bytes |
//! | [`memory`] | guest RAM in blocks, and huge pages of the host behind it |
//! | [`console`] | where the guest's terminal is |
//! | [`background_writer`] | bytes written by a thread of their own |
//! | [`control`] | signals and the machine's end |
//! | [`descriptor_limit`] | how many files this process may have open |
//! | [`process_limits`] | limits that would end the process without a word |
//! | [`threads`] | starting threads |
//! | [`sandbox`] | what threads may still ask of the kernel |
//! | [`setting`] | what errors are about, however a program calls it |
//! | [`stats`] | the counters that `--stats` writes |
//! | [`logging`] | diagnostics that cannot disturb the guest |

pub mod attachments;
pub mod background_writer;
pub mod boot;
pub mod cli;
pub mod console;
pub mod control;
pub mod descriptor_limit;
pub mod dump;
pub mod failing_disks;
pub mod filesystems;
pub mod iommu_report;
pub mod lifecycle;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod nics;
pub mod partition;
pub mod process_limits;
pub mod qemu;
pub mod random;
pub mod run;
pub mod sandbox;
pub mod session;
pub mod setting;
pub mod shared_areas;
pub mod spec;
pub mod speculation;
pub mod stats;
pub mod threads;
pub mod vcpu;
pub mod vhost;
