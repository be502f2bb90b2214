//! The VMM is ended from outside in the middle of DMA.

use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::host::{
    assert_nothing_is_left, give_to_user, group_node, locked_bytes, open_to_all, pinned_pages,
};
use crate::harness::jobs::{READ_FOR_EVER, READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::kernel_log::KernelLog;
use crate::harness::tce_calls::TceCalls;
use crate::harness::vmm::User;

#[test]
fn whatever_signal_ends_the_vmm_the_next_run_has_the_device_at_once() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut running = Vmm::job(&[WAIT_FOR_NVME, READ_FOR_EVER].concat())
            .nvme()
            .start();
        running.wait_for_console("LAB-GUEST-LAP", 3);
        assert!(
            locked_bytes(running.id()) > 0,
            "the guest does DMA without locked memory"
        );
        assert!(
            pinned_pages() > 0,
            "the guest does DMA without pinned memory"
        );
        running.signal(signal);
        let finished = running.finish();
        assert_nothing_is_left();
        if signal == Signal::KILL {
            assert_eq!(finished.signal(), Some(9), "{finished}");
            continue;
        }
        finished.assert_status(1);
        assert_eq!(finished.stat("/outcome"), "signal", "{finished}");
        assert!(finished.number("/windows/0/map_ioctls") > 0, "{finished}");
        let name = if signal == Signal::TERM {
            "SIGTERM"
        } else {
            "SIGINT"
        };
        assert!(finished.errors().contains(name), "{finished}");
    }
    let finished = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat())
        .nvme()
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}

/// A group that KVM was told of and that is bound to no table makes it warn when the VM ends
/// (kvm_vfio_release in virt/kvm/vfio.c).
#[test]
fn a_vm_that_ends_before_its_guest_has_mapped_makes_the_hosts_kernel_warn_of_nothing() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    let kernel_log = KernelLog::from_now();
    for options in [&[][..], &["--tce", "user"], &["--iommu", "v1"]] {
        let with = |vmm, option: &&str| Vmm::argument(vmm, option);
        let vmm = options.iter().fold(TceCalls::vmm(), with);
        let mut running = vmm.stdin(Stdio::piped()).start();
        running.wait_for_console("TCE-CALL 0 ", 1);
        running.signal(Signal::KILL);
        assert_eq!(running.finish().signal(), Some(9));
        assert_nothing_is_left();
    }
    // One that gets as far as its container and is refused then.
    let memlock = 1 << 20;
    let refused = TceCalls::vmm().run_by(User { memlock }).run();
    refused.assert_status(2);
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}
