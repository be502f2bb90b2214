//! The host's KVM: opening it, making a VM, and what it can do.

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;

use kvm_bindings::powerpc64::{
    KVM_API_VERSION, KVM_CAP_IRQ_XICS, KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_MAX_VCPU_ID,
    KVM_CAP_MAX_VCPUS, KVM_CAP_NR_MEMSLOTS, KVM_CAP_PPC_AIL_MODE_3, KVM_CAP_PPC_ENABLE_HCALL,
    KVM_CAP_PPC_GET_CPU_CHAR, KVM_CAP_PPC_IRQ_XIVE, KVM_CAP_PPC_MMU_RADIX,
    KVM_CAP_PPC_RPT_INVALIDATE, KVM_CAP_PPC_RTAS, KVM_CAP_SPAPR_MULTITCE, KVM_CAP_SPAPR_TCE_64,
    KVM_CAP_SPAPR_TCE_VFIO, KVM_VM_PPC_HV,
};
use spapr_devices::interrupts::ControllerKind;
use spapr_devices::interrupts::xive::PAGE_BYTES as XIVE_PAGE_BYTES;
use vmm_sys_util::errno;

use crate::kernel::{self, KvmFd};
use crate::vm::Vm;

/// KVM's device.
const DEVICE: &CStr = c"/dev/kvm";

/// Why this host cannot run a pseries guest.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Guests run on another architecture.
    #[error(
        "guests run on ppc64le hosts with KVM, and this is {}",
        std::env::consts::ARCH
    )]
    WrongArchitecture,
    /// There is no `/dev/kvm`.
    #[error(
        "this host offers no KVM (no {path}): on a POWER9 or later host, load it as root with \
         `modprobe kvm-hv`"
    )]
    NoDevice {
        /// Where the device was looked for.
        path: String,
        /// What opening it gave.
        #[source]
        source: errno::Error,
    },
    /// This user may not open `/dev/kvm`.
    #[error("no permission to open {path}: {access}; run as root or as a user who may open it")]
    PermissionDenied {
        /// The device.
        path: String,
        /// Its owner, group and mode, in words.
        access: String,
        /// What opening it gave.
        #[source]
        source: errno::Error,
    },
    /// `/dev/kvm` could not be opened for another reason.
    #[error("cannot open {path}")]
    Open {
        /// The device.
        path: String,
        /// What opening it gave.
        #[source]
        source: errno::Error,
    },
    /// The kernel's KVM API is none that this program knows.
    #[error(
        "{path} speaks KVM API version {found}, not {}: it is no KVM device, or no kernel this \
         program can work with",
        KVM_API_VERSION
    )]
    ApiVersion {
        /// The device.
        path: String,
        /// What KVM_GET_API_VERSION gave; -1 for an error.
        found: i32,
    },
    /// KVM_CREATE_VM was refused.
    #[error(
        "KVM cannot make a hypervisor-mode (HV) virtual machine (KVM_CREATE_VM, type {}): load \
         the module kvm-hv (`modprobe kvm-hv`); kvm-pr alone does not do, nor does a guest \
         without nested virtualization",
        KVM_VM_PPC_HV
    )]
    CreateVm(#[source] errno::Error),
    /// KVM lacks something that every guest here needs.
    #[error("this kernel's KVM lacks {name}; Linux 6.4 or later on POWER9 or later has it")]
    NoCapability {
        /// The capability, as the kernel's headers name it.
        name: &'static str,
    },
    /// The host cannot give guests a XIVE interrupt controller.
    #[error("this host has no XIVE interrupt controller for guests: {0}; xics works on any host")]
    NoXive(NoXive),
    /// The host cannot run guests with the radix MMU.
    #[error(
        "KVM cannot run guests with the radix MMU on this host (no KVM_CAP_PPC_MMU_RADIX): a \
         POWER9 or later host is needed whose kernel uses radix itself (not booted with \
         `disable_radix`)"
    )]
    NoRadix,
}

/// Why guests of a host have no XIVE interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoXive {
    /// KVM does not offer it.
    #[error(
        "KVM does not offer KVM_CAP_PPC_IRQ_XIVE (nested hosts, and those booted with xive=off, do not)"
    )]
    NotOffered,
    /// A page of the controller, and an event queue, have to be pages of the host's.
    #[error("its kernel has pages of {0:#x} bytes, and XIVE takes one with 64 KiB pages")]
    PageSize(u64),
}

/// The host's KVM.
#[derive(Debug)]
pub struct Kvm(pub(crate) KvmFd);

/// Opens `/dev/kvm`.
///
/// # Errors
/// [`HostError`] with what is missing and what to do.
pub fn open() -> Result<Kvm, HostError> {
    if kernel::RUNS_GUESTS {
        open_at(DEVICE)
    } else {
        Err(HostError::WrongArchitecture)
    }
}

