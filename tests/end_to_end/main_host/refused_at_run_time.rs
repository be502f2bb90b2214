//! Every call that serves a guest's DMA fails once while the guest runs: it gets the documented code,
//! its table shows what is mapped, and the same call then succeeds.

use std::slice;

use crate::harness::faults::{Answer, Fault};
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::refusal::request::*;
use crate::harness::refusal::{DEFAULT_WINDOW_TABLE, KVM_CAP_SPAPR_TCE_VFIO, Refusal};
use crate::harness::tce_calls::{H_HARDWARE, H_NOT_ENOUGH_RESOURCES, H_SUCCESS, TceCalls};
use crate::harness::vmm::Vmm;

/// An entry that maps a page, as the guest writes it and as it is read back.
const ENTRY: &str = "4000003";
const ENTRY_VALUE: u64 = 0x400_0003;

/// The fields of `struct kvm_device_attr` for KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE. They are the same for
/// KVM_DEV_XIVE_NR_SERVERS, which is set at the start.
const VFIO_GROUP: (u64, u32) = (4, 1);
const SET_SPAPR_TCE: (u64, u32) = (8, 3);

fn errno(request: u32, errno: i32) -> Fault {
    Fault::once(request, Answer::Errno(errno))
}

/// Has the guest make these calls, and then power off.
fn make(vmm: Vmm, calls: &[(&str, (i64, u64))]) -> Finished {
    let mut guest = TceCalls::start(vmm);
    for (call, expected) in calls {
        let (code, value) = guest.make(call);
        // Only H_GET_TCE returns a value.
        let value = if call.starts_with("get") { value } else { 0 };
        assert_eq!((code, value), *expected, "{call}");
    }
    let finished = guest.power_off();
    assert!(!finished.errors().contains("panicked"), "{finished}");
    finished
}

/// As [`make`], with a fault and for a guest that powers off as it should.
fn make_with(fault: &Fault, options: &[&str], calls: &[(&str, (i64, u64))]) -> Finished {
    let vmm = options
        .iter()
        .fold(TceCalls::vmm(), |vmm, option| vmm.argument(option));
    let finished = make(vmm.with_fault(fault), calls).assert_powered_off();
    assert!(fault.seen() > 0, "{fault:?}: not called\n{finished}");
    assert_nothing_is_left();
    finished
}

const DONE: (i64, u64) = (H_SUCCESS, 0);
const REFUSED: (i64, u64) = (H_NOT_ENOUGH_RESOURCES, 0);
const HARDWARE: (i64, u64) = (H_HARDWARE, 0);
const MAPPED: (i64, u64) = (H_SUCCESS, ENTRY_VALUE);

/// How often the VMM asks for memory to be locked when the host says that it is out of it.
const LOCKING_IS_TRIED: usize = 3;

/// A positive return of VFIO_IOMMU_SPAPR_REGISTER_MEMORY is how many pages the kernel pinned before
/// it gave up.
const PARTIAL: Answer = Answer::Value(5);

#[test]
fn a_map_that_the_host_refuses_is_told_and_succeeds_when_made_again() {
    let put = format!("put 1000 {ENTRY}");
    let list = format!("list 1000 {ENTRY} 8");
    for (fault, times, message) in [
        (
            errno(VFIO_IOMMU_SPAPR_REGISTER_MEMORY, libc::ENOMEM),
            LOCKING_IS_TRIED,
            "VFIO_IOMMU_SPAPR_REGISTER_MEMORY failed: Cannot allocate memory",
        ),
        (
            errno(VFIO_IOMMU_SPAPR_REGISTER_MEMORY, libc::EINVAL),
            1,
            "VFIO_IOMMU_SPAPR_REGISTER_MEMORY failed: Invalid argument",
        ),
        (
            Fault::once(VFIO_IOMMU_SPAPR_REGISTER_MEMORY, PARTIAL),
            LOCKING_IS_TRIED,
            "pinned only part of the memory (5 pages",
        ),
    ] {
        for call in [&put, &list] {
            let faults: Vec<Fault> = (0..times).map(|_| fault.clone().fresh()).collect();
            let finished = refused_once(TceCalls::vmm(), call, &faults, message);
            assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
        }
    }
    // Once memory is locked, a single entry of a bound window is the kernel's.
    let fault = errno(VFIO_IOMMU_MAP_DMA, libc::EIO);
    let message = "VFIO_IOMMU_MAP_DMA): Input/output error";
    let finished = refused_once(TceCalls::vmm(), &list, slice::from_ref(&fault), message);
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    let user = TceCalls::vmm().option("--tce", "user");
    refused_once(user, &put, &[fault.fresh()], message);
}

