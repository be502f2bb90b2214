//! Guests whose disks' images are in a folder of the host that is full.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::every_host::disk::{digest, qcow2 as make_qcow2};
use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::monitor::Monitor;
use crate::harness::qcow2;
use crate::harness::running::Running;
use crate::harness::small_folder::SmallFolder;
use crate::harness::vmm::Folder;

/// What a guest writes to each disk, in MiB, and the size of the disks.
const WRITTEN_MIB: u64 = 20;
const DISK_MIB: u64 = 64;

/// Writes random bytes to each of the disks, much at once, and reads them back past the page cache.
fn write_all(disks: &str) -> String {
    format!(
        "
for disk in {disks}; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/$disk ] && break; sleep 0.25; done
    dd if=/dev/urandom of=/tmp/data bs=1M count={WRITTEN_MIB} 2>/dev/null || exit 1
    echo LAB-GUEST-WRITTEN-$disk $(sha256sum </tmp/data | cut -d' ' -f1)
    dd if=/tmp/data of=/dev/$disk bs=1M conv=fsync 2>/dev/null || exit 1
    echo 3 >/proc/sys/vm/drop_caches
    echo LAB-GUEST-READ-$disk $(dd if=/dev/$disk bs=1M count={WRITTEN_MIB} iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1)
done
"
    )
}

/// An image with nothing in it, which takes no room.
fn sparse(path: &Path) {
    let file = File::create_new(path).expect("cannot make an image");
    file.set_len(DISK_MIB << 20).expect("cannot size an image");
}

