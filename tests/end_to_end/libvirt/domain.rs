//! A domain's life: definition, start, terminal, pause, reboot, power-off, crash.

use crate::harness::libvirt::{Description, kill, start, try_virsh, virsh};

/// What Linux prints when it powers off.
const POWERS_OFF: &str = "Power off requested";

/// Starts libvirtd as it starts with the host: only then it starts domains by itself.
fn restart_as_at_boot() {
    kill();
    // Its mark that it has done so.
    std::fs::remove_file("/libvirt/run/libvirt/qemu/autostarted").expect("no mark");
    start();
}

#[test]
fn a_domain_lives_as_virsh_says() {
    let domain = Description::new("life").define();
    assert_eq!(domain.state(), "shut off (unknown)");
    domain.virsh("autostart");
    restart_as_at_boot();
    domain.wait_until("a start by itself", |domain| {
        domain.state() == "running (booted)"
    });
    assert!(virsh(&["list"]).contains("life"));
    let information = domain.virsh("dominfo");
    for fact in ["Autostart:      enable", "CPU(s):         2"] {
        assert!(information.contains(fact), "{information}");
    }
    let processors = domain.virsh("vcpuinfo");
    assert_eq!(
        processors.matches("State:          running").count(),
        2,
        "{processors}"
    );
    let statistics = domain.virsh("domstats");
    assert!(statistics.contains("vcpu.current=2"), "{statistics}");
    domain.wait_for_prompt(1);
    let mut console = domain.attach_console();
    console.typist.command("echo typed-$((40 + 2))", "typed-42");
    console.leave();
    domain.virsh("suspend");
    assert_eq!(domain.state(), "paused (user)");
    domain.virsh("resume");
    assert_eq!(domain.state(), "running (unpaused)");
    domain.virsh("reset");
    domain.wait_for_shell(2);
    domain.virsh("reboot");
    domain.wait_for_console(POWERS_OFF, 1);
    domain.wait_for_shell(3);
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    domain.virsh("shutdown");
    domain.wait_for_state("shut off (shutdown)");
    assert_eq!(domain.console().matches(POWERS_OFF).count(), 2);
    domain.start();
    domain.virsh("destroy");
    assert_eq!(domain.state(), "shut off (destroyed)");
    domain.virsh("undefine");
    assert!(!virsh(&["list", "--all"]).contains("life"));
    assert!(!try_virsh(&["dominfo", "life"]).status.success());
}

#[test]
fn a_crash_shows_as_crashed() {
    let domain = Description::new("crash")
        .job("echo c >/proc/sysrq-trigger")
        .define();
    domain.start();
    domain.wait_for_state("shut off (crashed)");
    assert!(domain.console().contains("sysrq: Trigger a crash"));
}