fn open_at(device: &CStr) -> Result<Kvm, HostError> {
    let path = || device.to_string_lossy().into_owned();
    let kvm = KvmFd::open(device).map_err(|source| match source.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => HostError::NoDevice {
            path: path(),
            source,
        },
        libc::EACCES | libc::EPERM => HostError::PermissionDenied {
            access: describe_access(&path()),
            path: path(),
            source,
        },
        _ => HostError::Open {
            path: path(),
            source,
        },
    })?;
    let found = kvm.api_version();
    if u32::try_from(found) != Ok(KVM_API_VERSION) {
        return Err(HostError::ApiVersion {
            path: path(),
            found,
        });
    }
    Ok(Kvm(kvm))
}

/// Who may open `path`, for an error message.
fn describe_access(path: &str) -> String {
    match std::fs::metadata(path) {
        Ok(metadata) => format!(
            "it belongs to user id {} and group id {}, mode {:o}",
            metadata.uid(),
            metadata.gid(),
            metadata.mode() & 0o7777
        ),
        Err(error) => format!("its owner is unknown ({error})"),
    }
}

/// Makes a virtual machine that runs in hypervisor mode (KVM_VM_PPC_HV). KVM's default would
/// silently fall back to emulating privileged instructions (PR), where there is no VFIO.
///
/// # Errors
/// [`HostError::CreateVm`].
pub fn create_vm(kvm: &Kvm) -> Result<Vm, HostError> {
    let vm = kvm.0.create_vm(KVM_VM_PPC_HV);
    vm.map(Vm).map_err(HostError::CreateVm)
}

/// Checks that guests of `vm` can use the radix MMU. (A capability of the VM: `/dev/kvm` itself
/// answers for the host's default kind of VM.)
///
/// # Errors
/// [`HostError::NoRadix`].
pub fn require_radix(vm: &Vm) -> Result<(), HostError> {
    if capability(vm, KVM_CAP_PPC_MMU_RADIX) > 0 {
        Ok(())
    } else {
        Err(HostError::NoRadix)
    }
}

/// Whether KVM says that a TCE table can be made for a window and bound to an IOMMU group, asked
/// without making a VM. See [`Capabilities`] for how little a yes proves.
pub fn binds_tce_tables(kvm: &Kvm) -> bool {
    [KVM_CAP_SPAPR_TCE_64, KVM_CAP_SPAPR_TCE_VFIO]
        .into_iter()
        .all(|capability| kvm.0.check_extension(capability) > 0)
}

/// KVM_CHECK_EXTENSION on the VM: 0 for "no", else a number that the capability defines.
fn capability(vm: &Vm, capability: u32) -> u32 {
    // An error (negative) can only mean that this kernel does not know the capability.
    u32::try_from(vm.0.check_extension(capability)).unwrap_or(0)
}

/// What KVM offers to a VM, as far as this program makes use of it.
///
/// That the TCE capabilities are offered proves little: Linux 6.12 offers them on every Book3S-64
/// host (`kvm_vm_ioctl_check_extension` in arch/powerpc/kvm/powerpc.c). Whether a table can be
/// bound to a group is known only once that was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// TCE tables of any size and page size (KVM_CAP_SPAPR_TCE_64).
    pub spapr_tce_64: bool,
    /// TCE tables can be bound to IOMMU groups (KVM_CAP_SPAPR_TCE_VFIO).
    pub spapr_tce_vfio: bool,
    /// H_PUT_TCE_INDIRECT and H_STUFF_TCE can be handled in the kernel (KVM_CAP_SPAPR_MULTITCE).
    pub spapr_multitce: bool,
    /// Hypercalls can be switched between kernel and user space (KVM_CAP_PPC_ENABLE_HCALL).
    pub enable_hcall: bool,
    /// RTAS calls of the interrupt controller can be handled in the kernel (KVM_CAP_PPC_RTAS).
    pub rtas: bool,
    /// An in-kernel XICS interrupt controller (KVM_CAP_IRQ_XICS).
    pub irq_xics: bool,
    /// An in-kernel XIVE interrupt controller in native exploitation mode (KVM_CAP_PPC_IRQ_XIVE).
    pub irq_xive: bool,
    /// Level-triggered interrupts by irqfd (KVM_CAP_IRQFD_RESAMPLE); not on hosts with XIVE.
    pub irqfd_resample: bool,
    /// Interrupts can be taken with the MMU on (KVM_CAP_PPC_AIL_MODE_3).
    pub ail_mode_3: bool,
    /// KVM tells the CPU's speculation behaviour (KVM_CAP_PPC_GET_CPU_CHAR).
    pub get_cpu_char: bool,
    /// H_RPT_INVALIDATE can be handled in the kernel (KVM_CAP_PPC_RPT_INVALIDATE).
    pub rpt_invalidate: bool,
    /// Memory slots of a VM.
    pub max_memory_slots: u32,
    /// vCPUs of a VM.
    pub max_vcpus: u32,
    /// One more than the largest vCPU id.
    pub max_vcpu_id: u32,
}

