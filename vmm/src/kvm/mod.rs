//! KVM for pseries guests.
//!
//! `kvm-ioctls` gives the VM, the vCPU, memory slots and devices. What it keeps back on powerpc64
//! is here, as extension traits on its `VmFd` and `VcpuFd` and as types that own what KVM makes:
//!
//! | module | what it is for |
//! |---|---|
//! | [`host`] | opening `/dev/kvm`, making an HV virtual machine, what the host can do |
//! | [`list_check`] | whether the kernel checks where a list of TCEs ends |
//! | [`memory_slots`] | handing this process' memory to the guest |
//! | [`vm`] | hypercalls handled in the kernel, the radix process table, RTAS tokens, CPU facts |
//! | [`irqfd`] | interrupts raised by an eventfd or by hand |
//! | [`vcpu`] | PAPR mode, registers, the hypercall a vCPU stopped at |
//! | [`kick`] | getting a vCPU out of KVM_RUN from another thread |
//! | [`registers`] | a vCPU's registers, as a core file has them |
//! | [`tce_table`] | the kernel's TCE table of a LIOBN |
//! | [`time_base`] | the host's time base, and a guest's distance from it |
//! | [`vfio_device`] | telling KVM of IOMMU groups, and binding TCE tables to them |
//! | [`xics`] | the in-kernel XICS interrupt controller |
//! | [`xive`] | the in-kernel XIVE interrupt controller, and its pages in guest memory |

pub mod host;
mod ioctls;
pub mod irqfd;
pub mod kick;
pub mod list_check;
mod mapping;
pub mod memory_slots;
pub mod registers;
pub mod tce_table;
pub mod time_base;
pub mod vcpu;
pub mod vfio_device;
pub mod vm;
pub mod xics;
pub mod xive;

pub use ioctls::REQUESTS;
