//! A TAP interface of the host's, and who answers guests behind it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use super::AnyError;
use super::exchange::{ECHO_PORT, GIVER_PORT, PIECE_BYTES, TAKER_PORT};

/// The interface's name.
pub(crate) const NAME: &str = "bench0";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);

/// The interface; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct HostNetwork;

impl HostNetwork {
    /// Makes it, with somebody who answers.
    ///
    /// # Errors
    /// When this host has no TAP interfaces, or has that one.
    pub(crate) fn make() -> Result<Self, AnyError> {
        run("tunctl", &["-t", NAME])?;
        let network = Self;
        run(
            "ip",
            &["address", "add", &format!("{HOST}/24"), "dev", NAME],
        )?;
        run("ip", &["link", "set", NAME, "up"])?;
        // Whoever answers at an address does so until this program ends, also when the address is taken away and made
        // again.
        static ANSWERING: OnceLock<()> = OnceLock::new();
        if ANSWERING.get().is_none() {
            Answering::start(HOST)?;
            let _ = ANSWERING.set(());
        }
        Ok(network)
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        // Whoever answers ends with this program.
        let _ = run("tunctl", &["-d", NAME]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), AnyError> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program} {}: {}", arguments.join(" "), said.trim()).into())
        }
    }
}

/// How one question of a guest's is answered.
type Answer = fn(&mut TcpStream) -> io::Result<()>;

/// Threads that answer.
pub(super) struct Answering;

impl Answering {
    /// Starts them at an address.
    ///
    /// # Errors
    /// When it is not this host's, or another program has a port.
    pub(super) fn start(host: Ipv4Addr) -> io::Result<()> {
        let echo = UdpSocket::bind((host, ECHO_PORT))?;
        let [taker, giver] = [TAKER_PORT, GIVER_PORT].map(|port| TcpListener::bind((host, port)));
        let answers: [(_, Answer); 2] = [(taker?, take), (giver?, give)];
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((bytes, guest)) = echo.recv_from(&mut datagram) {
                // A guest that has gone is no loss.
                let _ = echo.send_to(&datagram[..bytes], guest);
            }
        });
        for (listener, answer) in answers {
            thread::spawn(move || {
                for mut guest in listener.incoming().flatten() {
                    // A guest that was killed ends no connection: the next one does not wait for it.
                    thread::spawn(move || {
                        let _ = guest.set_nodelay(true);
                        while answer(&mut guest).is_ok() {}
                    });
                }
            });
        }
        Ok(())
    }
}

fn take(guest: &mut TcpStream) -> io::Result<()> {
    let mut piece = [0; PIECE_BYTES];
    guest.read_exact(&mut piece)?;
    guest.write_all(&[1])
}

fn give(guest: &mut TcpStream) -> io::Result<()> {
    guest.read_exact(&mut [0])?;
    guest.write_all(&[7; PIECE_BYTES])
}
