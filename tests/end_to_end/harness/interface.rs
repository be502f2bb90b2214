//! TAP interfaces of the host's, and whom a guest finds there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::io::{FdFlags, fcntl_setfd};

use super::vmm::Folder;

/// Bytes that go each way.
pub(crate) const BYTES: usize = 4 << 20;
/// Bytes that the host sends, or takes, at once.
const PIECE_BYTES: usize = 64 << 10;

/// An interface with an address; it goes with the test.
#[derive(Debug)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// The address at which a guest finds the host.
    host: String,
    /// Bytes that go each way.
    bytes: usize,
    /// Where the host sends them, and where it takes them: ports of this interface's alone, so that a test that fails
    /// takes nothing from the next.
    listeners: [TcpListener; 2],
    has_several_queues: bool,
    /// Gives guests addresses, unless passt does.
    _dhcp: Option<Dhcp>,
}

/// udhcpd; it ends with the test.
#[derive(Debug)]
struct Dhcp {
    process: Child,
    _leases: Folder,
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// Makes a TAP interface that stays (Documentation/networking/tuntap.rst).
fn make_multi_queue(name: &str) -> io::Result<()> {
    let file = open_queue(name)?;
    // SAFETY: the argument is a number.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) } {
        made if made < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Opens a queue of a TAP interface of several, which is made if it is not there.
fn open_queue(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // `struct ifreq`: the name, and flags behind it.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    let flags = libc::c_short::try_from(flags).expect("16 bits");
    request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the pointer is to a structure of the size that the kernel takes.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Has the kernel have no frames for a queue.
fn detach(queue: &File) -> io::Result<()> {
    let mut request = [0_u8; 40];
    let flags = libc::c_short::try_from(libc::IFF_DETACH_QUEUE).expect("16 bits");
    request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the pointer is to a structure of the size that the kernel takes.
    match unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE, request.as_mut_ptr()) } {
        done if done < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives an interface an address, and has it work.
fn set_up(name: &str, address: &str) {
    run(
        "ip",
        &["address", "add", &format!("{address}/24"), "dev", name],
    );
    run("ip", &["link", "set", name, "up"]);
}

impl Dhcp {
    /// Addresses of `10.77.NUMBER.0/24` behind an interface.
    fn new(name: &str, number: u8) -> Self {
        let folder = Folder::new();
        let (leases, settings) = (folder.file("leases"), folder.file("udhcpd.conf"));
        fs::write(&leases, "").expect("write");
        let text = format!(
            "start 10.77.{number}.10\nend 10.77.{number}.20\ninterface {name}\nlease_file {}\n\
             option subnet 255.255.255.0\n",
            leases.display()
        );
        fs::write(&settings, text).expect("write");
        let process = Command::new("udhcpd")
            .arg("-f")
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no udhcpd");
        Self {
            process,
            _leases: folder,
        }
    }
}

impl Interface {
    /// One of that name, in the network `10.77.NUMBER.0/24`.
    pub(crate) fn new(name: &str, number: u8) -> Self {
        run("tunctl", &["-t", name]);
        Self::with_address(name, number)
    }

    /// The same, with several queues (IFF_MULTI_QUEUE), which busybox's tunctl cannot make.
    pub(crate) fn of_several_queues(name: &str, number: u8) -> Self {
        make_multi_queue(name).expect("an interface");
        let mut interface = Self::with_address(name, number);
        interface.has_several_queues = true;
        interface
    }

    /// A queue of it, as whoever used it before left it, to be inherited.
    pub(crate) fn detached_queue(&self) -> File {
        let queue = open_queue(&self.name).expect("a queue");
        detach(&queue).expect("a queue that was attached");
        fcntl_setfd(&queue, FdFlags::empty()).expect("a descriptor to be inherited");
        queue
    }

    /// How many of its queues the kernel has frames for.
    pub(crate) fn queues(&self) -> usize {
        let folder = format!("/sys/class/net/{}/queues", self.name);
        let all = fs::read_dir(folder).expect("an interface");
        let names = all.map(|entry| entry.expect("an entry").file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("tx-"))
            .count()
    }

    /// Gives an interface that is there, a bridge say, an address, and guests behind it theirs.
    pub(crate) fn with_address(name: &str, number: u8) -> Self {
        let host = format!("10.77.{number}.1");
        set_up(name, &host);
        let dhcp = Dhcp::new(name, number);
        Self::listening(name, &host, &host, Some(dhcp))
    }

    /// An interface that is there as the one that passt has its guest's addresses of: the guest takes over the host's
    /// own, and what it sends to the next router goes to the host's loopback interface.
    pub(crate) fn of_passt(name: &str, number: u8) -> Self {
        let [address, router] = [2, 1].map(|last| format!("10.77.{number}.{last}"));
        set_up(name, &address);
        run(
            "ip",
            &["route", "add", "default", "via", &router, "dev", name],
        );
        run("ip", &["link", "set", "lo", "up"]);
        // For the sockets by which passt, which has no privileges, passes on a guest's pings.
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("write");
        Self::listening(name, &router, "127.0.0.1", None)
    }

    fn listening(name: &str, host: &str, at: &str, dhcp: Option<Dhcp>) -> Self {
        let listeners =
            [(); 2].map(|()| TcpListener::bind((at, 0)).expect("the interface's address"));
        Self {
            name: name.to_owned(),
            host: host.to_owned(),
            bytes: BYTES,
            has_several_queues: false,
            listeners,
            _dhcp: dhcp,
        }
    }

    /// How many frames whoever has the TAP interface open has read.
    pub(crate) fn frames_read(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_packets", self.name);
        let text = fs::read_to_string(path).expect("an interface");
        text.trim().parse().expect("a number")
    }

    /// Has that many bytes go each way.
    pub(crate) fn of_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// The host's address, and the ports at which a guest finds what it fetches and who takes what it sends.
    pub(crate) fn places(&self) -> (&str, [u16; 2]) {
        let ports = self.listeners.each_ref().map(|listener| {
            let address = listener.local_addr();
            address.expect("a bound socket").port()
        });
        (&self.host, ports)
    }

    /// A guest's script: it gets an address, pings the host, and fetches and sends data.
    pub(crate) fn job(&self) -> String {
        let bytes = self.bytes;
        let (host, [sends, takes]) = self.places();
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
# Its own side stays open meanwhile: passt gives a connection of which one side is closed a minute.
# And it reads as much as there is to come: a connection's end that finds passt's socket full is never sent again.
mkfifo /tmp/open /tmp/fetched
nc {host} {sends} <>/tmp/open >/tmp/fetched 2>/dev/null &
echo LAB-GUEST-FETCHED $(head -c {bytes} /tmp/fetched | digest)
kill $! 2>/dev/null
dd if=/dev/urandom of=/tmp/data bs=64k count=$(({bytes} / 65536)) 2>/dev/null || exit 1
echo LAB-GUEST-SENT $(digest </tmp/data)
nc {host} {takes} </tmp/data || exit 1
echo LAB-GUEST-FRAMES $(cat /sys/class/net/eth0/statistics/rx_packets) $(cat /sys/class/net/eth0/statistics/tx_packets)
"
        )
    }

    /// Listens for guests of [`Self::job`]; what one has sent comes in the end.
    pub(crate) fn listen(&self) -> Listener {
        let [sends, takes] = self
            .listeners
            .each_ref()
            .map(|listener| listener.try_clone().expect("a descriptor"));
        // Nothing that compresses, or repeats within a frame.
        let data: Vec<u8> = (0..self.bytes as u64)
            .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0])
            .collect();
        let sent = data.clone();
        let progress = Arc::new(Progress::default());
        let seen = Arc::clone(&progress);
        let taker = thread::spawn(move || {
            let (mut guest, _) = sends.accept().expect("a guest");
            for piece in sent.chunks(PIECE_BYTES) {
                guest.write_all(piece).expect("a guest that reads");
                seen.sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
            drop(guest);
            let (mut guest, _) = takes.accept().expect("a guest");
            let mut all = Vec::new();
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let count = guest.read(&mut piece).expect("a guest that writes");
                if count == 0 {
                    return all;
                }
                all.extend_from_slice(&piece[..count]);
                seen.taken.store(all.len(), Ordering::Relaxed);
            }
        });
        Listener {
            interface: self.name.clone(),
            data,
            taker: Some(taker),
            progress,
        }
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        // A bridge is whoever's that made it.
        let (program, words): (_, &[&str]) = match self.has_several_queues {
            // tunctl opens the one queue of others.
            true => ("ip", &["link", "delete"]),
            false => ("tunctl", &["-d"]),
        };
        let _ = Command::new(program).args(words).arg(&self.name).output();
    }
}

