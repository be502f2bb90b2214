//! A guest that goes on to another kernel while its NVMe reads, by its own will (kexec) or because it
//! crashed (kdump): the next kernel finds the DMA windows as they were, and the NVMe works.

use std::fs;
use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, expect_on_nvme, page_bytes};
use crate::harness::jobs::{COUNT_CPUS, READ_ALL, READ_SMALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::scratch::{DUMP_BY_DEFAULT_WINDOW, DUMP_BY_DYNAMIC_WINDOW, Part};
use crate::harness::tce_handlers::Handler;
use crate::harness::vmm::{INITRD, KERNEL, job_archive};

/// An archive with kexec-tools.
const KEXEC: &str = "/boot/kexec";

/// Has the kernel say more of DMA windows.
const VERBOSE: &str = r#"dyndbg="file *iommu.c +p""#;

/// Entries of the default window: 1 GiB in pages of 4 KiB.
const DEFAULT_ENTRIES: u64 = 1 << 18;

/// The most time that a guest takes. That of an emulated host which reads the default window back,
/// an exit for each entry, goes by the minute.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Takes the second processor away, so that the next kernel's start is what brings it back.
const STOP_SECOND_PROCESSOR: &str = "
echo 0 >/sys/devices/system/cpu/cpu1/online || exit 1
";

/// Four processes that read the NVMe all the time; goes on as soon as one of their reads is under
/// way.
const READ_IN_BACKGROUND: &str = "
for reader in 1 2 3 4; do
    while true; do dd if=/dev/nvme0n1 of=/dev/null bs=1M count=64 iflag=direct 2>/dev/null; done &
done
sleep 1
in_flight() { read -r reads writes </sys/block/nvme0n1/inflight && [ \"$reads\" -gt 0 ]; }
until in_flight; do :; done
echo LAB-GUEST-IN-FLIGHT $reads
";

/// What the next kernel does: says what it knows of the windows, and reads the NVMe.
const REPORT: &str = "
dmesg | grep -i -e iommu -e dma-window -e 'TCE table' | sed 's/^/LAB-NEXT /'
for window in /proc/device-tree/pci@*/linux,direct64-ddr-window-info; do
    [ -e \"$window\" ] && echo LAB-GUEST-WINDOW $(hexdump -v -e '1/1 \"%02x\"' \"$window\")
done
";

/// A guest of two processors that loads a kernel with `load`, goes on to it with `go`, and there
/// runs `job`.
fn guest(load: &str, go: &str, job: &str) -> Vmm {
    let kernel = fs::read(KERNEL).expect("no kernel");
    let mut initrd = fs::read(INITRD).expect("no initrd");
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(job_archive(job, &[]));
    let first = [WAIT_FOR_NVME, load, READ_IN_BACKGROUND, go, "exit 1\n"].concat();
    let mut overlay = fs::read(KEXEC).expect("no kexec");
    overlay.extend(job_archive(
        &first,
        &[("kernel", &kernel), ("initrd", &initrd)],
    ));
    Vmm::with_overlay(&overlay).option("--cpus", "2")
}

/// The command that loads the next kernel.
///
/// What runs between the kernels checks the next one's digest, which takes more than 0.4 s. Without
/// that, a second processor that its host does not run for some 0.1 s just then is lost, or ends in the
/// midst of the next kernel while that is copied: it waits in the first kernel's memory for a word
/// there to change, and nobody waits for it to have seen that.
fn load(how: &str, arguments: &str) -> String {
    format!(
        "kexec {how} --kexec-syscall /kernel --initrd=/initrd \
         --command-line='{arguments} {VERBOSE}' 2>/tmp/kexec || {{ cat /tmp/kexec; exit 1; }}\n"
    )
}

fn finish(vmm: Vmm, options: &[&str]) -> Finished {
    let vmm = vmm.time_limit(TIME_LIMIT);
    let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
    let finished = vmm.run().assert_job_done();
    let kernels = finished.console().matches("LAB-GUEST-INIT").count();
    assert_eq!(kernels, 2, "{finished}");
    assert_ne!(finished.guest("IN-FLIGHT"), "0", "{finished}");
    assert_eq!(finished.number("/reboots"), 0, "{finished}");
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
    finished
}

/// A guest that has its next kernel started.
fn kexec(options: &[&str]) -> Finished {
    let go = [STOP_SECOND_PROCESSOR, "kexec -e\n"].concat();
    let job = [COUNT_CPUS, REPORT, WAIT_FOR_NVME, READ_ALL, READ_SMALL].concat();
    let vmm = guest(&load("-l", ""), &go, &job).nvme_with_windows();
    let finished = finish(vmm, options);
    assert_eq!(finished.guest("CPUS"), "2", "{finished}");
    assert_eq!(finished.number("/rtas_calls/stop-self"), 1, "{finished}");
    assert_eq!(finished.number("/rtas_calls/start-cpu"), 2, "{finished}");
    finished
}

/// A guest that crashes on its second processor, and whose next kernel puts the start of a dump on the NVMe.
fn kdump(part: Part, options: &[&str]) -> Finished {
    let go = "taskset 2 sh -c 'echo c >/proc/sysrq-trigger'\n";
    let seek = part.start_64k();
    let count = part.bytes() >> 16;
    let dump = format!(
        "
dd if=/proc/vmcore of=/tmp/dump bs=64k count={count} 2>/dev/null || exit 1
echo LAB-GUEST-DUMP-MAGIC $(head -c 4 /tmp/dump | hexdump -v -e '1/1 \"%02x\"')
echo LAB-GUEST-DUMP $(sha256sum </tmp/dump | cut -d' ' -f1)
dd if=/tmp/dump of=/dev/nvme0n1 bs=64k seek={seek} oflag=direct 2>/dev/null || exit 1
sync
"
    );
    let job = [REPORT, WAIT_FOR_NVME, READ_ALL, &dump].concat();
    let load = load("-p", "maxcpus=1 noirqdistrib");
    let vmm = guest(&load, go, &job).option("--append", "crashkernel=256M");
    let finished = finish(vmm.nvme_with_windows(), options);
    let console = finished.console();
    assert!(console.contains("sysrq triggered crash"), "{finished}");
    // The crashed kernel stopped its other processor.
    assert!(!console.contains("not responding"), "{finished}");
    let resets = finished.number("/hypercalls/H_SIGNAL_SYS_RESET");
    assert!(resets > 0, "{finished}");
    assert_eq!(finished.guest("DUMP-MAGIC"), "7f454c46", "{finished}");
    expect_on_nvme(part, finished.guest("DUMP"));
    finished
}

/// Fails unless the next kernel had the default window alone.
#[track_caller]
fn assert_default_window(finished: &Finished) {
    let console = finished.console();
    assert!(
        next_kernel_says(finished, "IOMMU table initialized"),
        "{finished}"
    );
    assert!(!console.contains("pe-dma-window"), "{finished}");
    assert!(!console.contains("LAB-GUEST-WINDOW"), "{finished}");
}

/// Entries of a dynamic window for 1 GiB of memory.
fn dynamic_entries() -> u64 {
    (1 << 30) / page_bytes()
}

/// Fails unless the next kernel found the dynamic window that the first one made, and used it and
/// nothing else.
#[track_caller]
fn assert_dynamic_window(finished: &Finished) {
    let page_shift = page_bytes().trailing_zeros();
    // `struct dynamic_dma_window_prop`: LIOBN, padding, first bus address, shifts of a page and of
    // the window.
    let window = format!(
        "8000000100000000{:016x}{page_shift:08x}{:08x}",
        1u64 << 59,
        30
    );
    assert_eq!(finished.guest("WINDOW"), window, "{finished}");
    let made = finished.number("/rtas_calls/ibm,create-pe-dma-window");
    assert_eq!(made, 1, "{finished}");
    assert!(
        next_kernel_says(finished, "IOMMU table initialized"),
        "{finished}"
    );
    assert!(
        !next_kernel_says(finished, "create-pe-dma-window"),
        "{finished}"
    );
    // The first kernel maps all of its memory once.
    let written = finished.number("/windows/1/tces");
    assert!(written > dynamic_entries(), "{finished}");
    // It alone clears the default window, and nobody maps anything there.
    assert_eq!(
        finished.number("/windows/0/tces"),
        DEFAULT_ENTRIES,
        "{finished}"
    );
    assert_eq!(finished.number("/windows/0/map_ioctls"), 0, "{finished}");
}

/// Whether the next kernel's log has `text`.
fn next_kernel_says(finished: &Finished, text: &str) -> bool {
    let says = |line: &str| line.contains("LAB-NEXT") && line.contains(text);
    finished.console().lines().any(says)
}

/// Each takes a minute.
mod long {
    use super::*;

    #[test]
    fn after_kexec_the_dynamic_window_is_found_and_used() {
        let finished = kexec(&["--tce", "user"]);
        assert_dynamic_window(&finished);
        assert_eq!(finished.stat("/windows/1/path"), "user", "{finished}");
    }

    #[test]
    fn after_kexec_the_default_window_is_there() {
        let finished = kexec(&["--ddw", "off"]);
        assert_default_window(&finished);
        assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    }

    #[test]
    fn after_a_crash_the_dynamic_window_is_read_back_and_used() {
        let handler = Handler::watch("get_tce");
        let finished = kdump(DUMP_BY_DYNAMIC_WINDOW, &[]);
        let kernel = handler.returns();
        assert_dynamic_window(&finished);
        assert_eq!(finished.stat("/windows/1/path"), "bound", "{finished}");
        assert_eq!(kernel.answered, dynamic_entries(), "{kernel:?}\n{finished}");
        // All are taken: the first kernel mapped all of its memory.
        assert!(
            next_kernel_says(&finished, "TCE table is full"),
            "{finished}"
        );
    }

    #[test]
    fn after_a_crash_the_default_window_is_read_back_entry_by_entry() {
        let finished = kdump(DUMP_BY_DEFAULT_WINDOW, &["--ddw", "off", "--tce", "user"]);
        assert_default_window(&finished);
        assert_eq!(finished.stat("/windows/0/path"), "user", "{finished}");
        assert_eq!(
            finished.tce_calls("H_GET_TCE"),
            DEFAULT_ENTRIES,
            "{finished}"
        );
    }
}
