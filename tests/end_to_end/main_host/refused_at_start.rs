//! Every call of KVM and VFIO that a guest with a device is set up by fails once: the message names
//! the call and the kernel's reason, the status is not 0, and the device can be used at once.

use crate::harness::Vmm;
use crate::harness::faults::{Answer, Fault};
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::refusal::DEFAULT_WINDOW_TABLE;
use crate::harness::refusal::request::*;

/// What EIO is called, in errors and in the engine's reasons.
const REASONS: [&str; 2] = ["Input/output error", "errno 5"];

/// The first field of `struct kvm_create_device`: which kind.
const XICS: (u64, u32) = (0, 3);
const XIVE: (u64, u32) = (0, 9);
const VFIO: (u64, u32) = (0, 4);
/// The second field of `struct kvm_device_attr`, the group: KVM_DEV_XICS_GRP_SOURCES,
/// KVM_DEV_XIVE_GRP_CTRL and KVM_DEV_VFIO_GROUP are the same number, and so are
/// KVM_DEV_XICS_GRP_CTRL and KVM_DEV_XIVE_GRP_SOURCE.
const XICS_SOURCES: (u64, u32) = (4, 1);
const XICS_CONTROL: (u64, u32) = (4, 2);
const XIVE_CONTROL: (u64, u32) = (4, 1);
const XIVE_SOURCE: (u64, u32) = (4, 2);
const VFIO_GROUP: (u64, u32) = (4, 1);
/// The third, the attribute's low half: an interrupt source, what is set of the controller, or what
/// is done with the group.
const TERMINAL_SOURCE: (u64, u32) = (8, 0x1100);
const FIRST_PROCESSOR_SOURCE: (u64, u32) = (8, 0);
const XIVE_NR_SERVERS: (u64, u32) = (8, 3);
const GROUP_ADD: (u64, u32) = (8, 1);
const GROUP_SET_SPAPR_TCE: (u64, u32) = (8, 3);
/// The first field of `struct kvm_enable_cap`.
const PAPR: (u64, u32) = (0, 68);
const IRQ_XICS: (u64, u32) = (0, 92);
const IRQ_XIVE: (u64, u32) = (0, 169);
/// The low half of the third field of `struct kvm_userspace_memory_region`, the guest's address:
/// pages of XIVE.
const THREAD_MANAGEMENT: (u64, u32) = (8, 0x031a_0000);
const TERMINAL_PAGES: (u64, u32) = (8, 0x1100 << 17);
const ENABLE_HCALL: (u64, u32) = (0, 104);

/// The third field of `struct vfio_irq_info` and of `struct vfio_irq_set`: which kind.
const MSI: &[(u64, u32)] = &[(8, 1)];
const ERROR_NOTICE: &[(u64, u32)] = &[(8, 3)];
const REQUEST_NOTICE: &[(u64, u32)] = &[(8, 4)];

/// A call that fails, and what comes of it.
struct Case {
    request: u32,
    fields: &'static [(u64, u32)],
    /// Such calls before it that are not the guest's machine's.
    spared: usize,
    options: &'static [&'static str],
    status: i32,
    message: &'static str,
}

/// A case of a run with no options but the device.
const fn case(
    request: u32,
    fields: &'static [(u64, u32)],
    status: i32,
    message: &'static str,
) -> Case {
    Case {
        request,
        fields,
        spared: 0,
        options: &[],
        status,
        message,
    }
}

impl Case {
    const fn after(mut self, spared: usize) -> Self {
        self.spared = spared;
        self
    }

