//! More of dynamic DMA windows: bounds, refusals, versions of the container, reboot.

use std::path::Path;
use std::time::Duration;

use crate::every_host::dma_windows::{
    assert_all_is_mapped, assert_all_is_mapped_behind, read_with,
};
use crate::harness::Vmm;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{
    assert_nothing_is_left, device, give_to_user, group_node, open_to_all, page_bytes,
};
use crate::harness::jobs::{READ_HEAD, READ_SMALL, WAIT_FOR_NVME, head_sha256};
use crate::harness::scratch::WINDOW_MARK;
use crate::harness::vmm::User;

#[test]
fn a_bounded_window_is_used_piece_by_piece() {
    let finished = read_with(&["--memory", "2G", "--ddw", "256M"]);
    assert_eq!(finished.stat("/windows/1/path"), "bound", "{finished}");
    assert_eq!(
        finished.number("/windows/1/entries"),
        (256 << 20) / page_bytes(),
        "{finished}"
    );
    let calls = finished.stat("/windows/1/calls");
    assert!(calls["H_STUFF_TCE"].as_u64() > Some(0), "{finished}");
    // The window does not cover memory, so the guest maps what it uses, and unmaps it.
    assert!(finished.number("/windows/1/unmap_ioctls") > 0, "{finished}");
    assert!(
        finished.number("/memory/peak_locked_bytes") < 2 << 30,
        "{finished}"
    );
}

