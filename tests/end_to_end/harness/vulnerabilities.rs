//! What kernels say of attacks by speculation, the host's and a guest's.

use std::collections::BTreeMap;
use std::fs;

const FOLDER: &str = "/sys/devices/system/cpu/vulnerabilities";

/// How a kernel says that an attack does nothing.
const NOT_AFFECTED: &str = "Not affected";

/// Prints what the guest's kernel says of each attack.
pub(crate) const NAME_VULNERABILITIES: &str = "
cd /sys/devices/system/cpu/vulnerabilities || exit 1
for attack in *; do
    echo LAB-GUEST-VULNERABILITY $attack: $(cat $attack)
done
";

/// What the host's kernel says, by attack.
fn of_host() -> BTreeMap<String, String> {
    let files = fs::read_dir(FOLDER).expect("the host's kernel names no attacks");
    files
        .map(|file| {
            let file = file.expect("a readable folder");
            let text = fs::read_to_string(file.path()).expect("a readable file");
            let name = file.file_name().into_string().expect("a name of Linux'");
            (name, text.trim().to_owned())
        })
        .collect()
}

/// What the guest's kernel said in its job, by attack.
fn of_guest(console: &str) -> BTreeMap<String, String> {
    let lines = console
        .lines()
        .filter_map(|line| line.split_once("LAB-GUEST-VULNERABILITY "));
    lines
        .filter_map(|(_, words)| words.split_once(": "))
        .map(|(attack, text)| (attack.to_owned(), text.trim().to_owned()))
        .collect()
}

/// Fails unless the guest, whose job was [`NAME_VULNERABILITIES`], knows of every attack that the host
/// knows to do something, and defends itself where the host does.
#[track_caller]
pub(crate) fn assert_as_wary_as_host(console: &str) {
    let (host, guest) = (of_host(), of_guest(console));
    let both = format!("host: {host:#?}\nguest: {guest:#?}\n{console}");
    for attack in ["meltdown", "spectre_v1", "spec_store_bypass"] {
        let defended = host[attack].starts_with("Mitigation");
        assert!(defended, "the host shows nothing to compare with\n{both}");
    }
    for (attack, host) in host.iter().filter(|(_, text)| *text != NOT_AFFECTED) {
        let Some(guest) = guest.get(attack) else {
            panic!("the guest has not heard of {attack}\n{both}");
        };
        let defended = guest.starts_with("Mitigation");
        let knows = defended || guest.starts_with("Vulnerable");
        assert!(knows, "{attack}: the guest takes itself for safe\n{both}");
        let enough = defended || !host.starts_with("Mitigation");
        assert!(enough, "{attack}: the host defends itself alone\n{both}");
    }
}
