//! Connections between a guest and the host without a network (AF_VSOCK, vhost-vsock).

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{WAIT_FOR_NVME, reboot_once};
use crate::harness::scratch::VSOCK_MARK;

/// Bytes that go each way.
const BYTES: usize = 64 << 20;
const PORT: u32 = 7777;
/// The guest's context ID, and the host's (VMADDR_CID_HOST).
const CID: u32 = 77;
const HOST_CID: u32 = 2;
const PIECE_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 4 << 10;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A socket of connections, with a call on it that takes an address.
fn socket(
    cid: u32,
    call: unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers.
    let made = checked(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) })?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    // SAFETY: it is a structure of numbers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK.try_into().expect("a small number");
    address.svm_cid = cid;
    address.svm_port = PORT;
    let bytes = size_of_val(&address).try_into().expect("a small number");
    // SAFETY: the address is that of this family, and as long as is said.
    checked(unsafe { call(socket.as_raw_fd(), (&raw const address).cast(), bytes) })?;
    Ok(socket)
}

/// A stream over a socket of that family: reading and writing are the same for all.
fn stream(socket: OwnedFd) -> UnixStream {
    UnixStream::from(socket)
}

fn listen() -> OwnedFd {
    let socket = socket(u32::MAX, libc::bind).expect("an address that is free");
    // SAFETY: the call takes numbers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), 1) }).expect("a bound socket");
    socket
}

fn accept(listener: &OwnedFd) -> UnixStream {
    let (nobody, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: nothing is to be told of the peer.
    let made = unsafe { libc::accept(listener.as_raw_fd(), nobody, nothing) };
    let made = checked(made).expect("a guest");
    // SAFETY: the kernel has just made it, and nobody else has it.
    stream(unsafe { OwnedFd::from_raw_fd(made) })
}

/// What goes one way, piece by piece: no two pages of it are alike. An emulated processor makes it, so it is cheap.
struct Data {
    seed: u64,
    piece: Vec<u8>,
}

impl Data {
    fn new(seed: u64) -> Self {
        let places = 0..PIECE_BYTES as u64;
        let piece =
            places.map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]);
        Self {
            seed,
            piece: piece.collect(),
        }
    }

    /// The piece that begins at `start`.
    fn at(&mut self, start: usize) -> &[u8] {
        for (page, bytes) in (start..)
            .step_by(PAGE_BYTES)
            .zip(self.piece.chunks_mut(PAGE_BYTES))
        {
            bytes[..8].copy_from_slice(&(page as u64 ^ self.seed << 32).to_le_bytes());
        }
        &self.piece
    }
}

fn send(stream: &mut UnixStream, seed: u64) {
    let mut data = Data::new(seed);
    for start in (0..BYTES).step_by(PIECE_BYTES) {
        stream.write_all(data.at(start)).expect("a peer that reads");
    }
    stream.shutdown(Shutdown::Write).expect("an open socket");
}

/// Takes what comes, and fails unless all of it is as it was sent.
fn take(stream: &mut UnixStream, seed: u64) {
    let (mut data, mut taken) = (Data::new(seed), vec![0; PIECE_BYTES]);
    for start in (0..BYTES).step_by(PIECE_BYTES) {
        stream.read_exact(&mut taken).expect("a peer that sends");
        assert!(taken == data.at(start), "other bytes from {start} on");
    }
    assert_eq!(stream.read(&mut taken).expect("an end"), 0, "there is more");
}

const FROM_HOST: u64 = 1;
const FROM_GUEST: u64 = 2;

/// The other half of the test below, which runs in its guest: this same program.
#[test]
#[ignore = "it is a guest's part"]
fn part_of_a_guest() {
    let mut host = stream(socket(HOST_CID, libc::connect).expect("the host listens"));
    take(&mut host, FROM_HOST);
    send(&mut host, FROM_GUEST);
}

#[test]
fn a_guest_and_the_host_exchange_64_mib_also_after_a_reboot() {
    let program = fs::read(env::current_exe().expect("a program")).expect("its file");
    let listener = listen();
    let host = thread::spawn(move || {
        for _ in 0..2 {
            let mut guest = accept(&listener);
            send(&mut guest, FROM_HOST);
            take(&mut guest, FROM_GUEST);
        }
    });
    let exchange = "
[ -c /dev/vsock ] || { echo LAB-GUEST-ERROR no vsock; exit 1; }
chmod 755 /program
/program --ignored --exact main_host::vsock::part_of_a_guest >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }
echo LAB-GUEST-EXCHANGED yes
";
    let again = reboot_once(VSOCK_MARK, "a-mark-of-the-vsock-test");
    let job = [WAIT_FOR_NVME, exchange, &again].concat();
    let mut running = Vmm::job_with_files(&job, &[("program", &program)])
        .nvme_with_windows()
        .option("--vsock", &CID.to_string())
        .option("--cpus", "2")
        .argument("--sandbox")
        .time_limit(Duration::from_secs(300))
        .start();
    running.wait_for_console("LAB-GUEST-EXCHANGED yes", 1);
    // Its context ID is taken as long as it runs.
    let second = Vmm::job("true").option("--vsock", &CID.to_string()).run();
    second.assert_refused(&[
        "--vsock: another guest of this host has the context ID 77; choose another one",
    ]);
    let finished = running.finish().assert_job_done();
    host.join().expect("the host's half");
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    let exits = finished.number("/exits/mmio");
    assert!(exits < 2_000, "{exits}: {finished}");
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}