#[test]
fn a_default_window_is_as_large_as_asked_for_and_no_larger_than_the_hosts() {
    let finished = read_with(&["--ddw", "off", "--dma-window", "2G"]);
    let entries = finished.number("/windows/0/entries");
    assert_eq!(entries, (2 << 30) / 4096, "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    let refused = Vmm::job("true")
        .nvme_with_windows()
        .option("--dma-window", "4G")
        .run();
    refused.assert_refused(&["--dma-window", "a window has at most 2G"]);
    assert_nothing_is_left();
}

#[test]
fn a_version_1_container_offers_no_windows() {
    let finished = read_with(&["--iommu", "v1"]);
    assert!(!finished.console().contains("pe-dma-window"), "{finished}");
    assert_eq!(finished.number("/windows/0/container"), 1, "{finished}");
}

#[test]
fn in_user_mode_a_window_is_mapped_by_the_vmm() {
    let finished = read_with(&["--tce", "user"]);
    assert_eq!(finished.stat("/windows/1/path"), "user", "{finished}");
    let lists = ((1 << 30) / page_bytes()).div_ceil(512);
    assert_eq!(
        finished.number("/windows/1/map_ioctls"),
        lists,
        "{finished}"
    );
}

#[test]
fn a_limit_too_low_for_all_of_memory_refuses_the_window_and_the_guest_goes_on() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    // Enough for the default window and what the guest uses of its 2 GiB in it, and not for all.
    let user = User {
        memlock: (2 << 30) - (64 << 20),
    };
    let job = [WAIT_FOR_NVME, READ_HEAD].concat();
    let vmm = Vmm::job(&job)
        .nvme_with_windows()
        .option("--memory", "2G")
        .run_by(user);
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    let limit = format!("RLIMIT_MEMLOCK is {} bytes", user.memlock);
    for part in ["no DMA window of 0x80000000 bytes", "needs", &limit] {
        assert!(finished.errors().contains(part), "no {part:?}\n{finished}");
    }
    assert!(finished.tce_calls("H_PUT_TCE_INDIRECT") > 0, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn huge_pages_that_the_host_lacks_are_told_at_the_start() {
    Vmm::linux()
        .option("--hugepages", "2M")
        .run()
        .assert_refused(&[
            "needs 512 huge pages of 2M",
            "0 of the host's 0 are free",
            "echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        ]);
    Vmm::linux()
        .option("--hugepages", "1G")
        .option("--memory", "1536M")
        .run()
        .assert_refused(&["not a multiple of its huge pages of 1G", "2G would be"]);
    Vmm::linux()
        .option("--ddw", "3G")
        .run()
        .assert_refused(&["--ddw", "power of two", "2G"]);
}

#[test]
fn a_window_for_all_of_memory_works_with_memory_locked_at_the_start() {
    let finished = read_with(&["--lock", "attach"]);
    assert_all_is_mapped(&finished, 1 << 30, page_bytes());
}

/// Has a guest read the NVMe behind host bridge `index` of a command line such as libvirt builds.
fn read_behind(index: u8) {
    let job = [WAIT_FOR_NVME, READ_HEAD, READ_SMALL].concat();
    let (running, _) = FrontEnd::job(&job).nvme_behind(index).start();
    let finished = running.finish().assert_job_done();
    assert_all_is_mapped_behind(index, &finished, 1 << 30, page_bytes());
    // All that was read came through it.
    assert_eq!(finished.number("/windows/0/map_ioctls"), 0, "{finished}");
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_device_behind_the_first_bridge_of_libvirt_has_a_window_for_all_of_memory() {
    read_behind(1);
}

/// The guest's first program: has Linux' nvme take the lab's NVMe for one that reaches 48 bits, as some are
/// (NVME_QUIRK_DMA_ADDRESS_BITS_48 in drivers/nvme/host/nvme.h, as driver data), and goes on as usual.
const FOR_48_BITS: &str = "
busybox=/bin/busybox
$busybox mkdir -p /proc /sys
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
echo 0 >/sys/bus/pci/drivers_autoprobe
for module in $($busybox cat /lib/modules/0x010802); do
    $busybox insmod /lib/modules/$module.ko
done
echo 1b36 10 ffffffff ffffffff 0 0 10000 >/sys/bus/pci/drivers/nvme/new_id
echo 1 >/sys/bus/pci/drivers_autoprobe
$busybox umount /sys
$busybox umount /proc
exec /init
";

/// With a mask of 48 bits, of whose windows the host's second place has none.
#[test]
fn a_device_that_reaches_48_bits_has_all_of_memory_in_a_window_from_4_gib_on() {
    let log = "dmesg | grep -e pe-dma-window -e lsa_required | sed 's/^/LAB-WINDOW /'\n";
    let job = [WAIT_FOR_NVME, log, READ_HEAD, READ_SMALL].concat();
    let files = [("first", FOR_48_BITS.as_bytes())];
    let vmm = Vmm::job_with_files(&job, &files).nvme_with_windows();
    let vmm = vmm
        .option("--memory", "2G")
        .option("--append", "console=hvc0 rdinit=/bin/busybox -- sh /first");
    let finished = vmm.run().assert_job_done();
    let limited = "lsa_required: 1, lsa_enabled: 1, direct mapping: 1";
    assert!(finished.console().contains(limited), "{finished}");
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.number("/windows/1/bus_offset"), 1 << 32);
    let entries = (2 << 30) / page_bytes();
    assert_eq!(finished.number("/windows/1/tces"), entries, "{finished}");
    // All that was read came through it; and the kernel serves the default one still.
    assert_eq!(finished.number("/windows/0/map_ioctls"), 0, "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    assert_nothing_is_left();
}

/// More of the same that takes its time.
mod long {
    use super::*;

    /// Reads the disk of a SCSI controller, before and after a reboot, with what the kernel says of windows.
    const READ_TWICE: &str = "
for _ in $(seq 120); do
    [ -b /dev/sda ] && break
    sleep 0.25
done
[ -b /dev/sda ] || { dmesg | tail -n 40; echo LAB-GUEST-ERROR no disk; exit 1; }
dmesg | grep -e pe-dma-window -e lsa_required | sed 's/^/LAB-WINDOW /'
echo LAB-GUEST-SHA256 $(dd if=/dev/sda bs=64k count=128 iflag=direct,fullblock 2>/dev/null |
    sha256sum | cut -d' ' -f1)
dd if=/dev/sda of=/tmp/mark bs=4096 skip=16384 count=1 iflag=direct 2>/dev/null
if ! grep -q here-before /tmp/mark; then
    printf '%-4096s' here-before |
        dd of=/dev/sda bs=4096 seek=16384 iflag=fullblock oflag=direct || exit 1
    reboot -f
    sleep 60
    exit 1
fi
dd if=/dev/zero of=/dev/sda bs=4096 seek=16384 count=1 oflag=direct || exit 1
";

    /// Linux' megaraid_sas sets a mask of 63 bits, and for this controller then a coherent one of 32
    /// (`megasas_set_dma_mask` in drivers/scsi/megaraid/megaraid_sas_base.c): Linux takes the default window for all its
    /// DMA (`dma_iommu_dma_supported` in arch/powerpc/kernel/dma-iommu.c). What does DMA in the other is above.
    #[test]
    fn for_a_mask_of_63_bits_linux_maps_all_of_memory_in_a_window_from_4_gib_on() {
        let vmm = Vmm::job(READ_TWICE).time_limit(Duration::from_secs(300));
        let vmm = vmm.option("--memory", "2G");
        let vmm = vmm.option("--vfio", &device("megasas"));
        let finished = vmm.run().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        for parts in [
            [
                "LAB-WINDOW",
                "lsa_required: 1, lsa_enabled: 1, direct mapping: 1",
            ],
            ["LAB-GUEST", "SHA256"],
        ] {
            let lines = finished.console().lines();
            let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
            assert_eq!(lines.count(), 2, "{parts:?}\n{finished}");
        }
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        // The second life has its windows anew.
        let windows = [0, 1].map(|window| {
            let number = |what: &str| finished.number(&format!("/windows/{window}/{what}"));
            (number("bus_offset"), number("page_size"), number("entries"))
        });
        let entries = (2 << 30) / page_bytes();
        let expected = [(0, 4096, 1 << 18), (1 << 32, page_bytes(), entries)];
        assert_eq!(windows, expected, "{finished}");
        // All of memory, in either life.
        let written = finished.number("/windows/1/tces");
        assert_eq!(written, 2 * entries, "{finished}");
        assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
        assert!(!finished.errors().contains("cannot"), "{finished}");
        assert_nothing_is_left();
    }

    #[test]
    fn a_guest_that_reboots_starts_with_its_default_window() {
        let place = WINDOW_MARK.start_4k();
        let mark = "a-mark-of-the-window-test";
        let first_or_second = format!(
            "
    dmesg | grep -e pe-dma-window | sed 's/^/LAB-WINDOW /'
    if ! dd if=/dev/nvme0n1 bs=4096 skip={place} count=1 iflag=direct 2>/dev/null |
        grep -q {mark}; then
        printf '%-4096s' {mark} |
            dd of=/dev/nvme0n1 bs=4096 seek={place} iflag=fullblock oflag=direct || exit 1
        reboot -f
        sleep 60
        exit 1
    fi
    "
        );
        let job = [WAIT_FOR_NVME, &first_or_second, READ_HEAD].concat();
        let finished = Vmm::job(&job).nvme_with_windows().run().assert_job_done();
        assert_eq!(finished.number("/reboots"), 1, "{finished}");
        // Each boot finds room for one window beside the default one, and makes it.
        let made = finished.console().lines().filter(|line| {
            line.contains("LAB-WINDOW")
                && line.contains("create-pe-dma-window")
                && line.contains("returned 0")
        });
        assert_eq!(made.count(), 2, "{finished}");
        assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
        assert_nothing_is_left();
    }

    #[test]
    fn a_device_behind_the_last_bridge_of_all_has_a_window_for_all_of_memory() {
        read_behind(30);
    }
}
