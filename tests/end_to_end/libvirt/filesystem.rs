//! A domain with a folder of the host's, by the virtiofsd that libvirt starts.

use std::fs;
use std::process::Command;

use crate::harness::libvirt::Description;

/// Bytes of the file that the guest reads.
const BYTES: u32 = 1 << 20;

const JOB: &str = "
mkdir -p /mnt
mount -t virtiofs lab /mnt || exit 1
echo LAB-GUEST-SHA256 $(sha256sum /mnt/data | cut -d' ' -f1)
echo from-the-guest >/mnt/answer || exit 1
umount /mnt || exit 1
[ -c /dev/vsock ] && echo LAB-GUEST-VSOCK yes
";

#[test]
fn a_domain_mounts_a_folder_beside_sockets_that_libvirt_opens() {
    // In both root folders.
    let folder = "/tmp/folder-of-the-host";
    fs::create_dir(folder).expect("a folder");
    let bytes: Vec<u8> = (0..BYTES)
        .map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24).to_le_bytes()[0])
        .collect();
    let data = format!("{folder}/data");
    fs::write(&data, bytes).expect("write");
    let output = Command::new("sha256sum").arg(&data).output();
    let sha256 = String::from_utf8(output.expect("sha256sum").stdout).expect("text");
    let sha256 = sha256.split(' ').next().expect("a digest");
    let domain = Description::new("folder")
        .element("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>")
        // virtiofsd's other sandbox wants a root folder that is mounted.
        .device(&format!(
            "<filesystem type='mount'><driver type='virtiofs' queue='1024'/>\
             <binary path='/usr/libexec/virtiofsd'><sandbox mode='chroot'/></binary>\
             <source dir='{folder}'/><target dir='lab'/></filesystem>"
        ))
        .device("<vsock model='virtio'><cid auto='yes'/></vsock>")
        .job(JOB)
        .define();
    domain.start();
    let arguments = domain.proc("cmdline");
    for part in ["vhost-user-fs-pci", "\"share\":true", "vhostfd"] {
        assert!(arguments.contains(part), "{part}: {arguments}");
    }
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    assert!(
        console.contains(&format!("LAB-GUEST-SHA256 {sha256}")),
        "{console}"
    );
    assert!(console.contains("LAB-GUEST-VSOCK yes"), "{console}");
    let answer = fs::read_to_string(format!("{folder}/answer"));
    assert_eq!(answer.expect("an answer"), "from-the-guest\n", "{console}");
    let messages = domain.messages();
    assert!(!messages.contains("fs0: "), "{messages}");
    fs::remove_dir_all(folder).expect("remove");
}
