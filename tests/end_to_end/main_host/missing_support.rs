//! Hosts that lack what a guest needs.

use std::path::Path;

use crate::harness::Vmm;
use crate::harness::host::{open_to_all, without_module};
use crate::harness::refusal::{KVM_CAP_PPC_MMU_RADIX, Refusal, request};
use crate::harness::vmm::User;

const USER: User = User { memlock: 1 << 20 };

#[test]
fn a_host_without_kvm() {
    let finished = Vmm::linux().in_namespace("mount -t tmpfs tmpfs /dev").run();
    finished.assert_refused(&["no /dev/kvm", "modprobe kvm-hv"]);
}

#[test]
fn a_user_who_may_not_open_kvm() {
    let finished = Vmm::linux().run_by(USER).run();
    finished.assert_refused(&[
        "no permission to open /dev/kvm",
        "user id 0",
        "mode 600",
        "root",
    ]);
}

#[test]
fn kvm_without_hypervisor_mode() {
    let _without = without_module("kvm_hv");
    Vmm::linux()
        .run()
        .assert_refused(&["hypervisor-mode", "modprobe kvm-hv"]);
}

#[test]
fn kvm_without_radix() {
    let request = request::KVM_CHECK_EXTENSION;
    let radix = Refusal {
        request,
        argument: Some(KVM_CAP_PPC_MMU_RADIX),
        errno: 0,
    };
    let finished = Vmm::linux().refusing(radix).run();
    finished.assert_refused(&["KVM_CAP_PPC_MMU_RADIX", "POWER9", "disable_radix"]);
}

#[test]
fn an_ordinary_user_without_a_device_needs_kvm_only() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let finished = Vmm::bare_metal("flood-guest", "lines=1").run_by(USER).run();
    assert!(
        finished
            .assert_powered_off()
            .console()
            .contains("FLOOD-DONE")
    );
}
