//! Making a machine, and giving it back.

use std::collections::BTreeSet;

use spapr_devices::rtas::KERNEL_SERVICES;
use spapr_kvm::fake;
use spapr_kvm::fake::bindings::{
    KVM_CAP_IRQ_XICS, KVM_CAP_MAX_VCPUS, KVM_CAP_PPC_MMU_RADIX, KVM_CAP_PPC_PAPR, KVM_CAP_PPC_SMT,
};

use super::{Bench, MachineError, forget_processors};

fn place(bench: &Bench, name: &str, argument: u64) -> usize {
    let calls = bench.host.calls();
    let mut calls = calls.iter();
    calls
        .position(|call| call.name == name && call.argument == argument)
        .unwrap_or_else(|| panic!("no {name} of {argument}"))
}

#[test]
fn memory_and_the_interrupt_controller_are_there_before_a_processor_and_rtas_after_all() {
    let mut bench = Bench::new();
    bench.description.threads_per_core = 2;
    let machine = bench.make().expect("a machine");
    let at = |name, argument| place(&bench, name, argument);
    let calls = bench.host.calls();
    let controller = calls
        .iter()
        .position(|call| call.name == "KVM_CREATE_DEVICE");
    let controller = controller.expect("an interrupt controller");
    let services = KERNEL_SERVICES.iter();
    let tokens: BTreeSet<u64> = services.map(|service| service.token.into()).collect();
    let first_token = *tokens.first().expect("services");
    let order = [
        at("KVM_CREATE_VM", 0x1),
        at("KVM_ENABLE_CAP", KVM_CAP_PPC_SMT.into()),
        at("KVM_SET_USER_MEMORY_REGION", 0),
        controller,
        at("KVM_CREATE_VCPU", 0),
        at("KVM_CREATE_VCPU", 1),
        at("KVM_PPC_RTAS_DEFINE_TOKEN", first_token),
    ];
    assert!(order.is_sorted(), "{order:?} of {:#?}", bench.host.calls());
    for vcpu in [0, 1] {
        for capability in [KVM_CAP_PPC_PAPR, KVM_CAP_IRQ_XICS] {
            assert!(
                bench.host.guest(vcpu).has_capability(capability),
                "{capability}"
            );
        }
    }
    assert_eq!(bench.host.slots(), [(0, 128 << 20)]);
    let named = bench.host.rtas_tokens().into_iter();
    let named: BTreeSet<u64> = named.map(|(token, _)| token).collect();
    assert_eq!(named, tokens);
    drop(machine);
    assert_eq!(bench.host.alive(), []);
    let closed = |name| place(&bench, name, if name == "close VM" { 0 } else { 1 });
    assert!(closed("close vCPU") < closed("close VM"));
}

/// Of each call that making a machine takes, what becomes of it when it is refused.
#[test]
fn whatever_kvm_refuses_all_that_was_made_is_given_back() {
    let bench = Bench::new();
    drop(bench.make().expect("a machine"));
    let calls = bench.host.calls().into_iter();
    let calls: Vec<fake::Call> = calls.filter(|call| call.name.starts_with("KVM_")).collect();
    assert!(calls.len() > 12, "{calls:?}");
    for fake::Call { name, argument } in calls {
        let refusing = Bench::new();
        refusing.host.refuse(name, argument, libc::EIO);
        match refusing.make() {
            // The guest is told to defend itself then.
            Ok(_) => assert_eq!(name, "KVM_PPC_GET_CPU_CHAR"),
            Err(error) => {
                let is_known = matches!(
                    error,
                    MachineError::Host(_) | MachineError::Kvm(_) | MachineError::Processor(_)
                );
                assert!(is_known, "{name} {argument:#x}: {error:?}");
            }
        }
        assert_eq!(refusing.host.alive(), [], "after {name} of {argument:#x}");
    }
}

#[test]
fn what_the_host_lacks_is_said_before_anything_but_the_vm_is_made() {
    for (capability, answer, part) in [
        (KVM_CAP_PPC_MMU_RADIX, 0, "disable_radix"),
        (KVM_CAP_IRQ_XICS, 0, "KVM_CAP_IRQ_XICS"),
        (KVM_CAP_MAX_VCPUS, 1, "2 processors are more than"),
    ] {
        let bench = Bench::new();
        bench.host.set_capability(capability, answer);
        let error = bench.make().err().expect("it lacks something");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.exit_status(), 2);
        let calls = bench.host.calls();
        let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
        assert_eq!(names, ["KVM_CREATE_VM", "close VM"], "{error}");
    }
}

#[test]
fn a_host_that_does_not_describe_its_processors_makes_no_machine() {
    let bench = Bench::new();
    forget_processors(bench.folder.path());
    let error = bench.make().err().expect("it does not say");
    assert!(matches!(error, MachineError::Processor(_)), "{error:?}");
    assert_eq!(bench.host.alive(), []);
}

#[test]
fn a_kernel_that_is_none_is_said_before_kvm_is_opened() {
    let bench = Bench::new();
    std::fs::write(&bench.description.kernel, "#!/bin/sh\n").expect("a file");
    let error = bench.make().err().expect("no kernel");
    assert!(matches!(error, MachineError::Boot(_)), "{error:?}");
    assert_eq!(bench.host.calls(), []);
}

#[test]
fn a_machine_that_has_run_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.start().stop();
    assert_eq!(bench.host.alive(), []);
    // One that nobody stops.
    drop(bench.start());
    assert_eq!(bench.host.alive(), []);
}
