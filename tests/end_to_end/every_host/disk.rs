//! Guests with virtio disks of raw images.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scsi::Media;
use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::vmm::Folder;

/// Bytes of the disks.
const DISK_BYTES: u64 = 64 << 20;
/// Where the guest writes, and how much.
const WRITTEN: std::ops::Range<u64> = 8 << 20..12 << 20;
/// Requests that the guest makes at least: one for each of its pages, of 64 KiB at most.
const REQUESTS: u64 = 1_000;
/// What a guest's setting the device up takes; requests come on top, if they do.
const SET_UP_EXITS: u64 = 900;

/// Writes random bytes, flushes them, reads them back past the page cache, discards what follows them; says what
/// there was in the head of the disk before.
pub(crate) fn job(disk: &str) -> String {
    let (start, end) = (WRITTEN.start >> 20, WRITTEN.end >> 20);
    format!(
        "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/{disk} ] && break; sleep 0.25; done
[ -b /dev/{disk} ] || {{ echo LAB-GUEST-ERROR no disk; exit 1; }}
digest() {{ sha256sum | cut -d' ' -f1; }}
echo LAB-GUEST-SECTORS $(cat /sys/block/{disk}/size)
echo LAB-GUEST-SERIAL $(cat /sys/block/{disk}/serial)
echo LAB-GUEST-HEAD $(dd if=/dev/{disk} bs=64k count=16 iflag=direct 2>/dev/null | digest)
dd if=/dev/urandom of=/tmp/data bs=1M count=$(({end} - {start})) 2>/dev/null || exit 1
echo LAB-GUEST-WRITTEN $(digest </tmp/data)
dd if=/tmp/data of=/dev/{disk} bs=256k seek=$(({start} * 4)) conv=fsync 2>/dev/null || exit 1
echo 3 >/proc/sys/vm/drop_caches
echo LAB-GUEST-READ $(dd if=/dev/{disk} bs=1M skip={start} count=$(({end} - {start})) iflag=direct 2>/dev/null | digest)
blkdiscard -o $(({end} << 20)) -l $((1 << 20)) /dev/{disk} || exit 1
requests() {{ awk '{{ print $1 }}' /sys/block/{disk}/stat; }}
before=$(requests)
# Past the cache busybox reads into memory that is not aligned, which this device does not take.
echo 0 >/sys/block/{disk}/queue/read_ahead_kb
dd if=/dev/{disk} of=/dev/null bs=1M 2>/dev/null || exit 1
echo LAB-GUEST-REQUESTS $(($(requests) - before))
"
    )
}

/// An image whose first and whose 13th MiB is not empty.
pub(crate) fn image(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.file(name);
    let file = File::create_new(&path).expect("cannot make an image");
    file.set_len(DISK_BYTES).expect("cannot size an image");
    for start in [0, WRITTEN.end] {
        let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        file.write_all_at(&bytes, start)
            .expect("cannot fill an image");
    }
    path
}