/// Has a guest make a call that maps, of which the host refuses something once, and then again.
#[track_caller]
fn refused_once(vmm: Vmm, call: &str, faults: &[Fault], message: &str) -> Finished {
    let calls = [
        (call, REFUSED),
        ("get 1000", DONE),
        (call, DONE),
        ("get 1000", MAPPED),
        ("stuff 1000 8", DONE),
    ];
    let vmm = faults.iter().fold(vmm, |vmm, fault| vmm.with_fault(fault));
    let finished = make(vmm, &calls).assert_powered_off();
    assert!(faults.iter().all(|fault| fault.seen() > 0), "{finished}");
    assert_nothing_is_left();
    assert!(finished.errors().contains(message), "{message}\n{finished}");
    assert_eq!(finished.number("/windows/0/failures"), 1, "{finished}");
    finished
}

/// A page that the host cannot move at the moment, to pin it for long, can be moved a little later.
#[test]
fn memory_that_cannot_be_locked_for_a_moment_is_locked_without_the_guest_noticing() {
    let put = format!("put 1000 {ENTRY}");
    for answer in [Answer::Errno(libc::ENOMEM), PARTIAL] {
        let fault = Fault::once(VFIO_IOMMU_SPAPR_REGISTER_MEMORY, answer);
        let calls = [(put.as_str(), DONE), ("get 1000", MAPPED)];
        let finished = make_with(&fault, &[], &calls);
        // Two tries, and at the end a look whether the host holds on to the memory.
        assert_eq!(fault.seen(), 3, "{finished}");
        assert_eq!(finished.number("/windows/0/failures"), 0, "{finished}");
    }
}

/// It is made before the guest runs, so that it can be bound. Later on other processors may be making
/// calls for it, of which the kernel would lose those between the making of its table and the binding.
#[test]
fn a_window_that_the_host_refused_at_the_start_is_made_on_the_first_entry_without_the_kernel() {
    let fault = errno(VFIO_IOMMU_SPAPR_TCE_CREATE, libc::EIO);
    let put = format!("put 1000 {ENTRY}");
    let calls = [(put.as_str(), DONE), ("get 1000", MAPPED)];
    let finished = make_with(&fault, &[], &calls);
    assert!(
        finished.errors().contains("VFIO_IOMMU_SPAPR_TCE_CREATE"),
        "{finished}"
    );
    assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
    let reason = finished.stat("/windows/0/reason").as_str();
    assert!(
        reason.is_some_and(|it| it.contains("only after the guest could use it")),
        "{finished}"
    );
}

#[test]
fn a_map_is_refused_while_the_host_makes_no_window() {
    let first = errno(VFIO_IOMMU_SPAPR_TCE_CREATE, libc::EIO);
    let second = first.clone().fresh();
    let put = format!("put 1000 {ENTRY}");
    let vmm = TceCalls::vmm().with_fault(&first).with_fault(&second);
    let calls = [(put.as_str(), REFUSED), (&put, DONE), ("get 1000", MAPPED)];
    let finished = make(vmm, &calls).assert_powered_off();
    assert_eq!(finished.number("/windows/0/failures"), 1, "{finished}");
    assert_nothing_is_left();
}

/// More levels are tried: the kernel may have had no table in one piece.
#[test]
fn a_window_that_does_not_fit_into_one_piece_gets_more_levels() {
    let fault = errno(VFIO_IOMMU_SPAPR_TCE_CREATE, libc::ENOMEM);
    let put = format!("put 1000 {ENTRY}");
    let calls = [(put.as_str(), DONE), ("get 1000", MAPPED)];
    let finished = make_with(&fault, &["--log", "info"], &calls);
    assert_eq!(fault.seen(), 2, "{finished}");
    assert!(finished.errors().contains("2 table levels"), "{finished}");
}

#[test]
fn an_unmap_that_the_host_refuses_leaves_the_entry_in_view() {
    let put = format!("put 1000 {ENTRY}");
    for unmap in ["put 1000 0", "stuff 1000 1"] {
        let fault = errno(VFIO_IOMMU_UNMAP_DMA, libc::EIO);
        let calls = [
            (put.as_str(), DONE),
            (unmap, HARDWARE),
            ("get 1000", MAPPED),
            (unmap, DONE),
            ("get 1000", DONE),
        ];
        let finished = make_with(&fault, &["--tce", "user"], &calls);
        let message = "VFIO_IOMMU_UNMAP_DMA): Input/output error";
        assert!(finished.errors().contains(message), "{finished}");
        assert_eq!(finished.number("/windows/0/failures"), 1, "{finished}");
    }
}

