//! What the documents have a reader type, made to fit a host of the lab.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use spapr_lab::documents::contents;
use spapr_lab::initrd::write_with_overlay;

use super::host;
use super::jobs::{READ_HEAD, WAIT_FOR_NVME};
use super::vmm::{INITRD, job_archive};

/// The initial RAM disk that the pages name, as distributions call it.
const INITRD_OF_PAGES: &str = "/boot/initrd.img";
/// The device that they name.
const DEVICE_OF_PAGES: &str = "0001:01:00.0";

/// A page's blocks with that mark, together.
pub(crate) fn marked(page: &str, mark: &str) -> String {
    let blocks = contents(page).blocks.into_iter();
    let marked = blocks.filter(|block| block.info.ends_with(mark));
    let text: String = marked.map(|block| block.text).collect();
    assert!(!text.is_empty(), "the page has no block marked {mark}");
    text
}

/// What a page has the reader type in a host, for this host's device, and for less memory and fewer processors than
/// the page has its reader take.
pub(crate) fn typed(page: &str) -> String {
    marked(page, "run-in-host")
        .replace(DEVICE_OF_PAGES, &host::nvme())
        .replace("--memory 4G", "--memory 1G")
        .replace("--cpus 4", "--cpus 2")
        .replace("-m 4G -smp 4", "-m 1G -smp 2")
}

/// That a program said what a page shows below `typed`: the same words, but for this host's device and its group, and
/// where the page has "…".
#[track_caller]
pub(crate) fn assert_shown(page: &str, typed: &str, said: &str) {
    let prompt = format!("$ {typed}\n");
    let blocks = contents(page).blocks.into_iter();
    let mut shown = blocks.filter_map(|block| Some(block.text.strip_prefix(&prompt)?.to_owned()));
    let shown = shown
        .next()
        .unwrap_or_else(|| panic!("the page does not show {typed}"));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let group = host::group();
    let shown = shown
        .replace(DEVICE_OF_PAGES, &host::nvme())
        .replace("│ 1 ", &format!("│ {group} "))
        .replace("IOMMU group 1\n", &format!("IOMMU group {group}\n"));
    let shown = words(&shown);
    let said_words = words(said);
    let mut rest = &said_words[..];
    for (index, part) in shown.split('…').map(str::trim).enumerate() {
        let place = rest.find(part).filter(|place| index != 0 || *place == 0);
        let place = place.unwrap_or_else(|| panic!("not said: {part}\nbut: {said}"));
        rest = &rest[place + part.len()..];
    }
    assert!(shown.ends_with('…') || rest.is_empty(), "not shown: {rest}");
}

/// An initial RAM disk where the pages have it, whose guest reads its NVMe and powers off; it goes with this.
#[derive(Debug)]
pub(crate) struct InitrdOfPages(());

impl InitrdOfPages {
    /// Writes it.
    pub(crate) fn make() -> Self {
        let job = job_archive(&[WAIT_FOR_NVME, READ_HEAD].concat(), &[]);
        // A link to the lab's own is there.
        fs::remove_file(INITRD_OF_PAGES).expect("the lab's link");
        write_with_overlay(Path::new(INITRD), &job, Path::new(INITRD_OF_PAGES)).expect("an initrd");
        Self(())
    }
}

impl Drop for InitrdOfPages {
    fn drop(&mut self) {
        // What remains is in memory until the host is off.
        let _ = fs::remove_file(INITRD_OF_PAGES);
        let _ = symlink(INITRD, INITRD_OF_PAGES);
    }
}
