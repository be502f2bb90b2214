//! The domain that a page has a reader copy, which is much like the one that is run for every change.

use crate::harness::documents::marked;
use crate::libvirt::documents::assert_reads;

#[test]
fn the_domain_to_copy_runs() {
    let page = include_str!("../../../../docs/libvirt.md");
    assert_reads(&marked(page, "run-in-libvirt"));
}
