//! Dumps by virsh and when a guest crashes, and virsh inject-nmi.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::core_file::CoreFile;
use crate::harness::libvirt::Description;

/// Printed by the guest's init.
const GUEST_IS_UP: &str = "LAB-GUEST-INIT";

/// Memory of a domain in bytes.
const MEMORY_BYTES: u64 = 1 << 30;

/// Where libvirt puts dumps of guests that crash, by default, seen from the host.
const AUTO_DUMPS: &str = "/libvirt/var/lib/libvirt/qemu/dump";

/// Dumps that libvirt made of a domain by itself.
pub(super) fn auto_dumps(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(AUTO_DUMPS).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.to_str().is_some_and(|path| path.contains(name)))
        .collect()
}

/// Fails unless a file is a dump of a domain with two processors whose memory has `text`.
#[track_caller]
pub(super) fn assert_dump(path: &Path, text: &str) {
    let core = CoreFile::open(path);
    assert_eq!(core.memory_bytes(), MEMORY_BYTES);
    assert_eq!(core.processors.len(), 2);
    assert!(core.processors.iter().all(|place| place.nip != 0));
    assert!(core.has(text), "no {text:?}");
}

#[test]
fn a_domain_that_crashes_is_dumped_and_started_again() {
    let domain = Description::new("crash-dump")
        .on_crash("coredump-restart")
        .define();
    domain.start();
    domain.wait_for_prompt(1);
    let mut console = domain.attach_console();
    console.typist.keys(b"echo c >/proc/sysrq-trigger\r");
    domain.wait_for_console(GUEST_IS_UP, 2);
    console.leave();
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    let dumps = auto_dumps("crash-dump");
    let [dump] = &dumps[..] else {
        panic!("{dumps:?}")
    };
    assert_dump(dump, "sysrq: Trigger a crash");
    fs::remove_file(dump).expect("remove");
    domain.wait_for_prompt(2);
    domain.virsh("shutdown");
    domain.wait_for_state("shut off (shutdown)");
}
