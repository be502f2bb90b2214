//! The VMM is ended from outside in the middle of DMA.

use rustix::process::Signal;

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, locked_bytes, pinned_pages};
use crate::harness::jobs::{READ_FOR_EVER, READ_HEAD, WAIT_FOR_NVME, head_sha256};

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
