//! Dynamic DMA windows: all of the guest's memory in one window, in base pages and in huge ones.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::Vmm;
use crate::harness::faults::{Answer, Fault};
use crate::harness::finished::Finished;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{
    HugePages, assert_nothing_is_left, give_to_user, group_node, is_lpar, open_to_all, page_bytes,
};
use crate::harness::jobs::{READ_HEAD, READ_SMALL, WAIT_FOR_NVME, head_sha256};
use crate::harness::kernel_log::KernelLog;
use crate::harness::refusal::request::{VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_SPAPR_REGISTER_MEMORY};
use crate::harness::vmm::User;

/// Shows what the kernel said of windows, and reads the NVMe.
pub(crate) fn read_with(options: &[&str]) -> Finished {
    let log = "dmesg | grep -e pe-dma-window | sed 's/^/LAB-WINDOW /'\n";
    let job = [WAIT_FOR_NVME, log, READ_HEAD, READ_SMALL].concat();
    let vmm = Vmm::job(&job).nvme_with_windows();
    let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
    finished
}

/// Fails unless the guest made a dynamic window for all of its memory and mapped it once.
#[track_caller]
pub(crate) fn assert_all_is_mapped(finished: &Finished, memory_bytes: u64, page_bytes: u64) {
    assert_all_is_mapped_behind(0, finished, memory_bytes, page_bytes);
}

/// The same of a guest whose device is behind host bridge `bridge`.
#[track_caller]
pub(crate) fn assert_all_is_mapped_behind(
    bridge: u8,
    finished: &Finished,
    memory_bytes: u64,
    page_bytes: u64,
) {
    assert!(
        finished
            .console()
            .contains("ibm,create-pe-dma-window(2027)"),
        "{finished}"
    );
    assert_eq!(
        finished.stat("/windows/1/liobn"),
        &json!(format!("{:#x}", 0x8000_0001 | u32::from(bridge) << 8)),
        "{finished}"
    );
    assert_eq!(finished.stat("/windows/1/path"), "bound", "{finished}");
    assert_eq!(
        finished.number("/windows/1/bus_offset"),
        1 << 59,
        "{finished}"
    );
    assert_eq!(
        finished.number("/windows/1/page_size"),
        page_bytes,
        "{finished}"
    );
    let entries = memory_bytes / page_bytes;
    assert_eq!(finished.number("/windows/1/entries"), entries, "{finished}");
    assert_eq!(finished.number("/windows/1/tces"), entries, "{finished}");
    // Lists of 512 entries, each a contiguous run, or as many as there are regions in it.
    let region_entries = finished.number("/memory/region_bytes") / page_bytes;
    let runs = entries / region_entries.min(512);
    assert_eq!(finished.number("/windows/1/map_ioctls"), runs, "{finished}");
    assert_eq!(
        finished.number("/memory/peak_locked_bytes"),
        memory_bytes,
        "{finished}"
    );
}

#[test]
fn a_guest_maps_all_of_its_memory_once() {
    let finished = read_with(&["--memory", "2G"]);
    assert_all_is_mapped(&finished, 2 << 30, page_bytes());
}

#[test]
fn without_dynamic_windows_a_guest_uses_the_default_one() {
    let finished = read_with(&["--memory", "2G", "--ddw", "off"]);
    assert!(!finished.console().contains("pe-dma-window"), "{finished}");
    assert!(finished.tce_calls("H_PUT_TCE_INDIRECT") > 0, "{finished}");
}

#[test]
fn a_guest_in_huge_pages_has_a_window_of_huge_pages() {
    let _pages = HugePages::take(2048);
    let finished = read_with(&["--memory", "4G", "--hugepages", "2M"]);
    assert_all_is_mapped(&finished, 4 << 30, 2 << 20);
    assert_eq!(finished.number("/memory/page_bytes"), 2 << 20, "{finished}");
}

/// A guest that makes and removes windows in odd orders, with pages of the host's size.
fn odd_orders(more: &str) -> Vmm {
    Vmm::bare_metal("window-orders-guest", &with_page(more)).nvme_with_windows()
}

fn with_page(more: &str) -> String {
    format!("page={} {more}", page_bytes().ilog2())
}

