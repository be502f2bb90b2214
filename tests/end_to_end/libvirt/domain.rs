//! A domain's life: definition, start, terminal, pause, reboot, power-off, crash.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::libvirt::{Description, try_virsh, virsh};

/// Printed by the guest's init when the shell is about to start.
const SHELL_STARTS: &str = "LAB-GUEST-INIT";

/// Types a line on the domain's terminal through `virsh console`, and waits for what it prints.
fn type_on_console(domain: &str, line: &str, expected: &str) {
    // virsh wants a terminal of its own.
    let console = format!("virsh console {domain}");
    let mut virsh = Command::new("lab-libvirt")
        .args(["script", "-qfec", &console, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("virsh console");
    let mut keyboard = virsh.stdin.take().expect("piped");
    let mut screen = virsh.stdout.take().expect("piped");
    let (pieces, seen) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 1024];
        while let Ok(length @ 1..) = screen.read(&mut chunk) {
            let piece = String::from_utf8_lossy(&chunk[..length]).into_owned();
            if pieces.send(piece).is_err() {
                break;
            }
        }
    });
    let mut text = String::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut typed = false;
    while !text.contains(expected) {
        if !typed && text.contains("Escape character") {
            keyboard
                .write_all(format!("{line}\r").as_bytes())
                .expect("type");
            typed = true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match seen.recv_timeout(left) {
            Ok(piece) => text.push_str(&piece),
            Err(_) => panic!("no {expected:?} on the console:\n{text}"),
        }
    }
    // Ctrl-] leaves it.
    keyboard.write_all(b"\x1d").expect("type");
    drop(keyboard);
    virsh.kill().expect("kill");
    virsh.wait().expect("wait");
}

#[test]
fn a_domain_lives_as_virsh_says() {
    let domain = Description::new("life").define();
    assert_eq!(domain.state(), "shut off (unknown)");
    domain.virsh("autostart");
    assert!(domain.virsh("dominfo").contains("Autostart:      enable"));
    virsh(&["autostart", "--disable", "life"]);
    domain.start();
    assert!(virsh(&["list"]).contains("life"));
    assert_eq!(domain.state(), "running (booted)");
    assert!(domain.virsh("dominfo").contains("CPU(s):         2"));
    let processors = domain.virsh("vcpuinfo");
    assert_eq!(
        processors.matches("State:          running").count(),
        2,
        "{processors}"
    );
    let statistics = domain.virsh("domstats");
    assert!(statistics.contains("vcpu.current=2"), "{statistics}");
    domain.wait_for_console(SHELL_STARTS, 1);
    type_on_console("life", "echo typed-$((40 + 2))", "typed-42");
    domain.virsh("suspend");
    assert_eq!(domain.state(), "paused (user)");
    domain.virsh("resume");
    assert_eq!(domain.state(), "running (unpaused)");
    domain.virsh("reset");
    domain.wait_for_console(SHELL_STARTS, 2);
    domain.virsh("reboot");
    domain.wait_for_console("Power off requested", 1);
    domain.wait_for_console(SHELL_STARTS, 3);
    assert!(domain.state().starts_with("running"), "{}", domain.state());
    domain.virsh("shutdown");
    domain.wait_for_state("shut off (shutdown)");
    domain.wait_for_console("Power off requested", 2);
    domain.start();
    domain.virsh("destroy");
    assert_eq!(domain.state(), "shut off (destroyed)");
    domain.virsh("undefine");
    assert!(!virsh(&["list", "--all"]).contains("life"));
    assert!(!try_virsh(&["dominfo", "life"]).status.success());
}

#[test]
fn a_crash_shows_as_crashed() {
    let description = Description::new("crash");
    let domain = description.define();
    domain.start();
    domain.wait_for_console(SHELL_STARTS, 1);
    // The shell takes what comes once it is there.
    thread::sleep(Duration::from_secs(2));
    type_on_console(
        "crash",
        "echo c >/proc/sysrq-trigger",
        "sysrq: Trigger a crash",
    );
    domain.wait_for_state("shut off (crashed)");
}

#[test]
fn terminals_can_be_elsewhere() {
    let domain = Description::new("socket")
        .element("<uuid>1ccfd97d-5eb4-478a-bbe6-88d254c16db7</uuid>")
        .define();
    domain.start();
    let arguments = std::fs::read(format!("/proc/{}/cmdline", domain.process())).expect("cmdline");
    let arguments = String::from_utf8_lossy(&arguments);
    assert!(
        arguments.contains("/dev/fdset/"),
        "the log is a passed descriptor: {arguments}"
    );
    domain.wait_for_console(SHELL_STARTS, 1);
    assert!(domain.console().contains(SHELL_STARTS));
}
