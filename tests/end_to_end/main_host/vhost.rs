//! Network cards whose frames the host's kernel passes (vhost-net).

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::every_host::network::{SET_UP_EXITS, assert_passed, frames};
use crate::harness::finished::printed;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interface::Interface;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256, reboot_once};
use crate::harness::kernel_log::KernelLog;
use crate::harness::monitor::Monitor;
use crate::harness::running::Running;
use crate::harness::scratch::VHOST_MARK;
use crate::harness::{Vmm, finished::Finished};

/// Wakes of the card's thread that have nothing to do with frames.
const OTHER_WAKES: u64 = 20;

/// How often the card's thread looks whether its interface is still there.
const LOOKS_SECONDS: u64 = 5;
/// Frames for which it could be awake.
const FRAMES: u64 = 10;

/// How often the card's thread has waited for something.
fn waits(running: &Running) -> u64 {
    let thread = running.thread("virtio-net");
    let path = format!("/proc/{}/task/{thread}/status", running.id());
    let status = fs::read_to_string(path).expect("it has ended");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok())
        .expect("a number")
}

/// The kernel wakes whoever waits for an interface as it has a frame, also one who does not want to hear that.
#[track_caller]
fn assert_nobody_waits_for_the_interface(running: &Running) {
    let process = Path::new("/proc").join(running.id().to_string());
    let names = |folder: &str| {
        let entries = fs::read_dir(process.join(folder)).expect("it has ended");
        entries.map(|entry| entry.expect("an entry").file_name())
    };
    let is_interface = |name: &OsString| {
        let target = fs::read_link(process.join("fd").join(name));
        target.is_ok_and(|target| target == Path::new("/dev/net/tun"))
    };
    let interfaces: Vec<_> = names("fd").filter(is_interface).collect();
    assert!(!interfaces.is_empty());
    let mut epolls = 0;
    for name in names("fdinfo") {
        let text = fs::read_to_string(process.join("fdinfo").join(name)).unwrap_or_default();
        // "tfd: 17 events: 1 data: 0 pos:0 ino:3 sdev:e" (proc(5)).
        let waited = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let waited: Vec<_> = waited
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        epolls += usize::from(!waited.is_empty());
        for interface in &interfaces {
            assert!(!waited.iter().any(|it| *interface == **it), "{text}");
        }
    }
    assert!(epolls > 0);
}

/// Its interface is deleted; the guest says when its link is down.
const LOSE: &str = "
echo LAB-GUEST-READY $(cat /sys/class/net/eth0/carrier)
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    [ $(cat /sys/class/net/eth0/carrier) = 0 ] && break
    sleep 1
done
echo LAB-GUEST-CARRIER $(cat /sys/class/net/eth0/carrier)
";

#[track_caller]
fn delete(interface: &str) {
    let mut ip = Command::new("ip");
    let deleted = ip.args(["link", "delete", interface]).status();
    assert!(deleted.expect("cannot run ip").success());
}

#[test]
fn a_guest_hears_that_its_interface_is_gone_whoever_passes_its_frames() {
    for vhost in ["", ",vhost=on"] {
        let interface = Interface::new("vm0", 1);
        let listener = interface.listen();
        let mut running = Vmm::job(&[&interface.job(), LOSE].concat())
            .option("--net", &format!("tap=vm0{vhost}"))
            .argument("--sandbox")
            .start();
        running.wait_for_console("LAB-GUEST-READY 1", 1);
        delete("vm0");
        let finished = running.finish().assert_job_done();
        assert_passed(&finished, listener);
        assert_eq!(finished.guest("CARRIER"), "0", "{finished}");
        let errors = finished.errors();
        let told = "--net tap=vm0: the guest's network is gone, and its link is down";
        assert_eq!(errors.matches(told).count(), 1, "{finished}");
        assert_nothing_is_left();
    }
}

#[track_caller]
fn assert_seldom_awake(finished: &Finished, waits: u64) {
    let frames = frames(finished);
    assert!(frames > 5 * OTHER_WAKES, "{frames}: {finished}");
    assert!(waits < OTHER_WAKES, "{waits}: {finished}");
    let exits = finished.number("/exits/mmio");
    assert!(exits < SET_UP_EXITS, "{exits}: {finished}");
}

#[test]
fn nobody_is_awake_for_frames_that_the_kernel_passes_also_after_a_reboot_beside_an_nvme() {
    let interface = Interface::new("vm0", 1);
    let listener = interface.listen();
    let again = reboot_once(VHOST_MARK, "a-mark-of-the-vhost-test");
    let job = [
        WAIT_FOR_NVME,
        &again,
        &interface.job(),
        READ_HEAD,
        "echo LAB-GUEST-IDLE yes; sleep 2\n",
    ]
    .concat();
    let mut running = Vmm::job(&job)
        .nvme_with_windows()
        .option("--net", "tap=vm0,vhost=on")
        .option("--cpus", "2")
        .argument("--sandbox")
        .start();
    running.wait_for_console("LAB-GUEST-ADDRESS", 1);
    let before = waits(&running);
    assert_nobody_waits_for_the_interface(&running);
    running.wait_for_console("LAB-GUEST-IDLE", 1);
    let waits = waits(&running) - before;
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_passed(&finished, listener);
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_seldom_awake(&finished, waits);
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}

