//! Dumps by virsh and when a guest crashes, and virsh inject-nmi.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::core_file::CoreFile;
use crate::harness::libvirt::{Description, virsh, virsh_refuses};

/// Printed by the guest's init.
const GUEST_IS_UP: &str = "LAB-GUEST-INIT";

/// Memory of a domain in bytes.
const MEMORY_BYTES: u64 = 1 << 30;

/// Where libvirt puts dumps of guests that crash, by default, seen from the host.
const AUTO_DUMPS: &str = "/libvirt/var/lib/libvirt/qemu/dump";

/// Dumps that libvirt made of a domain by itself.
fn auto_dumps(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(AUTO_DUMPS).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.to_str().is_some_and(|path| path.contains(name)))
        .collect()
}

/// Fails unless a file is a dump of a domain with two processors whose memory has `text`.
#[track_caller]
fn assert_dump(path: &Path, text: &str) {
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

#[test]
fn a_domain_that_crashes_is_dumped_and_destroyed() {
    let domain = Description::new("crash-end")
        .on_crash("coredump-destroy")
        .job("echo c >/proc/sysrq-trigger")
        .define();
    domain.start();
    domain.wait_for_state("shut off (crashed)");
    let dumps = auto_dumps("crash-end");
    let [dump] = &dumps[..] else {
        panic!("{dumps:?}")
    };
    assert_dump(dump, "sysrq: Trigger a crash");
    fs::remove_file(dump).expect("remove");
}

#[test]
fn a_domain_that_hangs_is_dumped_and_takes_an_nmi() {
    let domain = Description::new("hang").on_crash("preserve").define();
    domain.start();
    domain.wait_for_prompt(1);
    let mut console = domain.attach_console();
    console.typist.command("echo kept-$((40 + 2))", "kept-42");
    console.leave();
    for (name, options) in [
        ("dump", "--memory-only --verbose"),
        ("elf", "--memory-only --format elf"),
        ("live", "--memory-only --live"),
    ] {
        let path = PathBuf::from(format!("/tmp/{name}.core"));
        virsh(&[&format!("dump hang {} {options}", path.display())]);
        assert_dump(&path, "kept-42");
        fs::remove_file(&path).expect("remove");
        assert!(domain.state().starts_with("running"), "{}", domain.state());
    }
    let refused = virsh_refuses(&["dump hang /tmp/zlib.core --memory-only --format kdump-zlib"]);
    assert!(refused.contains("kdump-zlib"), "{refused}");
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    domain.virsh("inject-nmi");
    domain.wait_for_console("System Reset", 1);
    domain.virsh("destroy");
}
