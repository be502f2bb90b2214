//! Which interrupt controller a guest has: XIVE on bare-metal hosts with pages of 64 KiB, XICS on the others.

use crate::harness::Vmm;
use crate::harness::finished::{Finished, WHY_XICS};
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{is_lpar, lab};
use crate::harness::interrupts::NAME_CONTROLLER;

/// Why a guest has no XIVE here, in the words of this program's; none where it has.
fn why_no_xive() -> Option<&'static str> {
    if is_lpar() {
        return Some("KVM_CAP_PPC_IRQ_XIVE");
    }
    (!lab("LAB_HOST").ends_with("-64k")).then_some("0x1000 bytes")
}

/// Fails unless the guest has what the host can give it, and why that is not XIVE was said once.
#[track_caller]
fn assert_the_better_one(finished: &Finished) {
    let why = why_no_xive();
    let controller = why.map_or("XIVE-IRQ", |_| "XICS");
    assert_eq!(finished.guest("CONTROLLER"), controller, "{finished}");
    let lines = finished.errors().lines();
    let said: Vec<&str> = lines
        .filter_map(|line| line.split_once(WHY_XICS))
        .map(|it| it.1)
        .collect();
    assert_eq!(said.len(), usize::from(why.is_some()), "{finished}");
    assert!(
        said.iter()
            .all(|said| said.contains(why.unwrap_or_default())),
        "{finished}"
    );
}

#[test]
fn a_guest_has_xive_and_where_the_host_has_none_for_it_xics_which_is_said_once() {
    let finished = Vmm::job(NAME_CONTROLLER).run().assert_job_done();
    assert_the_better_one(&finished);
    let vmm = Vmm::job(NAME_CONTROLLER).option("--interrupt-controller", "xics");
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("CONTROLLER"), "XICS", "{finished}");
    assert!(
        !finished.errors().contains(WHY_XICS),
        "asked for: {finished}"
    );
    if let Some(why) = why_no_xive() {
        let vmm = Vmm::job(NAME_CONTROLLER).option("--interrupt-controller", "xive");
        let finished = vmm.run();
        finished.assert_refused(&[why, "--interrupt-controller: ", "xics works on any host"]);
    }
}

/// libvirt writes `kernel_irqchip=on` for `<ioapic driver='kvm'/>`, and people type `ic-mode=xive` or `dual` for QEMU,
/// which ends on a host that cannot.
#[test]
fn a_machine_as_for_qemu_starts_whichever_controller_it_names() {
    let machine = |more: &str| {
        let front_end = FrontEnd::job(NAME_CONTROLLER);
        let (running, path) = front_end.option("-machine", more).start_alone();
        let finished = running.finish().assert_job_done();
        drop(path);
        finished
    };
    for more in ["ic-mode=xive,kernel_irqchip=on", "ic-mode=dual"] {
        assert_the_better_one(&machine(more));
    }
    let finished = machine("ic-mode=xics,kernel_irqchip=on");
    assert_eq!(finished.guest("CONTROLLER"), "XICS", "{finished}");
    assert!(
        !finished.errors().contains(WHY_XICS),
        "asked for: {finished}"
    );
}