/// Takes the card from Linux' driver, and has the kernel serve rings where the guest's kernel has its code; then gives
/// the card back. Common configuration is at the beginning of BAR 0 (virtio 4.1.4.3).
const RUBBISH: &str = "
for it in /sys/bus/pci/devices/*; do [ $(cat $it/device) = 0x1041 ] && device=$it; done
name=${device##*/}
echo $name >$device/driver/unbind
printf '\\006\\000' | dd of=$device/config bs=1 seek=4 conv=notrunc 2>/dev/null
start=$(awk 'NR == 1 { print $1 }' $device/resource)
put() { devmem $(($start + $1)) $2 $3; }
get() { devmem $(($start + $1)) $2; }
put 0x14 8 0; put 0x14 8 1; put 0x14 8 3
put 8 32 1; put 0xc 32 1; put 8 32 0; put 0xc 32 0
put 0x14 8 11
echo LAB-GUEST-AGREED $(get 0x14 8)
code=0x$(grep -m 1 ' _stext$' /proc/kallsyms | cut -c 9-16)
for queue in 0 1; do
    put 0x16 16 $queue
    put 0x20 32 $code; put 0x24 32 0; put 0x28 32 $code; put 0x2c 32 0; put 0x30 32 0x2000000; put 0x34 32 0
    put 0x1c 16 1
done
put 0x14 8 15
for _ in 1 2 3 4 5 6 7 8 9 10; do put 0x3000 16 0; put 0x3004 16 1; sleep 0.1; done
echo LAB-GUEST-STATE $(get 0x14 8)
put 0x14 8 0
echo LAB-GUEST-RESET $(get 0x14 8)
echo $name >/sys/bus/pci/drivers/virtio-pci/bind
";

#[test]
fn rings_that_make_no_sense_stop_the_card_once_and_a_reset_makes_it_work_again() {
    let interface = Interface::new("vm0", 1);
    let listener = interface.listen();
    let kernel_log = KernelLog::from_now();
    let finished = Vmm::job(&[RUBBISH, &interface.job()].concat())
        .option("--net", "tap=vm0,vhost=on")
        .argument("--sandbox")
        .run()
        .assert_job_done();
    assert_eq!(finished.guest("AGREED"), "0x0B", "{finished}");
    // DEVICE_NEEDS_RESET, and all that the driver has set.
    assert_eq!(finished.guest("STATE"), "0x4F", "{finished}");
    assert_eq!(finished.guest("RESET"), "0x00", "{finished}");
    assert_passed(&finished, listener);
    let told = "the host's kernel does not serve its driver's rings";
    let count = finished.errors().matches(told).count();
    assert_eq!(count, 1, "{finished}");
    kernel_log.assert_no_complaint();
    assert_nothing_is_left();
}

/// Whether whoever is at `address` answers.
fn answers(address: &str) -> bool {
    let status = Command::new("ping")
        .args(["-c", "1", "-W", "3", "-q", address])
        .stdout(Stdio::null())
        .status();
    status.expect("no ping").success()
}

/// A guest with a card behind `vm0` and a monitor: it gets an address, does `then`, and waits.
fn start_monitored(interface: &Interface, then: &str) -> (Running, Monitor) {
    // Up to where it would pass data.
    let job = interface.job();
    let (job, _) = job.split_once("digest()").expect("two parts");
    FrontEnd::job(&[job, then, "sleep 60\n"].concat())
        .option(
            "-netdev",
            r#"{"type":"tap","ifname":"vm0","vhost":true,"id":"n"}"#,
        )
        .option("-device", "virtio-net-pci,netdev=n,id=net0")
        .option("-sandbox", "on")
        .start()
}

#[test]
fn an_interface_that_went_while_the_guest_was_paused_is_told_as_what_it_is() {
    let interface = Interface::new("vm0", 1);
    let (mut running, mut monitor) = start_monitored(&interface, LOSE);
    running.wait_for_console("LAB-GUEST-READY 1", 1);
    monitor.reply("stop", &json!({}));
    delete("vm0");
    // The kernel does not begin with it again.
    monitor.reply("cont", &json!({}));
    running.wait_for_console("LAB-GUEST-CARRIER 0", 1);
    monitor.reply("quit", &json!({}));
    let finished = running.finish();
    let errors = finished.errors();
    let told = "the guest's network is gone, and its link is down";
    assert_eq!(errors.matches(told).count(), 1, "{finished}");
    assert_eq!(errors.lines().count(), 1, "{finished}");
}

#[test]
fn the_kernel_passes_nothing_while_the_guest_is_paused_or_its_cable_is_out() {
    let interface = Interface::new("vm0", 1);
    let (mut running, mut monitor) = start_monitored(&interface, "echo LAB-GUEST-UP\n");
    running.wait_for_console("LAB-GUEST-UP", 1);
    let console = running.console();
    let address = printed(&console, "LAB-GUEST-ADDRESS ")[0];
    let address = address.split('/').next().expect("an address").to_owned();
    assert!(answers(&address), "{console}");
    let (before, since) = (waits(&running), Instant::now());
    assert!((0..FRAMES).all(|_| answers(&address)), "{console}");
    let waits = waits(&running) - before;
    let looks = since.elapsed().as_secs() / LOOKS_SECONDS + 1;
    assert!(
        waits <= looks && looks < FRAMES,
        "its thread was awake for frames: {waits} times, where {looks} looks were due"
    );
    for (out, back) in [
        (("stop", json!({})), ("cont", json!({}))),
        (
            ("set_link", json!({"name": "net0", "up": false})),
            ("set_link", json!({"name": "net0", "up": true})),
        ),
    ] {
        monitor.reply(out.0, &out.1);
        // Frames that were read of the interface, be it by the kernel: it lets a few wait.
        let read = interface.frames_read();
        assert!(!answers(&address), "{}: {}", out.0, running.console());
        assert_eq!(interface.frames_read(), read, "{}: passed on", out.0);
        monitor.reply(back.0, &back.1);
        let comes_back = (0..5).any(|_| answers(&address));
        assert!(comes_back, "{}: {}", back.0, running.console());
    }
    monitor.reply("quit", &json!({}));
    let finished = running.finish();
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}
