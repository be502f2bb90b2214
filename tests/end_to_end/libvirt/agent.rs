//! A domain as libvirt fills it up by itself: with a USB controller and a memory balloon; and with a guest agent.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::libvirt::{Description, Domain, try_virsh, virsh};

/// Answers libvirt's questions as the guest agent would, as far as they are asked here.
const JOB: &str = r#"
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = org.qemu.guest_agent.0 ] && agent=/dev/${port##*/}
done
[ -c "$agent" ] || { echo LAB-GUEST-ERROR no port; exit 1; }
echo LAB-GUEST-USB $(cat /sys/bus/pci/devices/*/class | grep -c 0x0c03)
echo LAB-GUEST-BALLOON $(ls /sys/bus/virtio/drivers/virtio_balloon | grep -c virtio)
# Memory that the host has to find for it.
mount -t tmpfs -o size=700m tmpfs /root
dd if=/dev/zero of=/root/fill bs=1M count=640 2>/dev/null && rm /root/fill
exec 3<>$agent
while :; do
    read -r line <&3 || { sleep 0.1; continue; }
    case $line in
        *guest-sync*) id=${line##*\"id\":}; echo "{\"return\": ${id%%\}*}}" ;;
        *guest-get-time*) echo '{"return": 1234567890000000000}' ;;
        *guest-ping*) echo '{"return": {}}' ;;
        *guest-shutdown*) break ;;
        *) echo '{"error": {"class": "CommandNotFound", "desc": "no such command"}}' ;;
    esac >&3
done
"#;

const CHANNEL: &str =
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// The number behind a name in what virsh says.
pub(super) fn number(text: &str, name: &str) -> Option<u64> {
    let mut words = text.split_whitespace().skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

/// Waits until libvirt says that of the agent.
#[track_caller]
fn wait_for_agent(domain: &Domain, state: &str) {
    let wanted = format!("state='{state}'");
    domain.wait_until(&wanted, |domain| {
        let xml = domain.virsh("dumpxml");
        let channel = xml.split("<channel").nth(1).unwrap_or_default();
        channel.contains(&wanted)
    });
}

/// What virsh says of memory, once `is_so`.
#[track_caller]
fn memory_once(domain: &Domain, what: &str, is_so: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let said = domain.virsh("dommemstat");
        if is_so(&said) {
            return said;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no {what}: {said}\n{}",
            domain.messages()
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Fails unless the agent of the domain `defaults` answers a ping.
#[track_caller]
fn assert_agent_answers() {
    let ping = virsh(&[
        "qemu-agent-command",
        "defaults",
        "{\"execute\":\"guest-ping\"}",
    ]);
    assert!(ping.contains("return"), "{ping}");
}

/// Fails unless the balloon of the domain `defaults` tells of its guest's memory, takes half of it, so that the host
/// has it back, and lets it go again.
#[track_caller]
fn assert_balloon_tells_and_gives_back(domain: &Domain) {
    virsh(&["dommemstat", "defaults", "--period", "1"]);
    memory_once(domain, "statistics", |said| {
        number(said, "actual") == Some(1 << 20)
            && number(said, "unused").is_some_and(|kib| kib > 256 << 10)
            && number(said, "last_update").is_some_and(|seconds| seconds != 0)
    });
    let resident = |said: &str| number(said, "rss").unwrap_or(0);
    let large = domain.virsh("dommemstat");
    assert!(resident(&large) > 640 << 10, "{large}");
    virsh(&["setmem", "defaults", "512M", "--live"]);
    let small = memory_once(domain, "smaller guest", |said| {
        number(said, "actual") == Some(512 << 10)
    });
    virsh(&["setmem", "defaults", "1G", "--live"]);
    memory_once(domain, "larger guest", |said| {
        number(said, "actual") == Some(1 << 20)
    });
    assert!(resident(&small) < 560 << 10, "{small}");
}

#[test]
fn a_default_domain_starts_and_its_agent_and_its_balloon_answer() {
    let domain = Description::new("defaults")
        .with_defaults()
        .device(CHANNEL)
        .job(JOB)
        .define();
    let xml = domain.virsh("dumpxml");
    for part in [
        "<controller type='usb'",
        "<memballoon model='virtio'",
        "<channel type='unix'",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    domain.start();
    wait_for_agent(&domain, "connected");
    let time = virsh(&["domtime", "defaults"]);
    assert_eq!(number(&time, "Time:"), Some(1_234_567_890), "{time}");
    assert_agent_answers();
    let console = domain.console();
    for expected in ["LAB-GUEST-USB 0", "LAB-GUEST-BALLOON 1"] {
        assert!(console.contains(expected), "{console}");
    }
    assert!(
        domain.messages().contains("there is no USB"),
        "{}",
        domain.messages()
    );
    assert_balloon_tells_and_gives_back(&domain);
    domain.virsh("suspend");
    domain.virsh("resume");
    assert_agent_answers();
    // This guest's agent ends by it.
    let _ = try_virsh(&["shutdown", "defaults", "--mode", "agent"]);
    domain.wait_for_state("shut off (shutdown)");
    domain.virsh("undefine");
}
