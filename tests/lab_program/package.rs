//! A deb, as it is installed, used and removed in a host: the one that CI has time for, and the real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::ZlibDecoder;
use object::{Object, ObjectSection};
use serde_json::Value;

/// What a host does with a deb: it installs it, looks at what there is now, and starts a guest as the unit would.
/// Its dpkg is busybox', which lets a package do all that this one does.
const INSTALL: &str = r#"set -eu
mkdir -p /var/lib/dpkg/info
touch /var/lib/dpkg/status
everything() { find / -xdev ! -path '/tmp/*' ! -path '/var/lib/dpkg*' ! -path '/etc/spapr-vmm*' | sort; }
everything >/tmp/before
dpkg -i /srv/spapr-vmm.deb
spapr-vmm --version
spapr-vmm-qemu -version
zcat /usr/share/man/man1/spapr-vmm-run.1.gz | grep -q print
zcat /usr/share/man/man1/spapr-vmm-qemu.1.gz | grep -q libvirt
for completions in bash-completion/completions zsh/vendor-completions fish/vendor_completions.d; do
    grep -q -r -e print-config /usr/share/$completions
done
grep -q '# Getting started' /usr/share/doc/spapr-vmm/docs/getting-started.md
grep -q 'SUBSYSTEM=="vfio"' /usr/lib/udev/rules.d/70-spapr-vmm.rules
mkdir -p /etc/spapr-vmm
unit=/usr/lib/systemd/system/spapr-vmm@.service
start=$(sed -n 's/^ExecStart=//p' "$unit" | sed 's/%i/guest/')
echo "starting: $start"
"#;

/// The unit's own line runs the guest that its file describes.
const START: &str = r#"
jq -e '.components | length > 20' /usr/share/doc/spapr-vmm/spapr-vmm.cdx.json
spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd --vfio "$LAB_NVME" --console file=/tmp/console \
    --print-config >/etc/spapr-vmm/guest.toml
$start &
vmm=$!
for second in $(seq 120); do
    grep -q LAB-GUEST-INIT /tmp/console 2>/dev/null && break
    kill -0 $vmm
    sleep 1
done
grep LAB-GUEST-INIT /tmp/console
kill $vmm
wait $vmm || echo "ended with $?"
"#;

/// It reads that file: what is wrong in there is told with its line.
const START_IN_VAIN: &str = r#"
spapr-vmm run --kernel /boot/vmlinux --console file=/tmp/console --print-config >/etc/spapr-vmm/guest.toml
sed -i 's|^kernel = .*|kernel = "/boot/none"|' /etc/spapr-vmm/guest.toml
$start 2>&1 && exit 4 || echo "ended with $?"
"#;

const REMOVE: &str = r"
dpkg -r spapr-vmm
everything >/tmp/after
cmp /tmp/before /tmp/after || { diff /tmp/before /tmp/after; exit 3; }
echo nothing is left
";

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// The crates that a program says that it is made of: JSON, packed by zlib, in a section of its own, as cargo-auditable
/// has it.
fn crates_of(program: &Path) -> Vec<String> {
    let bytes = fs::read(program).expect("the program");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let section = file.section_by_name(".dep-v0").expect("a list of crates");
    let packed = section.data().expect("data");
    let list: Value = serde_json::from_reader(ZlibDecoder::new(packed)).expect("JSON");
    let crates = list["packages"].as_array().into_iter().flatten();
    crates
        .filter_map(|it| Some(it["name"].as_str()?.to_owned()))
        .collect()
}

/// Has the lab make a deb; where it is.
fn made(arguments: &[&str]) -> PathBuf {
    let said = run(Command::new(LAB).arg("package").args(arguments));
    let deb = said.lines().find_map(|line| {
        line.strip_prefix("lab: made ")
            .filter(|it| it.ends_with(".deb"))
    });
    let deb = deb.expect("a deb is made");
    assert!(deb.ends_with("_ppc64el.deb"), "{deb}");
    deb.into()
}

const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// What a host that has no spapr-vmm says to the script.
fn in_host(host: &str, deb: &Path, script: &str) -> String {
    let copy = format!("{}:/srv/spapr-vmm.deb", deb.display());
    let mut exec = Command::new(LAB);
    exec.args(["exec", "--host", host, "--without-vmm"]).args([
        "--timeout",
        "300",
        "--copy",
        &copy,
        "--",
        script,
    ]);
    run(&mut exec)
}

#[test]
fn a_deb_of_the_packages_files_is_installed_used_by_its_units_own_line_and_removed_whole() {
    let deb = made(&["--quick"]);
    let script = [INSTALL, START_IN_VAIN, REMOVE].concat();
    let said = in_host("p9-4k", &deb, &script);
    let parts = [
        "spapr-vmm run --config /etc/spapr-vmm/guest.toml",
        "/boot/none",
        "ended with",
        "nothing is left",
    ];
    for part in parts {
        assert!(said.contains(part), "no {part:?}: {said}");
    }
}

#[test]
#[ignore = "builds cargo's packaging tools and both programs: cargo lab test long::"]
fn the_deb_is_installed_used_by_its_units_own_line_and_removed_whole() {
    let deb = made(&[]);
    // busybox' dpkg knows no archives as old as cargo-deb's, nor xz: dpkg-deb unpacks it and packs it again.
    let folder = tempfile::tempdir().expect("a folder");
    let (files, again) = (folder.path().join("files"), folder.path().join("again.deb"));
    run(Command::new("dpkg-deb").arg("-R").args([&deb, &files]));
    for program in ["spapr-vmm", "spapr-vmm-qemu"] {
        let program = files.join("usr/bin").join(program);
        let bytes = fs::metadata(&program).expect("a program").len();
        assert!(
            bytes < 8 << 20,
            "{program:?} has {bytes} bytes: is it full of debugging information?"
        );
        let crates = crates_of(&program);
        assert!(
            crates.contains(&"vm-memory".to_owned()),
            "{program:?}: {crates:?}"
        );
    }
    let mut pack = Command::new("dpkg-deb");
    run(pack
        .args(["--root-owner-group", "-Zgzip", "-b"])
        .args([&files, &again]));
    let script = [INSTALL, START, REMOVE].concat();
    let said = in_host("p9-64k", &again, &script);
    for part in ["LAB-GUEST-INIT", "ended with", "nothing is left"] {
        assert!(said.contains(part), "no {part:?}: {said}");
    }
}
