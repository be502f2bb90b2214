//! KVM for pseries guests, on the host's kernel or, on machines that are no POWER host, on a fake of it that
//! tests are run with.
//!
//! | module | what it is for |
//! |---|---|
//! | [`host`] | opening `/dev/kvm`, making an HV virtual machine, what the host can do |
//! | [`list_check`] | whether the kernel checks where a list of TCEs ends |
//! | [`memory_slots`] | handing this process' memory to the guest |
//! | [`vm`] | hypercalls handled in the kernel, the radix process table, RTAS tokens, CPU facts |
//! | [`doorbell`] | eventfds that a guest's write signals |
//! | [`irqfd`] | interrupts raised by an eventfd |
//! | [`vcpu`] | PAPR mode, registers, KVM_RUN |
//! | [`exit`] | why KVM_RUN returned, and the hypercall a vCPU stopped at |
//! | [`kick`] | getting a vCPU out of KVM_RUN from another thread |
//! | [`registers`] | a vCPU's registers, as a core file has them |
//! | [`shared_area`] | memory of a vCPU that the hypervisor reads and writes |
//! | [`tce_table`] | the kernel's TCE table of a LIOBN |
//! | [`time_base`] | the host's time base, and a guest's distance from it |
//! | [`vfio_device`] | telling KVM of IOMMU groups, and binding TCE tables to them |
//! | [`xics`] | the in-kernel XICS interrupt controller |
//! | [`xive`] | the in-kernel XIVE interrupt controller, and its pages in guest memory |
//! | `real`, `fake` | the descriptors of KVM and the calls that are made on them, one for one |
//!
//! `real` makes the calls on powerpc64, through `kvm-ioctls` where that has them. Elsewhere `fake` has the same
//! types and functions, and an own state in place of a kernel. All that is more than a call is in the modules
//! above them, which are the same for both.

pub mod doorbell;
pub mod exit;
pub mod host;
pub mod irqfd;
pub mod kick;
pub mod list_check;
mod mapping;
pub mod memory_slots;
pub mod registers;
pub mod shared_area;
pub mod tce_table;
pub mod time_base;
pub mod vcpu;
pub mod vfio_device;
pub mod vm;
pub mod xics;
pub mod xive;

#[cfg(not(target_arch = "powerpc64"))]
pub mod fake;
#[cfg(target_arch = "powerpc64")]
mod real;

#[cfg(all(test, not(target_arch = "powerpc64")))]
mod fake_tests;

#[cfg(not(target_arch = "powerpc64"))]
use fake as kernel;
#[cfg(target_arch = "powerpc64")]
use real as kernel;

pub use kernel::{REQUESTS, RUNS_GUESTS};