/// Waits until the guest is paused because that disk's folder is full.
#[track_caller]
fn wait_until_full(monitor: &mut Monitor, disk: &str) {
    let data = monitor.wait_for("BLOCK_IO_ERROR")["data"].take();
    let expected = json!({
        "device": "",
        "qom-path": format!("/machine/peripheral/{disk}/virtio-backend"),
        "node-name": format!("{disk}-format"),
        "operation": "write",
        "action": "stop",
        "nospace": true,
        "reason": data["reason"],
    });
    assert_eq!(data, expected);
    assert!(
        data["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("No space")),
        "{data}"
    );
    monitor.wait_for("STOP");
    assert_eq!(monitor.status(), "io-error");
    assert_eq!(io_status(monitor, disk), "nospace");
}

#[track_caller]
fn io_status(monitor: &mut Monitor, disk: &str) -> String {
    let all = monitor.ask("query-block");
    let path = format!("/machine/peripheral/{disk}/virtio-backend");
    let mut all = all.as_array().expect("a list").iter();
    let found = all.find(|block| block["qdev"] == path.as_str());
    let status = found.map(|block| block["io-status"].clone());
    let status = status.as_ref().and_then(Value::as_str);
    status.expect("a status").to_owned()
}

fn with_disk(front_end: FrontEnd, id: &str, format: &str, path: &Path, more: &str) -> FrontEnd {
    let path = path.display();
    let file = format!("driver=file,filename={path},node-name={id}-file");
    let node = format!("driver={format},file={id}-file,node-name={id}-format");
    let device = format!("virtio-blk-pci,drive={id}-format,id={id}{more}");
    front_end
        .option("-blockdev", &file)
        .option("-blockdev", &node)
        .option("-device", &device)
}

/// A guest that writes to a raw disk, and then to one of the format qcow2, with images in that folder.
fn writer(folder: &SmallFolder, elsewhere: &Folder) -> (Running, Monitor) {
    sparse(&folder.file("raw"));
    sparse(&elsewhere.file("base"));
    let base = elsewhere.file("base");
    let top = make_qcow2(elsewhere, "top", base.to_str().expect("a path of ours"));
    std::fs::copy(&top, folder.file("qcow2")).expect("room for an empty image");
    // The raw image is one that somebody else has opened for it, and is used past the host's cache.
    let raw = File::options()
        .read(true)
        .write(true)
        .open(folder.file("raw"));
    let raw = raw.expect("an image");
    fcntl_setfd(&raw, FdFlags::empty()).expect("a descriptor to be inherited");
    let front_end = FrontEnd::job(&write_all("vda vdb"))
        .option("-smp", "2")
        .option("-sandbox", "on")
        .option("-add-fd", &format!("set=3,fd={}", raw.as_raw_fd()));
    let front_end = with_disk(
        front_end,
        "first",
        "raw",
        Path::new("/dev/fdset/3,cache.direct=on"),
        "",
    );
    // As libvirt has it with error_policy='stop'.
    let policy = ",werror=stop,rerror=stop,num-queues=2";
    with_disk(front_end, "second", "qcow2", &folder.file("qcow2"), policy).start()
}

/// What the guest said last of something.
#[track_caller]
fn said_last(finished: &Finished, key: &str) -> String {
    let start = format!("LAB-GUEST-{key} ");
    let lines = finished.console().lines().rev();
    let mut values = lines.filter_map(|line| line.split_once(&start));
    let value = values.next();
    let (_, value) = value.unwrap_or_else(|| panic!("no {key}: {finished}"));
    value.trim().to_owned()
}

#[test]
fn a_full_host_pauses_a_guest_which_loses_nothing_and_can_be_reset_meanwhile() {
    let folder = SmallFolder::new(8);
    let elsewhere = Folder::new();
    let (running, mut monitor) = writer(&folder, &elsewhere);
    wait_until_full(&mut monitor, "first");
    assert_eq!(io_status(&mut monitor, "second"), "ok");
    // There is no more room than before.
    monitor.ask("cont");
    wait_until_full(&mut monitor, "first");
    // What has waited is nobody's after a reset.
    monitor.ask("system_reset");
    monitor.wait_for("RESET");
    assert_eq!(monitor.status(), "prelaunch");
    monitor.ask("cont");
    wait_until_full(&mut monitor, "first");
    folder.resize(WRITTEN_MIB + 8);
    monitor.ask("cont");
    wait_until_full(&mut monitor, "second");
    assert_eq!(io_status(&mut monitor, "first"), "ok");
    folder.resize(2 * WRITTEN_MIB + 8);
    monitor.ask("cont");
    monitor.wait_for("RESUME");
    let finished = running.finish().assert_job_done();
    assert!(!finished.console().contains("I/O error"), "{finished}");
    let bytes = WRITTEN_MIB << 20;
    let second = elsewhere.file("second");
    let found = qcow2::read(&folder.file("qcow2"), bytes);
    std::fs::write(&second, found.disk).expect("room elsewhere");
    for (disk, image) in [("vda", folder.file("raw")), ("vdb", second)] {
        let written = said_last(&finished, &format!("WRITTEN-{disk}"));
        let read = said_last(&finished, &format!("READ-{disk}"));
        assert_eq!(read, written, "{finished}");
        assert_eq!(digest(&image, 0..bytes), written, "{finished}");
    }
    assert_nothing_is_left();
}

#[test]
fn without_a_monitor_a_guest_goes_on_by_a_signal_or_hears_of_the_error() {
    let folder = SmallFolder::new(8);
    sparse(&folder.file("waits"));
    let disk = format!("{},cache=none", folder.file("waits").display());
    let mut running = Vmm::job(&write_all("vda"))
        .option("--disk", &disk)
        .argument("--sandbox")
        .start();
    let said = running.wait_for_message("has it go on");
    let path = folder.file("waits").display().to_string();
    assert!(
        said.contains(&format!("--disk {path}: No space left on device")),
        "{said}"
    );
    assert!(
        said.contains(&format!("kill -CONT {}", running.id())),
        "{said}"
    );
    folder.resize(WRITTEN_MIB + 8);
    running.signal(Signal::CONT);
    let finished = running.finish().assert_job_done();
    assert_eq!(
        finished.guest("READ-vda"),
        finished.guest("WRITTEN-vda"),
        "{finished}"
    );
    let on_host = digest(&folder.file("waits"), 0..WRITTEN_MIB << 20);
    assert_eq!(on_host, finished.guest("WRITTEN-vda"), "{finished}");
    drop(folder);
    let folder = SmallFolder::new(8);
    sparse(&folder.file("reports"));
    let disk = format!("{},werror=report", folder.file("reports").display());
    let job = "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
dd if=/dev/urandom of=/dev/vda bs=1M count=20 oflag=direct 2>/dev/null && echo LAB-GUEST-ERROR written
true
";
    let finished = Vmm::job(job)
        .option("--disk", &disk)
        .run()
        .assert_job_done();
    assert!(
        !finished.console().contains("LAB-GUEST-ERROR"),
        "{finished}"
    );
    assert!(
        finished
            .errors()
            .contains("the host fails a request, and so the disk does"),
        "{finished}"
    );
    assert_nothing_is_left();
}
