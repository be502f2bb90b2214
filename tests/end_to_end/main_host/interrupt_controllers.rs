//! XIVE and XICS: what a guest does with its interrupts is the same under both.

use crate::harness::Vmm;
use crate::harness::finished::{Finished, WHY_XICS};
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interrupts::NAME_CONTROLLER;
use crate::harness::jobs::{READ_ALL, READ_SMALL, SMALL_READS, WAIT_FOR_NVME, data_sha256};
use crate::harness::refusal::{KVM_CAP_PPC_IRQ_XIVE, Refusal, request};

/// Interrupts of the NVMe so far, and of processors by each other.
const COUNT_INTERRUPTS: &str = "
count() { awk -v what=$1 '$0 ~ what { for (i = 2; i <= 5; i++) sum += $i } END { print sum + 0 }' \
    /proc/interrupts; }
echo LAB-GUEST-INTERRUPTS $(count nvme)
echo LAB-GUEST-IPIS $(count IPI)
";

/// Takes processors offline and online again, and has another handle each of the NVMe's interrupts
/// that lets itself be moved.
const MOVE_INTERRUPTS: &str = "
for round in 1 2; do
    for cpu in 3 2 1; do
        echo 0 >/sys/devices/system/cpu/cpu$cpu/online || exit 1
        dd if=/dev/nvme0n1 of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null || exit 1
    done
    for cpu in 1 2 3; do
        echo 1 >/sys/devices/system/cpu/cpu$cpu/online || exit 1
    done
    for irq in $(awk -F: '/hvc_console|RAS_EPOW/ { print $1 + 0 }' /proc/interrupts); do
        echo $round >/proc/irq/$irq/smp_affinity || exit 1
    done
done
echo LAB-GUEST-CPUS $(nproc)
";

/// Has a guest use all of it; what its kernel calls the interrupts of a controller.
fn use_interrupts(controller: &str, name: &str) -> Finished {
    let job = [
        WAIT_FOR_NVME,
        NAME_CONTROLLER,
        MOVE_INTERRUPTS,
        READ_SMALL,
        READ_ALL,
        COUNT_INTERRUPTS,
    ]
    .concat();
    let vmm = Vmm::job(&job)
        .nvme()
        .option("--cpus", "4")
        .option("--interrupt-controller", controller);
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("CONTROLLER"), name, "{finished}");
    assert_eq!(finished.guest("CPUS"), "4", "{finished}");
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    let count = |what: &str| -> u64 { finished.guest(what).parse().expect("a number") };
    // Reads may share one.
    assert!(count("INTERRUPTS") > SMALL_READS / 4, "{finished}");
    assert!(count("IPIS") > 10, "{finished}");
    assert_nothing_is_left();
    finished
}

#[test]
fn a_guest_with_xive_takes_interrupts_without_hypercalls() {
    let finished = use_interrupts("xive", "XIVE-IRQ");
    // To configure: some at the start, and for each processor and interrupt that moves.
    let calls = finished.stat("/hypercalls");
    let calls = calls.as_object().expect("counts by name");
    let of_xive = calls.iter().filter(|(name, _)| name.starts_with("H_INT_"));
    let of_xive: u64 = of_xive.filter_map(|(_, count)| count.as_u64()).sum();
    assert!((20..1_000).contains(&of_xive), "{finished}");
}

/// A host that offers no XIVE: one that is itself a guest, say.
fn without_xive() -> Refusal {
    Refusal {
        request: request::KVM_CHECK_EXTENSION,
        argument: Some(KVM_CAP_PPC_IRQ_XIVE),
        errno: 0,
    }
}

#[test]
fn a_guest_has_xics_where_kvm_offers_no_xive() {
    let vmm = Vmm::job(NAME_CONTROLLER).refusing(without_xive());
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("CONTROLLER"), "XICS", "{finished}");
    let why = format!("{WHY_XICS}KVM does not offer KVM_CAP_PPC_IRQ_XIVE");
    assert_eq!(finished.errors().matches(&why).count(), 1, "{finished}");
}

#[test]
fn xive_that_is_asked_for_where_kvm_offers_none_is_refused() {
    let vmm = Vmm::linux().option("--interrupt-controller", "xive");
    let finished = vmm.refusing(without_xive()).run();
    finished.assert_refused(&[
        "KVM_CAP_PPC_IRQ_XIVE",
        "--interrupt-controller: ",
        "xics works on any host",
    ]);
}

/// The same with the other controller.
mod long {
    use super::*;

    #[test]
    fn a_guest_with_xics_does_the_same() {
        use_interrupts("xics", "XICS");
    }
}