/// How far a guest is.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes that the kernel has taken for it.
    sent: AtomicUsize,
    /// Bytes that came of it.
    taken: AtomicUsize,
}

/// Whom a guest finds.
#[derive(Debug)]
pub(crate) struct Listener {
    interface: String,
    data: Vec<u8>,
    taker: Option<JoinHandle<Vec<u8>>>,
    progress: Arc<Progress>,
}

impl Listener {
    /// Digests of what a guest was sent and of what it sent, once it has.
    pub(crate) fn digests(mut self) -> [String; 2] {
        let taker = self.taker.take().expect("taken once");
        let taken = taker.join().expect("a guest's data");
        assert_eq!(taken.len(), self.data.len());
        [&self.data, &taken].map(|data| sha256(data))
    }
}

impl Drop for Listener {
    /// Says of a test that fails how far its guest came: one that is slow and one that is stuck fail alike.
    #[expect(clippy::print_stderr, reason = "tests are told of there")]
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let count = |name: &str| {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.interface);
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let counts = ["rx_packets", "tx_packets", "rx_dropped", "tx_dropped"]
            .map(|name| format!("{name} {}", count(name)));
        eprintln!(
            "of {} bytes the guest was sent {}, and sent {}; {}: {}\n{}",
            self.data.len(),
            self.progress.sent.load(Ordering::Relaxed),
            self.progress.taken.load(Ordering::Relaxed),
            self.interface,
            counts.join(", "),
            fs::read_to_string("/proc/net/tcp").unwrap_or_default(),
        );
    }
}

fn sha256(data: &[u8]) -> String {
    let folder = Folder::new();
    let path = folder.file("data");
    fs::write(&path, data).expect("write");
    let output = Command::new("sha256sum").arg(&path).output();
    let text = String::from_utf8(output.expect("cannot run sha256sum").stdout).expect("text");
    text.split_whitespace().next().expect("a digest").to_owned()
}