/// The calls after which everything works, served in user space for this reason.
fn assert_served_in_user_space(vmm: Vmm, reason: &str) -> Finished {
    let put = format!("put 1000 {ENTRY}");
    let list = format!("list 2000 {ENTRY} 8");
    let calls = [
        (put.as_str(), DONE),
        ("get 1000", MAPPED),
        (&list, DONE),
        ("get 2000", MAPPED),
        ("stuff 1000 9", DONE),
        ("get 2000", DONE),
    ];
    let finished = make(vmm, &calls).assert_powered_off();
    assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
    let told = finished.stat("/windows/0/reason").as_str();
    assert!(told.is_some_and(|it| it.contains(reason)), "{finished}");
    let logged = finished.errors().matches(reason).count();
    assert_eq!(logged, 1, "{finished}");
    assert_eq!(finished.number("/windows/0/failures"), 0, "{finished}");
    assert_nothing_is_left();
    finished
}

#[test]
fn what_the_kernel_does_not_serve_is_served_in_user_space() {
    let set = errno(KVM_SET_DEVICE_ATTR, libc::EINVAL)
        .with_field(VFIO_GROUP)
        .with_field(SET_SPAPR_TCE)
        // And once more before the group was added.
        .after(2);
    for (fault, reason) in [
        (
            errno(KVM_CREATE_SPAPR_TCE_64, libc::ENOMEM).with_field(DEFAULT_WINDOW_TABLE),
            "KVM_CREATE_SPAPR_TCE_64 failed: Cannot allocate memory",
        ),
        (
            set,
            "KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE failed: Invalid argument",
        ),
        // No v2 container, so v1.
        (
            errno(VFIO_SET_IOMMU, libc::EPERM),
            "the container is of version 1",
        ),
    ] {
        let finished = assert_served_in_user_space(TceCalls::vmm().with_fault(&fault), reason);
        assert!(fault.seen() > 0, "{finished}");
    }
    let no_capability = Refusal {
        request: KVM_CHECK_EXTENSION,
        argument: Some(KVM_CAP_SPAPR_TCE_VFIO),
        errno: 0,
    };
    let vmm = TceCalls::vmm().refusing(no_capability);
    assert_served_in_user_space(vmm, "KVM_CAP_SPAPR_TCE_VFIO");
}

#[test]
fn interrupts_that_the_host_refuses_are_a_hardware_error() {
    // Those of the terminal and of power events come first.
    let irqfd = errno(KVM_IRQFD, libc::EIO).after(2);
    // Those of the device's notices, too.
    let set_irqs = errno(VFIO_DEVICE_SET_IRQS, libc::EIO).after(2);
    for (fault, message) in [(irqfd, "KVM_IRQFD"), (set_irqs, "VFIO_DEVICE_SET_IRQS")] {
        let calls = [("msi 1", HARDWARE), ("msi 1", DONE), ("msi 0", DONE)];
        let finished = make_with(&fault, &[], &calls);
        assert!(finished.errors().contains(message), "{finished}");
    }
}

/// The guest has ended by then; the kernel gives everything back when the VMM's process has.
#[test]
fn what_cannot_be_given_back_is_an_error() {
    let put = format!("put 1000 {ENTRY}");
    for (fault, message) in [
        // The first removes the window that a container has from the start.
        (
            errno(VFIO_IOMMU_SPAPR_TCE_REMOVE, libc::EIO).after(1),
            "VFIO_IOMMU_SPAPR_TCE_REMOVE",
        ),
        (
            errno(VFIO_DEVICE_RESET, libc::EIO).after(1),
            "VFIO_DEVICE_RESET",
        ),
    ] {
        let vmm = TceCalls::vmm().with_fault(&fault);
        let finished = make(vmm, &[(&put, DONE)]);
        assert!(fault.seen() > 1, "{finished}");
        finished.assert_status(1);
        let given_back = "not given back whole";
        assert!(finished.errors().contains(given_back), "{finished}");
        assert!(
            finished.errors().contains("Input/output error"),
            "{message}\n{finished}"
        );
        assert_nothing_is_left();
    }
}
