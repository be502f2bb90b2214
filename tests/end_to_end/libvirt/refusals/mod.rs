//! What virsh says of what is not there: of a domain that cannot be started as it is, and of what cannot be done with
//! one that runs. docs/from-qemu.md explains each.

mod cases;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use cases::{CASES, Case, TYPED};

use crate::harness::libvirt::{Description, start, try_inside};

/// The page that explains what is said here.
const PAGE: &str = include_str!("../../../../docs/from-qemu.md");

/// The images that cases name.
const IMAGES: [&str; 2] = ["/tmp/refused-disk", "/tmp/refused-disk-2"];

/// A device of the host's that a running domain does not get.
const HOST_DEVICE: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
     <address domain='0x0001' bus='0x01' slot='0x00' function='0x0'/></source></hostdev>";

/// Makes the images; they are refused before anybody looks what is in them.
fn make_images() {
    for path in IMAGES {
        fs::write(path, [0; 1 << 20]).expect("write");
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("chmod");
    }
}

/// Runs virsh with all these commands, one after the other whatever becomes of each, and returns what it says to each.
/// To start virsh takes an emulated host a second.
fn virsh_says(commands: impl Iterator<Item = String>) -> Vec<String> {
    let mark = "NEXT-COMMAND";
    let script = commands.map(|command| format!("{command}; echo {mark}"));
    let script = script.collect::<Vec<_>>().join("; ");
    let output = try_inside(&["sh", "-c", "exec virsh \"$0\" 2>&1", &script]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split(mark)
        .map(|part| part.trim().to_owned())
        .collect()
}

/// A domain of a case.
fn define(case: &Case) -> String {
    let Case {
        name,
        devices,
        elements,
        ..
    } = case;
    let description = Description::new(name).element(elements).device(devices);
    let mut xml = description.xml();
    for (here, there) in case.changes {
        assert!(xml.contains(here), "{name}: no {here} in {xml}");
        xml = xml.replace(here, there);
    }
    let path = format!("/tmp/refused-{name}.xml");
    fs::write(&path, xml).expect("write");
    path
}

/// Checks what was said, and that the page has it.
fn check(what: &str, told: &str, said: &str, wrong: &mut Vec<String>) {
    if !said.contains(told) {
        wrong.push(format!("{what}: no {told:?} in\n{said}"));
    }
    if !PAGE.contains(told) {
        wrong.push(format!(
            "{what}: docs/from-qemu.md does not explain {told:?}"
        ));
    }
}

#[test]
fn what_a_domain_of_qemus_has_and_is_not_here_is_refused_in_words_that_its_page_explains() {
    start();
    make_images();
    let commands = CASES.iter().map(|case| {
        let (name, path) = (case.name, define(case));
        format!("define {path}; start {name}; destroy {name}; undefine {name}")
    });
    let said = virsh_says(commands);
    let mut wrong = Vec::new();
    for (case, said) in CASES.iter().zip(&said) {
        check(case.name, case.told, said, &mut wrong);
        if said.contains("started") {
            wrong.push(format!("{} was started:\n{said}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_cannot_be_done_with_a_running_domain_is_refused_in_words_that_its_page_explains() {
    start();
    make_images();
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/></disk>",
        IMAGES[0]
    );
    fs::write("/tmp/refused-hostdev.xml", HOST_DEVICE).expect("write");
    let domain = Description::new("running").device(&disk).define();
    domain.start();
    let said = virsh_says(TYPED.iter().map(|(typed, _)| (*typed).to_owned()));
    let mut wrong = Vec::new();
    for ((typed, told), said) in TYPED.iter().zip(&said) {
        check(typed, told, said, &mut wrong);
    }
    // None of it has done the guest any harm.
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    domain.virsh("destroy");
    domain.virsh("undefine");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