    const fn with(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// Runs a guest that does nothing, with EIO for the call's first time.
    fn run(&self) -> Finished {
        let mut fault = Fault::once(self.request, Answer::Errno(libc::EIO)).after(self.spared);
        for &field in self.fields {
            fault = fault.with_field(field);
        }
        let vmm = Vmm::bare_metal("flood-guest", "lines=1").nvme();
        let vmm = self.options.iter().fold(vmm, |vmm, it| vmm.argument(it));
        let finished = vmm.with_fault(&fault).run();
        let what = self.message;
        assert!(fault.seen() > self.spared, "{what}: not called\n{finished}");
        let errors = finished.errors();
        assert!(!errors.contains("panicked"), "{what}\n{finished}");
        assert!(errors.contains(what), "{what}\n{finished}");
        assert!(
            REASONS.iter().any(|it| errors.contains(it)) || self.request == KVM_GET_API_VERSION,
            "{what}: no reason\n{finished}"
        );
        finished.assert_status(self.status);
        assert_nothing_is_left();
        finished
    }
}

fn run_all(cases: &[Case]) {
    for case in cases {
        let finished = case.run();
        let messages = finished.errors().matches("error: ").count();
        assert_eq!(messages, 1, "{}: not one error\n{finished}", case.message);
        assert_eq!(finished.console(), "", "{}\n{finished}", case.message);
    }
    Vmm::bare_metal("flood-guest", "lines=1")
        .nvme()
        .run()
        .assert_powered_off();
}

#[test]
fn a_call_of_kvm_that_fails_at_the_start_is_named() {
    run_all(&[
        case(KVM_GET_API_VERSION, &[], 2, "KVM API version -1"),
        case(KVM_CREATE_VM, &[], 2, "KVM_CREATE_VM"),
        case(KVM_GET_VCPU_MMAP_SIZE, &[], 2, "KVM_CREATE_VM"),
        case(
            KVM_SET_USER_MEMORY_REGION,
            &[],
            1,
            "KVM_SET_USER_MEMORY_REGION failed for slot 0",
        ),
        case(KVM_CREATE_VCPU, &[], 1, "processor 0"),
        case(KVM_ENABLE_CAP, &[PAPR], 1, "KVM_CAP_PPC_PAPR"),
        case(KVM_GET_SREGS, &[], 1, "KVM_GET_SREGS"),
        case(KVM_PPC_GET_RMMU_INFO, &[], 2, "KVM_PPC_GET_RMMU_INFO"),
        case(KVM_SET_ONE_REG, &[], 1, "KVM_SET_ONE_REG"),
        case(
            KVM_ENABLE_CAP,
            &[ENABLE_HCALL],
            1,
            "KVM_CAP_PPC_ENABLE_HCALL",
        )
        .with(&["--tce", "kernel"]),
        case(KVM_IRQFD, &[], 1, "KVM_IRQFD"),
        // The kernel's check of lists was tried by two, in a VM of its own.
        case(KVM_SET_REGS, &[], 1, "set the vCPU's registers").after(2),
    ]);
}

#[test]
fn a_call_that_makes_xics_and_fails_is_named() {
    const WITH_XICS: &[&str] = &["--interrupt-controller", "xics"];
    run_all(&[
        case(KVM_CREATE_DEVICE, &[XICS], 1, "KVM_DEV_TYPE_XICS").with(WITH_XICS),
        case(
            KVM_SET_DEVICE_ATTR,
            &[XICS_CONTROL],
            1,
            "KVM_DEV_XICS_NR_SERVERS",
        )
        .with(WITH_XICS),
        case(KVM_ENABLE_CAP, &[IRQ_XICS], 1, "KVM_CAP_IRQ_XICS").with(WITH_XICS),
        case(
            KVM_PPC_RTAS_DEFINE_TOKEN,
            &[],
            1,
            "KVM_PPC_RTAS_DEFINE_TOKEN",
        )
        .with(WITH_XICS),
        case(
            KVM_SET_DEVICE_ATTR,
            &[XICS_SOURCES, TERMINAL_SOURCE],
            1,
            "KVM_DEV_XICS_GRP_SOURCES",
        )
        .with(WITH_XICS),
    ]);
}

#[test]
fn a_call_that_makes_xive_and_fails_is_named() {
    run_all(&[
        case(KVM_CREATE_DEVICE, &[XIVE], 1, "KVM_DEV_TYPE_XIVE"),
        case(
            KVM_SET_DEVICE_ATTR,
            &[XIVE_CONTROL, XIVE_NR_SERVERS],
            1,
            "KVM_DEV_XIVE_NR_SERVERS",
        ),
        case(
            KVM_SET_USER_MEMORY_REGION,
            &[THREAD_MANAGEMENT],
            1,
            "thread interrupt management area",
        ),
        case(
            KVM_SET_DEVICE_ATTR,
            &[XIVE_SOURCE, FIRST_PROCESSOR_SOURCE],
            1,
            "KVM_DEV_XIVE_GRP_SOURCE",
        ),
        case(KVM_ENABLE_CAP, &[IRQ_XIVE], 1, "KVM_CAP_PPC_IRQ_XIVE"),
        case(
            KVM_SET_DEVICE_ATTR,
            &[XIVE_SOURCE, TERMINAL_SOURCE],
            1,
            "KVM_DEV_XIVE_GRP_SOURCE",
        ),
        case(
            KVM_SET_USER_MEMORY_REGION,
            &[TERMINAL_PAGES],
            1,
            "the pages of sources",
        ),
    ]);
}

#[test]
fn a_call_that_takes_the_device_and_fails_is_named() {
    run_all(&[
        case(KVM_CREATE_DEVICE, &[VFIO], 1, "KVM_DEV_TYPE_VFIO"),
        case(VFIO_GROUP_GET_STATUS, &[], 2, "VFIO_GROUP_GET_STATUS"),
        case(VFIO_GET_API_VERSION, &[], 2, "VFIO_GET_API_VERSION"),
        case(VFIO_CHECK_EXTENSION, &[], 2, "VFIO_CHECK_EXTENSION"),
        case(VFIO_GROUP_SET_CONTAINER, &[], 2, "VFIO_GROUP_SET_CONTAINER"),
        case(
            VFIO_SET_IOMMU,
            &[],
            2,
            "v2 SPAPR TCE container (VFIO_SET_IOMMU)",
        )
        .with(&["--iommu", "v2"]),
        case(
            VFIO_IOMMU_SPAPR_TCE_GET_INFO,
            &[],
            2,
            "VFIO_IOMMU_SPAPR_TCE_GET_INFO",
        ),
        case(
            VFIO_IOMMU_SPAPR_TCE_REMOVE,
            &[],
            2,
            "VFIO_IOMMU_SPAPR_TCE_REMOVE",
        ),
        case(VFIO_GROUP_GET_DEVICE_FD, &[], 2, "VFIO_GROUP_GET_DEVICE_FD"),
        case(VFIO_DEVICE_GET_INFO, &[], 2, "VFIO_DEVICE_GET_INFO"),
        case(
            VFIO_DEVICE_GET_REGION_INFO,
            &[],
            2,
            "VFIO_DEVICE_GET_REGION_INFO",
        ),
        case(VFIO_DEVICE_RESET, &[], 2, "VFIO_DEVICE_RESET"),
    ]);
}

/// With `--lock attach` the window is made and all memory locked before the guest starts.
#[test]
fn a_window_that_cannot_be_made_at_the_start_is_named() {
    const ATTACH: &[&str] = &["--lock", "attach"];
    const V1: &[&str] = &["--lock", "attach", "--iommu", "v1"];
    for case in [
        case(
            VFIO_IOMMU_SPAPR_TCE_CREATE,
            &[],
            2,
            "VFIO_IOMMU_SPAPR_TCE_CREATE",
        )
        .with(ATTACH),
        case(
            VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
            &[],
            2,
            "VFIO_IOMMU_SPAPR_REGISTER_MEMORY",
        )
        .with(ATTACH),
        case(VFIO_IOMMU_ENABLE, &[], 2, "VFIO_IOMMU_ENABLE").with(V1),
    ] {
        let finished = case.run();
        assert_eq!(finished.console(), "", "{finished}");
    }
}

/// What only makes things faster is no error. With XIVE its number of servers would be taken for the
/// binding: the numbers are the same.
#[test]
fn a_window_that_cannot_be_bound_at_the_start_is_left_to_user_space() {
    const GROUP_ADD_FIELDS: &[(u64, u32)] = &[VFIO_GROUP, GROUP_ADD];
    const SET_SPAPR_TCE: &[(u64, u32)] = &[VFIO_GROUP, GROUP_SET_SPAPR_TCE];
    const THE_WINDOW: &[(u64, u32)] = &[DEFAULT_WINDOW_TABLE];
    const ATTACH: &[&str] = &["--lock", "attach"];
    const WITH_XICS: &[&str] = &["--interrupt-controller", "xics"];
    for (case, memory_is_locked) in [
        (
            binding(
                KVM_CREATE_SPAPR_TCE_64,
                THE_WINDOW,
                "KVM_CREATE_SPAPR_TCE_64",
            ),
            false,
        ),
        (
            binding(
                KVM_CREATE_SPAPR_TCE_64,
                THE_WINDOW,
                "KVM_CREATE_SPAPR_TCE_64",
            )
            .with(ATTACH),
            true,
        ),
        (
            binding(KVM_SET_DEVICE_ATTR, GROUP_ADD_FIELDS, "KVM_DEV_VFIO_GROUP").with(WITH_XICS),
            false,
        ),
        (
            binding(
                KVM_SET_DEVICE_ATTR,
                SET_SPAPR_TCE,
                "KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE",
            )
            .with(WITH_XICS),
            false,
        ),
    ] {
        let finished = case.run().assert_powered_off();
        assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
        let locked = finished.number("/memory/peak_locked_bytes");
        assert_eq!(locked > 0, memory_is_locked, "{finished}");
    }
}

/// A case of a call that binds the default window.
const fn binding(request: u32, fields: &'static [(u64, u32)], message: &'static str) -> Case {
    case(request, fields, 0, message)
}

/// What fails when the guest is there already, or when it has ended.
#[test]
fn what_a_guest_can_do_without_is_logged() {
    for irq in [ERROR_NOTICE, MSI] {
        case(VFIO_DEVICE_GET_IRQ_INFO, irq, 0, "VFIO_DEVICE_GET_IRQ_INFO").run();
    }
    case(
        VFIO_DEVICE_SET_IRQS,
        REQUEST_NOTICE,
        0,
        "VFIO_DEVICE_SET_IRQS",
    )
    .run();
    case(
        VFIO_GROUP_UNSET_CONTAINER,
        &[],
        0,
        "VFIO_GROUP_UNSET_CONTAINER",
    )
    .run();
}
