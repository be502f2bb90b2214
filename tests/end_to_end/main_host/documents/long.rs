//! What the documents have a reader type, typed: blocks marked `sh run-in-host`, those of a page in one shell.

use std::process::{Command, Stdio};

use crate::harness::documents::{InitrdOfPages, typed};
use crate::harness::jobs::head_sha256;
use crate::harness::vmm::Folder;

/// Types it, and returns what was said.
fn type_in(text: &str) -> String {
    let _initrd = InitrdOfPages::make();
    let folder = Folder::new();
    let output = Command::new("sh")
        .args(["-euc", text])
        .current_dir(folder.file(""))
        .stdin(Stdio::null())
        .output();
    let output = output.expect("sh");
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}\n{text}\n{said}", output.status);
    said
}

/// How often a guest of what was typed read its device.
#[track_caller]
fn assert_reads(said: &str, times: usize) {
    let digest = head_sha256();
    assert_eq!(said.matches(&digest).count(), times, "{said}");
    assert_eq!(said.matches("LAB-GUEST-STATUS 0").count(), times, "{said}");
}

#[test]
fn who_follows_getting_started_has_a_guest_that_reads_its_device() {
    let page = include_str!("../../../../docs/getting-started.md");
    let said = type_in(&typed(page));
    assert!(said.contains("can be, now"), "{said}");
    assert!(
        said.contains("can be passed to a guest of 1G now"),
        "{said}"
    );
    assert_reads(&said, 1);
}

#[test]
fn a_file_of_options_runs_the_guest_that_was_typed() {
    let page = include_str!("../../../../docs/packaging.md");
    let said = type_in(&typed(page));
    assert_reads(&said, 1);
}

#[test]
fn the_front_end_runs_by_hand_what_its_page_shows() {
    let page = include_str!("../../../../docs/libvirt.md");
    let said = type_in(&typed(page));
    assert_reads(&said, 1);
}
