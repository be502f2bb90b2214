//! Domains with virtio disks.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::every_host::disk::{digest, image, job};
use crate::every_host::scsi::Media;
use crate::harness::libvirt::{Description, Domain, virsh, virsh_refuses};
use crate::harness::vmm::Folder;

/// A folder whose files the emulator may use, whoever runs it.
pub(super) fn folder() -> Folder {
    let folder = Folder::new();
    let path = folder.file("");
    fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("chmod");
    folder
}

/// A disk of that image.
fn disk(path: &Path, target: &str, driver: &str, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' {driver}/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/>{more}</disk>",
        path.display()
    )
}

/// A SCSI controller with a disk, a CD and an empty drive.
fn scsi_devices(media: &Media) -> String {
    let unit = |kind: &str, target: &str, inside: &str| {
        format!(
            "<disk type='file' device='{kind}'><driver name='qemu' type='raw'/>{inside}\
             <target dev='{target}' bus='scsi'/></disk>"
        )
    };
    let source = |path: &Path| format!("<source file='{}'/>", path.display());
    [
        "<controller type='scsi' model='virtio-scsi'><driver queues='2'/></controller>".to_owned(),
        unit("disk", "sda", &source(&media.disk)),
        unit("cdrom", "sdb", &source(&media.cd)),
        unit("cdrom", "sdc", ""),
    ]
    .concat()
}

/// What the guest has said behind `key`.
fn said(console: &str, key: &str) -> String {
    let start = format!("LAB-GUEST-{key} ");
    let rest = console.split_once(&start).map(|(_, rest)| rest);
    let line = rest.and_then(|rest| rest.lines().next());
    line.unwrap_or_default().trim().to_owned()
}

/// Fails unless the guest has used its SCSI devices, and that is counted.
#[track_caller]
fn assert_scsi(console: &str, media: &Media) {
    media.assert_read(|key| said(console, key));
    let models = said(console, "IDS");
    assert_eq!(models, "QEMU HARDDISK QEMU CD-ROM QEMU CD-ROM");
    let counts = virsh(&["domblkstat", "disks", "sda"]);
    assert!(number(&counts, "wr_bytes") >= 2 << 20, "{counts}");
    let info = virsh(&["domblkinfo", "disks", "sdb"]);
    assert_eq!(number(&info, "Capacity:"), 4 << 20, "{info}");
}

/// It makes a thousand requests, after a boot with all kinds of disks.
#[track_caller]
fn wait_until_idle(domain: &Domain) {
    let long = Duration::from_secs(240);
    domain.wait_as_long_as(long, "LAB-GUEST-IDLE yes", |it| {
        it.console().contains("LAB-GUEST-IDLE yes")
    });
}

/// The job of the guest: all that its disks do, and their sizes once they are others.
fn job_of_all_disks() -> String {
    let idle =
        "echo LAB-GUEST-IDS $(cat /sys/block/s[dr]*/device/model)\necho LAB-GUEST-IDLE yes\n";
    let wait_for_size = "
until [ $(cat /sys/block/vda/size)$(cat /sys/block/sda/size) = 26214465536 ]; do sleep 0.2; done
echo LAB-GUEST-RESIZED yes
";
    [&job("vda"), &Media::job(), idle, wait_for_size].concat()
}

/// What follows `name` in what virsh says.
#[track_caller]
fn number(text: &str, name: &str) -> u64 {
    let words = text.split_whitespace();
    let mut behind = words.skip_while(|word| *word != name).skip(1);
    let number = behind.next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no {name}: {text}"))
}

#[test]
fn a_domain_with_disks_writes_reads_is_counted_and_resized() {
    let folder = folder();
    let (path, second) = (image(&folder, "a.img"), image(&folder, "b.img"));
    let media = Media::new(&folder);
    for path in [&path, &second, &media.disk, &media.cd] {
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("chmod");
    }
    let head = digest(&path, 0..1 << 20);
    let job = job_of_all_disks();
    let cache = "cache='none' discard='unmap'";
    let domain = Description::new("disks")
        .device(&disk(&path, "vda", cache, "<serial>lab-7</serial>"))
        .device(&disk(
            &second,
            "vdb",
            "iommu='on' queues='2'",
            "<readonly/>",
        ))
        .device(&scsi_devices(&media))
        .job(&job)
        .define();
    domain.start();
    wait_until_idle(&domain);
    let console = domain.console();
    let said = |key: &str| said(&console, key);
    assert_eq!(said("SERIAL"), "lab-7", "{console}");
    assert_eq!(said("HEAD"), head, "{console}");
    assert_eq!(said("READ"), said("WRITTEN"), "{console}");
    assert_eq!(
        said("WRITTEN"),
        digest(&path, 8 << 20..12 << 20),
        "{console}"
    );
    let counts = virsh(&["domblkstat", "disks", "vda"]);
    assert!(number(&counts, "wr_bytes") >= 4 << 20, "{counts}");
    assert!(number(&counts, "rd_bytes") >= 5 << 20, "{counts}");
    assert!(number(&counts, "flush_operations") >= 1, "{counts}");
    let info = virsh(&["domblkinfo", "disks", "vda"]);
    assert_eq!(number(&info, "Capacity:"), 64 << 20, "{info}");
    assert_scsi(&console, &media);
    let list = domain.virsh("domblklist");
    assert!(list.contains("a.img") && list.contains("b.img"), "{list}");
    let taken = Description::new("disks-taken")
        .device(&disk(&path, "vda", "", ""))
        .define();
    let refused = virsh_refuses(&["start", &taken.name]);
    assert!(refused.contains("another program has it open"), "{refused}");
    virsh(&["blockresize", "disks", "vda", "128M"]);
    virsh(&["blockresize", "disks", "sda", "32M"]);
    domain.wait_for_console("LAB-GUEST-RESIZED yes", 1);
    assert_eq!(fs::metadata(&path).expect("an image").len(), 128 << 20);
    domain.wait_for_state("shut off (shutdown)");
    taken.virsh("undefine");
    domain.virsh("undefine");
}