impl Capabilities {
    /// Checks that guests of a host whose pages have `host_page_bytes` can have a XIVE interrupt controller.
    ///
    /// # Errors
    /// Why they cannot.
    pub const fn check_xive(&self, host_page_bytes: u64) -> Result<(), NoXive> {
        if !self.irq_xive {
            Err(NoXive::NotOffered)
        } else if host_page_bytes != XIVE_PAGE_BYTES {
            Err(NoXive::PageSize(host_page_bytes))
        } else {
            Ok(())
        }
    }

    /// Checks that KVM has what every guest with such an interrupt controller needs, and, if
    /// `bulk_calls` are to be handled in the kernel from the start, that it can do that.
    ///
    /// # Errors
    /// [`HostError::NoCapability`].
    pub fn require(&self, controller: ControllerKind, bulk_calls: bool) -> Result<(), HostError> {
        let xics = controller == ControllerKind::Xics;
        let needed = [
            (self.irq_xics || !xics, "KVM_CAP_IRQ_XICS"),
            (self.rtas || !xics, "KVM_CAP_PPC_RTAS"),
            (self.enable_hcall || !bulk_calls, "KVM_CAP_PPC_ENABLE_HCALL"),
            (self.spapr_multitce || !bulk_calls, "KVM_CAP_SPAPR_MULTITCE"),
        ];
        match needed.iter().find(|(has, _)| !has) {
            Some(&(_, name)) => Err(HostError::NoCapability { name }),
            None => Ok(()),
        }
    }

    /// Asks KVM about `vm`.
    pub fn of(vm: &Vm) -> Self {
        let number = |id| capability(vm, id);
        let has = |id| number(id) > 0;
        let max_vcpus = number(KVM_CAP_MAX_VCPUS);
        Self {
            spapr_tce_64: has(KVM_CAP_SPAPR_TCE_64),
            spapr_tce_vfio: has(KVM_CAP_SPAPR_TCE_VFIO),
            spapr_multitce: has(KVM_CAP_SPAPR_MULTITCE),
            enable_hcall: has(KVM_CAP_PPC_ENABLE_HCALL),
            rtas: has(KVM_CAP_PPC_RTAS),
            irq_xics: has(KVM_CAP_IRQ_XICS),
            irq_xive: has(KVM_CAP_PPC_IRQ_XIVE),
            irqfd_resample: has(KVM_CAP_IRQFD_RESAMPLE),
            ail_mode_3: has(KVM_CAP_PPC_AIL_MODE_3),
            get_cpu_char: has(KVM_CAP_PPC_GET_CPU_CHAR),
            rpt_invalidate: has(KVM_CAP_PPC_RPT_INVALIDATE),
            max_memory_slots: number(KVM_CAP_NR_MEMSLOTS),
            max_vcpus,
            // Kernels without the capability number vCPUs below their count.
            max_vcpu_id: match number(KVM_CAP_MAX_VCPU_ID) {
                0 => max_vcpus,
                max => max,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_missing_device_says_which_module_to_load() {
        let error = open_at(c"/dev/no-such-kvm").unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, HostError::NoDevice { .. }), "{error:?}");
        assert!(text.contains("/dev/no-such-kvm") && text.contains("modprobe kvm-hv"));
        assert!(!text.contains(&error.source().unwrap().to_string()));
    }

    #[test]
    fn a_device_that_is_no_kvm_is_told_by_its_api_version() {
        let error = open_at(c"/dev/null").unwrap_err();
        assert!(matches!(error, HostError::ApiVersion { found: -1, .. }));
        assert!(error.to_string().contains("version -1, not 12"));
    }

    fn capabilities() -> Capabilities {
        Capabilities {
            spapr_tce_64: true,
            spapr_tce_vfio: true,
            spapr_multitce: true,
            enable_hcall: true,
            rtas: true,
            irq_xics: true,
            irq_xive: true,
            irqfd_resample: false,
            ail_mode_3: true,
            get_cpu_char: true,
            rpt_invalidate: true,
            max_memory_slots: 512,
            max_vcpus: 8,
            max_vcpu_id: 8,
        }
    }

    #[test]
    fn xive_needs_kvms_word_and_pages_of_its_size() {
        let has = capabilities();
        let lacks = Capabilities {
            irq_xive: false,
            ..has
        };
        assert_eq!(has.check_xive(0x1_0000), Ok(()));
        assert_eq!(has.check_xive(0x1000), Err(NoXive::PageSize(0x1000)));
        assert_eq!(lacks.check_xive(0x1_0000), Err(NoXive::NotOffered));
    }

    #[test]
    fn what_xics_takes_of_the_kernel_is_needed_for_xics_alone() {
        let host = Capabilities {
            irq_xics: false,
            rtas: false,
            ..capabilities()
        };
        assert!(host.require(ControllerKind::Xive, true).is_ok());
        let error = host.require(ControllerKind::Xics, true).unwrap_err();
        assert!(error.to_string().contains("KVM_CAP_IRQ_XICS"));
    }

    #[test]
    fn a_refused_permission_says_who_may_open_the_device() {
        assert!(describe_access("/dev/null").contains("user id 0 and group id 0, mode 666"));
    }
}
