//! TAP interfaces of the host's, and whom a guest finds there.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use super::vmm::Folder;

/// Bytes that go each way.
pub(crate) const BYTES: usize = 4 << 20;
/// Where the host sends them, and where it takes them.
const SENDS: u16 = 7000;
const TAKES: u16 = 7001;

/// An interface with an address; it goes with the test.
#[derive(Debug)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// The host's address there, without the last number.
    network: String,
    _leases: Folder,
    /// Gives guests addresses.
    dhcp: Child,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

impl Interface {
    /// One of that name, in the network `10.77.NUMBER.0/24`.
    pub(crate) fn new(name: &str, number: u8) -> Self {
        run("tunctl", &["-t", name]);
        Self::with_address(name, number)
    }

    /// Gives an interface that is there, a bridge say, an address, and guests behind it theirs.
    pub(crate) fn with_address(name: &str, number: u8) -> Self {
        let network = format!("10.77.{number}");
        run(
            "ip",
            &["address", "add", &format!("{network}.1/24"), "dev", name],
        );
        run("ip", &["link", "set", name, "up"]);
        let folder = Folder::new();
        let (leases, settings) = (folder.file("leases"), folder.file("udhcpd.conf"));
        std::fs::write(&leases, "").expect("write");
        let text = format!(
            "start {network}.10\nend {network}.20\ninterface {name}\nlease_file {}\n\
             option subnet 255.255.255.0\n",
            leases.display()
        );
        std::fs::write(&settings, text).expect("write");
        let dhcp = Command::new("udhcpd")
            .arg("-f")
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no udhcpd");
        Self {
            name: name.to_owned(),
            network,
            _leases: folder,
            dhcp,
        }
    }

    /// A guest's script: it gets an address, pings the host, and fetches and sends data.
    pub(crate) fn job(&self) -> String {
        let host = format!("{}.1", self.network);
        format!(
            "
cat >/tmp/dhcp <<'END'
[ \"$1\" = bound ] && ip address add $ip/$mask dev $interface
true
END
chmod 755 /tmp/dhcp
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/class/net/eth0 ] && break; sleep 0.25; done
ip link set eth0 up || {{ echo LAB-GUEST-ERROR no network card; exit 1; }}
echo LAB-GUEST-MAC $(cat /sys/class/net/eth0/address)
echo LAB-GUEST-MTU $(cat /sys/class/net/eth0/mtu)
udhcpc -i eth0 -n -q -t 10 -T 1 -s /tmp/dhcp >/dev/null 2>&1 || {{ echo LAB-GUEST-ERROR no address; exit 1; }}
echo LAB-GUEST-ADDRESS $(ip -4 -o address show dev eth0 | awk '{{print $4}}')
ping -c 5 -i 0.2 -W 5 -q {host} >/tmp/ping || {{ echo LAB-GUEST-ERROR no answer; exit 1; }}
digest() {{ sha256sum | cut -d' ' -f1; }}
echo LAB-GUEST-FETCHED $(nc {host} {SENDS} </dev/null | digest)
dd if=/dev/urandom of=/tmp/data bs=64k count=$(({BYTES} / 65536)) 2>/dev/null || exit 1
echo LAB-GUEST-SENT $(digest </tmp/data)
echo LAB-GUEST-UPTIME $(cut -d' ' -f1 /proc/uptime)
nc {host} {TAKES} </tmp/data || exit 1
echo LAB-GUEST-FRAMES $(cat /sys/class/net/eth0/statistics/rx_packets) $(cat /sys/class/net/eth0/statistics/tx_packets)
"
        )
    }

    /// Listens for guests of [`Self::job`]; what one has sent comes in the end.
    pub(crate) fn listen(&self) -> Listener {
        let address = format!("{}.1", self.network);
        let [sends, takes] = [SENDS, TAKES].map(|port| {
            TcpListener::bind((address.as_str(), port)).expect("the interface's address")
        });
        // Nothing that compresses, or repeats within a frame.
        let data: Vec<u8> = (0..BYTES as u64)
            .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0])
            .collect();
        let sent = data.clone();
        let taker = thread::spawn(move || {
            let (mut guest, _) = sends.accept().expect("a guest");
            guest.write_all(&sent).expect("a guest that reads");
            drop(guest);
            let (mut guest, _) = takes.accept().expect("a guest");
            let mut all = Vec::new();
            guest.read_to_end(&mut all).expect("a guest that writes");
            all
        });
        Listener { data, taker }
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _ = self.dhcp.kill();
        let _ = self.dhcp.wait();
        // A bridge is whoever's that made it.
        let _ = Command::new("tunctl").args(["-d", &self.name]).output();
    }
}

/// Whom a guest finds.
#[derive(Debug)]
pub(crate) struct Listener {
    data: Vec<u8>,
    taker: JoinHandle<Vec<u8>>,
}

impl Listener {
    /// Digests of what a guest was sent and of what it sent, once it has.
    pub(crate) fn digests(self) -> [String; 2] {
        let taken = self.taker.join().expect("a guest's data");
        assert_eq!(taken.len(), BYTES);
        [self.data, taken].map(|data| sha256(&data))
    }
}

fn sha256(data: &[u8]) -> String {
    let folder = Folder::new();
    let path = folder.file("data");
    std::fs::write(&path, data).expect("write");
    let output = Command::new("sha256sum").arg(&path).output();
    let text = String::from_utf8(output.expect("cannot run sha256sum").stdout).expect("text");
    text.split_whitespace().next().expect("a digest").to_owned()
}
