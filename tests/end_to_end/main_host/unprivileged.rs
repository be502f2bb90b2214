//! An ordinary user who owns the group's device file, may open /dev/kvm and may lock memory.

use std::path::Path;

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, give_to_user, group_node, open_to_all};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::vmm::User;

#[test]
fn an_ordinary_user_can_pass_a_device_through() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    // The guest's memory, its window's tables, and a little.
    let user = User {
        memlock: (1 << 30) + (64 << 20),
    };
    let vmm = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat())
        .nvme()
        .run_by(user);
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    assert!(
        finished.number("/memory/process_locked_bytes") <= user.memlock,
        "{finished}"
    );
    assert_nothing_is_left();
}
