//! Guests with ports of a virtio serial device.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::vmm::Folder;

/// The name of a guest agent's port, and that of another one.
pub(crate) const AGENT: &str = "org.qemu.guest_agent.0";
const PLAIN: &str = "org.example.plain";

/// Bytes that go each way through the plain port, more than socket and queues hold.
const BYTES: usize = 3 << 20;

/// Answers as an agent would, line for line, until it is told to end; meanwhile the plain port's bytes go back as they
/// came.
pub(crate) fn job() -> String {
    format!(
        r#"
ports=/sys/class/virtio-ports
for port in $ports/*; do ln -s /dev/${{port##*/}} "/tmp/$(cat $port/name)"; done
[ -c /tmp/{AGENT} ] || {{ echo LAB-GUEST-ERROR no port: $(ls $ports); exit 1; }}
if [ -e /tmp/{PLAIN} ]; then
    exec 4<>/tmp/{PLAIN}
    # Not read at first. Where nobody is connected, there is an end of file.
    (sleep 2; : >/tmp/plain
    while size=$(wc -c </tmp/plain); [ $size -lt {BYTES} ]; do
        head -c $(({BYTES} - size)) <&4 >>/tmp/plain; sleep 0.1
    done
    cat /tmp/plain >&4) &
fi
exec 3<>/tmp/{AGENT}
echo LAB-GUEST-AGENT ready
while :; do
    read -r line <&3 || {{ sleep 0.1; continue; }}
    case $line in
        end) break ;;
        *) echo "{{\"return\": \"$line\"}}" >&3 ;;
    esac
done
wait
echo LAB-GUEST-PLAIN $(sha256sum </tmp/plain | cut -d' ' -f1)
echo ended >&3
sleep 1
"#
    )
}

/// A peer at a port's socket, which may not be there yet.
pub(crate) fn connect(path: &Path) -> UnixStream {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(peer) => {
                peer.set_read_timeout(Some(Duration::from_secs(120)))
                    .expect("a time");
                return peer;
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Asks the agent, and checks its answer.
#[track_caller]
pub(crate) fn ask(peer: &UnixStream, question: &str) {
    let mut writer = peer;
    writer
        .write_all(format!("{question}\n").as_bytes())
        .expect("cannot ask");
    let mut answer = String::new();
    BufReader::new(peer)
        .read_line(&mut answer)
        .expect("no answer");
    assert_eq!(answer, format!("{{\"return\": \"{question}\"}}\n"));
}

/// Bytes that are not two times the same.
pub(crate) fn bytes() -> Vec<u8> {
    let mut state = 1_u64;
    let mut all = Vec::with_capacity(BYTES);
    while all.len() < BYTES {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        all.extend(&state.to_le_bytes()[3..7]);
    }
    all.truncate(BYTES);
    all
}

/// Sends all through the plain port and gets it back, neither side reading while it writes.
#[track_caller]
pub(crate) fn exchange(path: &Path) {
    use std::io::Read;
    let sent = bytes();
    let mut peer = connect(path);
    peer.write_all(&sent).expect("cannot send");
    let mut heard = vec![0; sent.len()];
    peer.read_exact(&mut heard).expect("nothing comes back");
    assert!(heard == sent, "what comes back is not what was sent");
}

#[test]
fn peers_talk_with_a_guests_ports_one_after_the_other_and_nothing_is_lost() {
    for by_bus_address in [false, true] {
        let folder = Folder::new();
        let [agent, plain] = ["agent", "plain"].map(|name| folder.file(name));
        let port = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut vmm = Vmm::job(&job())
            .option("--serial-port", &port(AGENT, &agent))
            .option("--serial-port", &port(PLAIN, &plain))
            .argument("--sandbox");
        if by_bus_address {
            vmm = vmm.argument("--iommu-platform");
        }
        let mut running = vmm.start();
        // What comes before the guest is up waits for it.
        let early = connect(&agent);
        ask(&early, "first");
        drop(early);
        exchange(&plain);
        running.wait_for_console("LAB-GUEST-AGENT ready", 1);
        for round in 0..3 {
            let peer = connect(&agent);
            ask(&peer, &format!("round {round}"));
            ask(&peer, "again");
        }
        let mut last = connect(&agent);
        last.write_all(b"end\n").expect("cannot say");
        let mut answer = String::new();
        BufReader::new(&last)
            .read_line(&mut answer)
            .expect("no answer");
        assert_eq!(answer, "ended\n");
        let finished = running.finish().assert_job_done();
        finished.assert_no_complaint();
        assert_nothing_is_left();
    }
}
