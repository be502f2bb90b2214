//! The domain that the documents have a reader copy, defined and started as it stands there.

use std::fs;

use spapr_lab::documents::contents;

use crate::harness::documents::InitrdOfPages;
use crate::harness::jobs::head_sha256;
use crate::harness::libvirt::{Domain, console_file, nvme, start, virsh};

/// A page's domain for this host's device, with less memory and fewer processors, and a log of the terminal for this
/// test to read.
fn domain(text: &str) -> (String, String) {
    let address = nvme();
    let (place, function) = address.split_once('.').expect("a PCI address");
    let [domain, bus, slot] = place.split(':').collect::<Vec<_>>()[..] else {
        panic!("{address}")
    };
    let name = "guest";
    let log = format!(
        "<serial type='pty'><log file='{}' append='off'/></serial>",
        console_file(name)
    );
    let of_page = "<address domain='0x0001' bus='0x01' slot='0x00' function='0x0'/>";
    let here = format!(
        "<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"
    );
    assert!(
        text.contains(of_page) && text.contains("<serial type='pty'/>"),
        "{text}"
    );
    let text = text
        .replace(of_page, &here)
        .replace("<serial type='pty'/>", &log)
        .replace("<memory unit='GiB'>4<", "<memory unit='GiB'>1<")
        .replace("<vcpu>4<", "<vcpu>2<");
    (name.to_owned(), text)
}

/// Runs the guest, whose kernel's files are where the pages have them.
pub(super) fn assert_reads(text: &str) {
    let (name, text) = domain(text);
    start();
    let _initrd = InitrdOfPages::make();
    let file = format!("/tmp/{name}.xml");
    fs::write(&file, text).expect("write");
    virsh(&["define", &file]);
    let domain = Domain { name };
    domain.start();
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    assert!(console.contains(&head_sha256()), "{console}");
    domain.virsh("undefine");
}

#[test]
fn a_domain_that_was_qemus_runs_as_its_page_changes_it() {
    // The page shows it as what to take out and what to put in.
    let page = include_str!("../../../docs/from-qemu.md");
    let blocks = contents(page).blocks.into_iter();
    let difference = blocks.filter(|block| block.info == "diff");
    let text: String = difference.map(|block| block.text).collect();
    let kept = text.lines().filter(|line| !line.starts_with('-'));
    let domain: String = kept
        .map(|line| format!("{}\n", line.get(1..).unwrap_or_default()))
        .collect();
    assert_reads(&domain);
}
