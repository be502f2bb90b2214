//! A host's file system that is full, on which a domain has its disk.

use std::fs;
use std::process::Command;

use crate::harness::libvirt::{Description, start, virsh};

/// Where the file system is, for libvirt and its guests.
const FOLDER: &str = "/mnt/full";

/// Runs a program in libvirtd's mount namespace: what is mounted elsewhere later is not seen there.
#[track_caller]
fn beside_libvirtd(script: &str) -> String {
    let pid = fs::read_to_string("/libvirt/run/libvirtd.pid").expect("libvirtd does not run");
    let output = Command::new("nsenter")
        .args(["-t", pid.trim(), "-m", "/usr/bin/bash", "-c", script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("no nsenter");
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes 32 MiB, and says which.
const JOB: &str = "
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
dd if=/dev/urandom of=/tmp/data bs=1M count=32 2>/dev/null || exit 1
echo LAB-GUEST-WRITTEN $(sha256sum </tmp/data | cut -d' ' -f1)
dd if=/tmp/data of=/dev/vda bs=1M oflag=direct conv=fsync 2>/dev/null && echo LAB-GUEST-DONE yes
";

#[test]
fn a_domain_whose_disk_has_no_room_pauses_says_why_and_goes_on() {
    start();
    beside_libvirtd(&format!(
        "mkdir -p {FOLDER} && mount -t tmpfs -o size=16m,mode=777 tmpfs {FOLDER} && \
         truncate -s 64M {FOLDER}/disk"
    ));
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' error_policy='enospace'/>\
         <source file='{FOLDER}/disk'/><target dev='vda' bus='virtio'/></disk>"
    );
    let domain = Description::new("full").device(&disk).job(JOB).define();
    domain.start();
    domain.wait_until("paused (I/O error)", |it| {
        it.state() == "paused (I/O error)"
    });
    let errors = virsh(&["domblkerror", "full"]);
    assert!(errors.contains("vda: no space"), "{errors}");
    beside_libvirtd(&format!("mount -o remount,size=96m {FOLDER}"));
    domain.virsh("resume");
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    assert!(console.contains("LAB-GUEST-DONE yes"), "{console}");
    let said = console.split("LAB-GUEST-WRITTEN ").nth(1);
    let said = said.and_then(|rest| rest.split_whitespace().next());
    let found = beside_libvirtd(&format!("head -c 32M {FOLDER}/disk | sha256sum"));
    assert_eq!(found.split_whitespace().next(), said, "{console}");
    domain.virsh("undefine");
    beside_libvirtd(&format!("umount {FOLDER}"));
}
