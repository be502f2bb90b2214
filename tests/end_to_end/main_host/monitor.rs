//! A guest driven by the monitor protocol: started, paused, reset, powered off.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::front_end::FrontEnd;
use crate::harness::host::{self, assert_nothing_is_left};
use crate::harness::jobs::{READ_ALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::running::type_line;
use crate::harness::typist::PROMPT;

/// Printed by the guest's init when the shell is about to start.
const SHELL_STARTS: &str = "LAB-GUEST-INIT";

#[test]
fn a_guest_starts_when_it_is_told_and_powers_off_when_it_is_asked() {
    let front_end = FrontEnd::linux().option("-smp", "2,sockets=2,cores=1,threads=1");
    let (mut running, mut monitor) = front_end.argument("-S").argument("-no-shutdown").start();
    assert_eq!(monitor.status(), "prelaunch");
    assert_eq!(running.console(), "");
    let processors = monitor.ask("query-cpus-fast");
    let ids: Vec<u64> = processors
        .as_array()
        .expect("a list")
        .iter()
        .map(|processor| processor["thread-id"].as_u64().expect("a number"))
        .collect();
    assert_eq!(ids.len(), 2);
    for id in &ids {
        let name = format!("/proc/{}/task/{id}/comm", running.id());
        let name = std::fs::read_to_string(name).expect("no such thread");
        assert!(name.starts_with("CPU "), "{name}");
    }
    monitor.ask("cont");
    monitor.wait_for("RESUME");
    // Not before: the kernel's words would come in between those of the guest's init.
    running.wait_for_console(PROMPT, 1);
    monitor.ask("system_powerdown");
    monitor.wait_for("POWERDOWN");
    let event = monitor.wait_for("SHUTDOWN");
    assert_eq!(
        event["data"],
        json!({"guest": true, "reason": "guest-shutdown"})
    );
    monitor.wait_for("STOP");
    assert_eq!(monitor.status(), "shutdown");
    // Written by a thread of its own.
    running.wait_for_console("Power off requested", 1);
    // As libvirt makes a reboot of it.
    monitor.ask("system_reset");
    monitor.ask("cont");
    monitor.wait_for("RESET");
    running.wait_for_console(PROMPT, 2);
    let again = monitor.ask("query-cpus-fast");
    assert_eq!(again, processors, "the processors' threads are others");
    monitor.ask("quit");
    let event = monitor.wait_for("SHUTDOWN");
    assert_eq!(
        event["data"],
        json!({"guest": false, "reason": "host-qmp-quit"})
    );
    running.finish().assert_status(0);
}

#[test]
fn a_paused_guest_does_nothing_and_goes_on_where_it_was() {
    let (mut running, mut monitor) = FrontEnd::linux().option("-smp", "2").start();
    running.wait_for_console(SHELL_STARTS, 1);
    let mut keyboard = running.stdin();
    type_line(&mut keyboard, "while true; do date +%s; sleep 0.2; done");
    // One line more than the command's echo.
    running.wait_for_console("\n1", 3);
    for _ in 0..3 {
        monitor.ask("stop");
        monitor.wait_for("STOP");
        thread::sleep(Duration::from_millis(300));
        let before = running.console();
        thread::sleep(Duration::from_secs(3));
        assert_eq!(running.console(), before, "a paused guest wrote");
        assert_eq!(monitor.status(), "paused");
        monitor.ask("cont");
        monitor.wait_for("RESUME");
        running.wait_for_console("\n1", before.matches("\n1").count() + 2);
    }
    let console = running.console();
    assert!(
        !console.contains("stall") && !console.contains("lockup"),
        "{console}"
    );
    monitor.ask("quit");
    running.finish().assert_status(0);
    assert_nothing_is_left();
}

#[test]
fn a_guest_that_crashes_is_told_of() {
    let (mut running, mut monitor) = FrontEnd::job("echo c >/proc/sysrq-trigger")
        .argument("-no-shutdown")
        .start();
    let event = monitor.wait_for("GUEST_PANICKED");
    assert_eq!(event["data"], json!({"action": "pause"}));
    monitor.wait_for("STOP");
    assert_eq!(monitor.status(), "guest-panicked");
    let told = running.wait_for_message("sysrq triggered crash");
    let expected = "error: the guest's operating system stopped and gave no reason; its console \
                    (standard output) says \"";
    assert!(told.contains(expected), "{told}");
    running.signal(rustix::process::Signal::TERM);
    let event = monitor.wait_for("SHUTDOWN");
    assert_eq!(event["data"]["reason"], "host-signal");
    running.finish().assert_status(0);
}

/// Only the first processor is used: the emulated host hands KVM a wrong address for the instruction
/// by which threads of one core interrupt each other (msgsndp), so KVM cannot emulate it here.
#[test]
fn threads_of_a_core_are_what_the_guest_sees() {
    let job = "
cd /proc/device-tree/cpus
echo LAB-GUEST-CORES $(ls -d PowerPC* | wc -l)
echo LAB-GUEST-THREADS $(($(cat PowerPC*@2/ibm,ppc-interrupt-server* | wc -c) / 4))
";
    let front_end = FrontEnd::job(job)
        .option("-smp", "4,sockets=1,cores=2,threads=2")
        .option("-append", "console=hvc0 maxcpus=1");
    let (running, _monitor) = front_end.start();
    let finished = running.finish();
    finished.assert_status(0);
    assert_eq!(finished.guest("CORES"), "2");
    assert_eq!(finished.guest("THREADS"), "2");
}

#[test]
fn what_is_not_supported_is_named_and_nothing_is_left() {
    for (name, value, expected) in [
        (
            "-device",
            "virtio-blk-pci,id=d",
            "-device virtio-blk-pci needs the property drive",
        ),
        (
            "-netdev",
            "user,id=n",
            "-netdev user is not supported: networks without privileges are passt's",
        ),
        ("-m", "64", "-m: guest memory of 64M is too small"),
        (
            "-m",
            "1T",
            "-m: guest memory of 1T is more than this host has",
        ),
        (
            "-device",
            "vfio-pci,host=1:7:0.0",
            "-device vfio-pci: there is no PCI device 0001:07:00.0",
        ),
        (
            "-device",
            "{\"driver\":\"virtio-net-pci\",\"netdev\":\"n\"}",
            "-device virtio-net-pci: there is no netdev n",
        ),
        (
            "-cpu",
            "POWER10",
            "-cpu: the guest cannot have a POWER10: KVM gives it the host's own processor",
        ),
    ] {
        let (running, path) = FrontEnd::linux().option(name, value).start_alone();
        let finished = running.finish();
        finished.assert_status(1);
        assert!(finished.errors().contains(expected), "{finished}");
        assert!(!finished.errors().contains(" --"), "{finished}");
        drop(path);
    }
}

/// Reads all of the disk three times.
mod long {
    use super::*;

    #[test]
    fn a_device_works_where_its_place_says_and_after_resets() {
        let lspci = "
    for device in /sys/bus/pci/devices/*; do echo LAB-GUEST-PCI $(basename $device); done
    ";
        let job = [WAIT_FOR_NVME, lspci, READ_ALL].concat();
        let device = json!({
            "driver": "vfio-pci", "host": host::nvme(), "id": "hostdev0", "bus": "pci.3.0",
            "addr": "0x5"
        });
        let (mut running, mut monitor) = FrontEnd::job(&job)
            .option(
                "-device",
                r#"{"driver":"spapr-pci-host-bridge","index":3,"id":"pci.3"}"#,
            )
            .option("-device", &device.to_string())
            .argument("-no-shutdown")
            .start();
        // In the middle of what it does.
        running.wait_for_console(SHELL_STARTS, 1);
        monitor.ask("system_reset");
        monitor.wait_for("RESET");
        monitor.wait_for("STOP");
        assert_eq!(monitor.status(), "shutdown");
        let console = running.console();
        let digest = format!("LAB-GUEST-SHA256 {}", data_sha256());
        assert_eq!(console.matches(&digest).count(), 1, "{console}");
        assert!(console.contains(":00:05.0"), "{console}");
        let refused = monitor.reply("cont", &json!({}));
        assert_eq!(
            refused["error"]["desc"],
            "Resetting the Virtual Machine is required"
        );
        // When it is done.
        monitor.ask("system_reset");
        assert_eq!(monitor.status(), "prelaunch");
        monitor.ask("cont");
        running.wait_for_console(SHELL_STARTS, 3);
        monitor.ask("quit");
        running.finish().assert_status(0);
        assert_nothing_is_left();
    }
}
