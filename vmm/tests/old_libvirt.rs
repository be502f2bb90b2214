//! Debian 12's libvirt asks `spapr-vmm-qemu` what it is, on a machine that runs no ppc64le guests.
//!
//! OLD_LIBVIRT names a folder with libvirt's packages, unpacked; `cargo lab test` provides it. libvirt
//! looks for its own data in /usr/share, so it runs in a mount namespace that has its packages' there.
//! It needs no privileges and no daemon: its driver is in virsh itself.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the rest of its arguments as an ordinary user, with the packages' /usr/share.
const IN_NAMESPACE: &str = "mount --bind \"$1\" /usr/share && shift && \
    exec unshare --user --map-user=1000 --map-group=1000 -- \"$@\"";

/// libvirt with folders of its own, which go with it.
struct Libvirt {
    packages: PathBuf,
    folder: tempfile::TempDir,
}

impl Libvirt {
    fn new() -> Self {
        let packages = std::env::var_os("OLD_LIBVIRT");
        let packages = packages.expect("OLD_LIBVIRT: run this by `cargo lab test`");
        Self {
            packages: packages.into(),
            folder: tempfile::tempdir().expect("folder"),
        }
    }

    /// What `virsh domcapabilities` says of an emulator.
    fn capabilities(&self, emulator: &str, arguments: &[&str]) -> Output {
        let libraries = ["lib", "usr/lib"].map(|lib| {
            let folder = format!("{lib}/x86_64-linux-gnu");
            self.packages.join(folder)
        });
        let mut path = OsString::from(&libraries[0]);
        path.push(":");
        path.push(&libraries[1]);
        let folder = self.folder.path();
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount"])
            .args(["sh", "-c", IN_NAMESPACE, "sh"])
            .arg(self.packages.join("usr/share"))
            .arg(libraries[0].join("ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(path)
            .arg(self.packages.join("usr/bin/virsh"))
            .arg("--connect")
            .arg(format!("qemu:///embed?root={}", folder.display()))
            .args(["domcapabilities", "--emulatorbin", emulator])
            .args(arguments)
            .env(
                "LIBVIRT_DRIVER_DIR",
                libraries[1].join("libvirt/connection-driver"),
            )
            .env("LC_ALL", "C");
        for variable in [
            "HOME",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
        ] {
            command.env(variable, folder);
        }
        command.output().expect("unshare")
    }

    /// What it keeps of emulators that it has probed.
    fn kept(&self) -> Vec<String> {
        let folder = self.folder.path().join("cache/qemu/capabilities");
        let files = fs::read_dir(folder).expect("libvirt's cache");
        let read = |path: &Path| fs::read_to_string(path).expect("a file of libvirt's");
        files
            .map(|file| read(&file.expect("a file").path()))
            .collect()
    }
}

/// What virsh says when it fails, which it has to.
#[track_caller]
fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const EMULATOR: &str = env!("CARGO_BIN_EXE_spapr-vmm-qemu");

#[test]
#[ignore = "`cargo lab test` fetches Debian 12's libvirt for it"]
fn the_probe_is_accepted_and_says_that_no_guests_run_here() {
    let libvirt = Libvirt::new();
    let arguments = ["--arch", "ppc64le", "--virttype", "kvm"];
    let message = error(&libvirt.capabilities(EMULATOR, &arguments));
    // It is asked for after the probe and the architecture were found good.
    let expected = format!("Emulator '{EMULATOR}' does not support virt type 'kvm'");
    assert!(message.contains(&expected), "{message}");
    assert!(!message.contains("Failed to probe"), "{message}");
    let kept = libvirt.kept();
    assert_eq!(kept.len(), 1, "{kept:?}");
    for fact in [
        "<arch>ppc64</arch>",
        "<package>spapr-vmm ",
        "<flag name='vfio-pci'/>",
        "<flag name='spapr-pci-host-bridge'/>",
        "<flag name='spapr-vty'/>",
        "<flag name='seccomp-sandbox'/>",
        "name='pseries' ",
    ] {
        assert!(kept[0].contains(fact), "no {fact} in {}", kept[0]);
    }
    // Neither acceleration that libvirt knows.
    for fact in ["<flag name='kvm'/>", "<flag name='tcg'/>"] {
        assert!(!kept[0].contains(fact), "{fact} in {}", kept[0]);
    }
}

#[test]
#[ignore = "`cargo lab test` fetches Debian 12's libvirt for it"]
fn another_architecture_is_refused() {
    let libvirt = Libvirt::new();
    let message = error(&libvirt.capabilities(EMULATOR, &["--arch", "x86_64"]));
    let expected = "architecture from emulator 'ppc64' doesn't match given architecture 'x86_64'";
    assert!(message.contains(expected), "{message}");
}

#[test]
#[ignore = "`cargo lab test` fetches Debian 12's libvirt for it"]
fn a_program_that_is_no_emulator_fails_its_probe() {
    let libvirt = Libvirt::new();
    let message = error(&libvirt.capabilities("/bin/false", &["--arch", "ppc64le"]));
    assert!(
        message.contains("Failed to probe capabilities"),
        "{message}"
    );
}