/// An empty qcow2 image of the disk's size that stands on a raw one (docs/interop/qcow2.rst in QEMU): header, refcount
/// table, refcount block and L1 table, a cluster of 64 KiB each.
pub(crate) fn qcow2(folder: &Folder, name: &str, backing: &str) -> PathBuf {
    const CLUSTER: usize = 0x1_0000;
    let mut bytes = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    let name_at = 128_u64;
    let length = u32::try_from(backing.len()).expect("short");
    for (at, value) in [
        (4, 3),
        (16, length),
        (20, 16),
        (36, 1),
        (56, 1),
        (96, 4),
        (100, 104),
    ] {
        put(at, &u32::to_be_bytes(value));
    }
    for (at, value) in [
        (8, name_at),
        (24, DISK_BYTES),
        (40, 0x3_0000),
        (48, 0x1_0000),
    ] {
        put(at, &value.to_be_bytes());
    }
    // The extension for the format of what it stands on, and the end of extensions.
    put(104, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w']);
    put(128, backing.as_bytes());
    put(CLUSTER, &0x2_0000_u64.to_be_bytes());
    put(2 * CLUSTER, &[0, 1, 0, 1, 0, 1, 0, 1]);
    let path = folder.file(name);
    fs::write(&path, bytes).expect("cannot make an image");
    path
}

/// SHA-256 of some of a file, in whole MiB.
pub(crate) fn digest(path: &Path, range: std::ops::Range<u64>) -> String {
    let (skip, count) = (range.start >> 20, (range.end - range.start) >> 20);
    let path = path.display();
    let script = format!("dd if={path} bs=1M skip={skip} count={count} 2>/dev/null | sha256sum");
    let output = Command::new("sh").args(["-c", &script]).output();
    let text = String::from_utf8(output.expect("cannot run sh").stdout).expect("text");
    text.split_whitespace().next().expect("a digest").to_owned()
}

/// Fails unless the guest read what there was and what it wrote, and the image has it.
#[track_caller]
pub(crate) fn assert_written(finished: &Finished, path: &Path, head: &str) {
    assert_eq!(
        finished.guest("SECTORS"),
        (DISK_BYTES / 512).to_string(),
        "{finished}"
    );
    assert_eq!(finished.guest("HEAD"), head, "{finished}");
    assert_eq!(
        finished.guest("READ"),
        finished.guest("WRITTEN"),
        "{finished}"
    );
    assert_eq!(
        finished.guest("WRITTEN"),
        digest(path, WRITTEN),
        "{finished}"
    );
}

#[test]
fn a_guest_writes_flushes_and_reads_a_raw_disk_without_an_exit_for_each_request() {
    for (words, by_bus_address) in [
        ("", false),
        (",cache=none,format=raw", true),
        (",aio=threads,cache=writethrough", false),
    ] {
        let folder = Folder::new();
        let path = image(&folder, "disk.img");
        let head = digest(&path, 0..1 << 20);
        let blocks = fs::metadata(&path).expect("an image").blocks();
        let disk = format!("{}{words},serial=lab-1", path.display());
        let mut vmm = Vmm::job(&job("vda")).option("--disk", &disk);
        if by_bus_address {
            vmm = vmm.argument("--iommu-platform");
        }
        let finished = vmm.run().assert_job_done();
        assert_written(&finished, &path, &head);
        assert_eq!(finished.guest("SERIAL"), "lab-1", "{finished}");
        let requests: u64 = finished.guest("REQUESTS").parse().expect("a number");
        assert!(requests >= REQUESTS, "{finished}");
        let exits = finished.number("/exits/mmio");
        assert!(exits < SET_UP_EXITS, "{words}: {exits}: {finished}");
        // 4 MiB were written, and one was discarded.
        let more = fs::metadata(&path).expect("an image").blocks() - blocks;
        assert!(more <= 3 << 11, "{more} blocks more: {finished}");
        finished.assert_no_complaint();
        assert_nothing_is_left();
    }
}

#[test]
fn a_disk_is_there_after_a_reboot_and_refused_to_a_second_machine() {
    let folder = Folder::new();
    let path = image(&folder, "disk.img");
    let job = "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
mark() { dd if=/dev/vda bs=512 skip=4096 count=1 iflag=direct 2>/dev/null; }
if ! mark | grep -q been-here; then
    printf '%-512s' been-here | dd of=/dev/vda bs=512 seek=4096 oflag=direct 2>/dev/null || exit 1
    # What is under way when it reboots is nobody's.
    dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null &
    reboot -f
    sleep 60
    exit 1
fi
echo LAB-GUEST-AGAIN yes
";
    let disk = format!("{},cache=none", path.display());
    let finished = Vmm::job(job)
        .option("--disk", &disk)
        .argument("--sandbox")
        .run()
        .assert_job_done();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_eq!(finished.guest("AGAIN"), "yes", "{finished}");
    finished.assert_no_complaint();
    let twice = Vmm::job("true")
        .option("--disk", &disk)
        .option("--disk", &disk)
        .run();
    let wanted = format!("--disk: {}: another program has it open", path.display());
    twice.assert_refused(&[&wanted]);
    assert_nothing_is_left();
}

#[test]
fn a_read_only_disk_stays_as_it_is_beside_a_scsi_disk_that_is_written_and_a_cd() {
    let folder = Folder::new();
    let path = image(&folder, "disk.img");
    let before = digest(&path, 0..DISK_BYTES);
    let job = "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
echo LAB-GUEST-RO $(cat /sys/block/vda/ro)
dd if=/dev/zero of=/dev/vda bs=512 count=1 oflag=direct 2>/dev/null && echo LAB-GUEST-ERROR written
blkdiscard /dev/vda 2>/dev/null && echo LAB-GUEST-ERROR discarded
true
";
    let disk = format!("{},readonly", path.display());
    let media = Media::new(&folder);
    let mut vmm = Vmm::job(&[job, &Media::job()].concat()).option("--disk", &disk);
    for (option, value) in media.options() {
        vmm = vmm.option(option, &value);
    }
    let finished = vmm.run().assert_job_done();
    media.assert_used(&finished);
    assert_eq!(finished.guest("RO"), "1", "{finished}");
    assert!(
        !finished.console().contains("LAB-GUEST-ERROR"),
        "{finished}"
    );
    assert_eq!(digest(&path, 0..DISK_BYTES), before);
    assert_nothing_is_left();
}

#[test]
fn a_guest_writes_to_a_qcow2_disk_and_what_it_stands_on_stays_and_has_scsi_by_bus_addresses_beside_it()
 {
    let folder = Folder::new();
    let base = image(&folder, "base.img");
    let before = digest(&base, 0..DISK_BYTES);
    let head = digest(&base, 0..1 << 20);
    let top = qcow2(&folder, "top.qcow2", "base.img");
    let disk = format!("{},format=qcow2,cache=none", top.display());
    let media = Media::new(&folder);
    let mut vmm = Vmm::job(&[job("vda"), Media::job()].concat())
        .option("--disk", &disk)
        .argument("--sandbox")
        .argument("--iommu-platform");
    for (option, value) in media.options() {
        vmm = vmm.option(option, &value);
    }
    let finished = vmm.run().assert_job_done();
    media.assert_used(&finished);
    assert_eq!(finished.guest("HEAD"), head, "{finished}");
    let written = finished.guest("WRITTEN").to_owned();
    assert_eq!(finished.guest("READ"), written, "{finished}");
    finished.assert_no_complaint();
    assert_eq!(digest(&base, 0..DISK_BYTES), before);
    // As a machine finds it that is made anew.
    let (start, end) = (WRITTEN.start >> 20, WRITTEN.end >> 20);
    let again = format!(
        "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
echo LAB-GUEST-READ $(dd if=/dev/vda bs=1M skip={start} count=$(({end} - {start})) 2>/dev/null | sha256sum | cut -d' ' -f1)
"
    );
    let disk = format!("{},format=qcow2,readonly", top.display());
    let finished = Vmm::job(&again)
        .option("--disk", &disk)
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("READ"), written, "{finished}");
    let unsaid = Vmm::job("true")
        .option("--disk", &top.display().to_string())
        .run();
    unsaid.assert_refused(&["--disk: ", "it begins as an image of the format qcow2"]);
    assert_nothing_is_left();
}