/// An LPAR's kernel gives a device no window any more, until the LPAR restarts, after one that its platform or it
/// failed to make: two of the guest's own do that.
#[test]
fn after_a_guest_that_makes_and_removes_windows_in_odd_orders_the_next_has_its_own() {
    let kernel_log = KernelLog::from_now();
    for default in ["stays", "gone"] {
        let vmm = odd_orders(&format!("default={default}"));
        let finished = vmm.run().assert_powered_off();
        let console = finished.console();
        assert!(console.contains("WINDOW-ORDERS-DONE"), "{finished}");
        let most = if is_lpar() { "most=1" } else { "most=2" };
        assert!(console.contains(most), "{finished}");
        assert_nothing_is_left();
    }
    kernel_log.assert_no_complaint();
    assert_all_is_mapped(&read_with(&[]), 1 << 30, page_bytes());
}

/// More of the same that takes its time.
mod long {
    use super::*;

    /// The guest of the test above, that goes on for ever.
    const WITHOUT_END: &str = "rounds=1000000";
    const ROUND: &str = "WINDOW-ORDERS-ROUND";

    fn crashes() {
        let job = [WAIT_FOR_NVME, READ_HEAD, "echo c >/proc/sysrq-trigger\n"].concat();
        let finished = Vmm::job(&job).nvme_with_windows().run();
        finished.assert_status(1);
        assert_eq!(finished.stat("/outcome"), "os-term", "{finished}");
    }

    /// Refused when its default window has been made.
    fn is_refused_late() {
        let fault = Fault::once(
            VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
            Answer::Errno(libc::EINVAL),
        );
        let vmm = Vmm::linux().nvme_with_windows().with_fault(&fault);
        let finished = vmm.option("--lock", "attach").run();
        assert!(fault.seen() > 0, "{finished}");
        finished.assert_status(2);
    }

    /// The limit allows the default window, and not what one for all of memory takes.
    fn may_lock_too_little() {
        let _kvm = open_to_all(Path::new("/dev/kvm"));
        let _group = give_to_user(&group_node());
        let user = User {
            memlock: (1 << 30) - (64 << 20),
        };
        let job = [WAIT_FOR_NVME, READ_HEAD].concat();
        let finished = Vmm::job(&job).nvme_with_windows().run_by(user).run();
        let finished = finished.assert_job_done();
        assert!(finished.errors().contains("no DMA window of"), "{finished}");
    }

    /// The guest cannot map its memory in the window that it has made.
    fn cannot_map() {
        let fault = Fault::always(VFIO_IOMMU_MAP_DMA, Answer::Errno(libc::EIO));
        let vmm = Vmm::job("true").nvme_with_windows().with_fault(&fault);
        let finished = vmm.run();
        assert!(fault.seen() > 0, "{finished}");
    }

    fn is_ended_by(signal: Signal) {
        let mut running = odd_orders(WITHOUT_END).start();
        running.wait_for_console(ROUND, 2);
        running.signal(signal);
        running.finish();
    }

    fn is_ended_by_its_monitor() {
        let front_end = FrontEnd::bare_metal("window-orders-guest", &with_page(WITHOUT_END)).nvme();
        let (mut running, mut monitor) = front_end.start();
        running.wait_for_console(ROUND, 2);
        monitor.ask("quit");
        running.finish().assert_status(0);
    }

    #[test]
    fn after_a_run_that_failed_or_was_ended_in_the_midst_of_making_windows_the_next_has_its_own() {
        let failures: [(&str, &dyn Fn()); 7] = [
            ("a guest that crashed", &crashes),
            ("a start that was refused late", &is_refused_late),
            ("a limit too low", &may_lock_too_little),
            ("a guest that cannot map", &cannot_map),
            ("SIGTERM", &|| is_ended_by(Signal::TERM)),
            ("SIGKILL", &|| is_ended_by(Signal::KILL)),
            ("quit", &is_ended_by_its_monitor),
        ];
        for (failure, run) in failures {
            run();
            assert_nothing_is_left();
            // It has two windows, and each of them can be made and removed.
            let finished = odd_orders("").run().assert_powered_off();
            let console = finished.console();
            assert!(
                console.contains("WINDOW-ORDERS-DONE"),
                "{failure}: {finished}"
            );
        }
        assert_all_is_mapped(&read_with(&[]), 1 << 30, page_bytes());
    }
}
