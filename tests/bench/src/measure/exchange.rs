//! What runs in a Linux guest: exchanges with its host over a network.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::AnyError;
use super::busy_reader::{go_round, time_of_going_round};
use super::command_line::ExchangeArguments;
use super::series::{self, BUSY, LATENCY, SERIES, Series};

/// Who answers there: what comes by UDP goes back.
pub(super) const ECHO_PORT: u16 = 7000;
/// Answers pieces of [`PIECE_BYTES`] by one byte each.
pub(super) const TAKER_PORT: u16 = 7001;
/// Answers each byte by a piece.
pub(super) const GIVER_PORT: u16 = 7002;
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The ways to a host.
struct Peer {
    echo: UdpSocket,
    taker: TcpStream,
    giver: TcpStream,
    /// What the processor does meanwhile, if it is to stay busy, takes so long by itself.
    idle: Option<Duration>,
}

impl Peer {
    fn new(host: Ipv4Addr, busy: bool) -> io::Result<Self> {
        let echo = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        echo.connect((host, ECHO_PORT))?;
        echo.set_read_timeout(Some(LIMIT))?;
        let stream = |port| {
            let stream = TcpStream::connect((host, port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LIMIT))?;
            io::Result::Ok(stream)
        };
        Ok(Self {
            echo,
            taker: stream(TAKER_PORT)?,
            giver: stream(GIVER_PORT)?,
            idle: busy.then(time_of_going_round),
        })
    }

    /// Makes one exchange: the time from the question until the answer is here.
    fn make(&mut self, series: Series, piece: &mut [u8]) -> io::Result<Duration> {
        let before = Instant::now();
        match series.name {
            "network-echo-64" => {
                self.echo.send(piece)?;
                self.pass_time();
                let bytes = self.echo.recv(piece)?;
                if bytes != piece.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            "network-send-64k" => {
                self.taker.write_all(piece)?;
                self.pass_time();
                self.taker.read_exact(&mut piece[..1])?;
            }
            _ => {
                self.giver.write_all(&[1])?;
                self.pass_time();
                self.giver.read_exact(piece)?;
            }
        }
        Ok(before
            .elapsed()
            .saturating_sub(self.idle.unwrap_or_default()))
    }

    fn pass_time(&self) {
        if self.idle.is_some() {
            go_round();
        }
    }
}

/// Makes all series.
///
/// # Errors
/// When the host does not answer.
pub(crate) fn run(arguments: &ExchangeArguments) -> Result<(), AnyError> {
    let mut peer = Peer::new(arguments.host, arguments.busy)?;
    let series: Vec<_> = SERIES
        .into_iter()
        .filter(|series| series.name.starts_with("network-"))
        .collect();
    let suffix = if arguments.busy { BUSY } else { LATENCY };
    series::run(&series, suffix, |series, _, piece| peer.make(series, piece))
}

#[cfg(test)]
mod tests {
    use super::super::host_network::Answering;
    use super::*;

    #[test]
    fn each_exchange_has_its_answer() {
        let host = Ipv4Addr::LOCALHOST;
        Answering::start(host).unwrap();
        let mut peer = Peer::new(host, false).unwrap();
        for series in SERIES
            .into_iter()
            .filter(|it| it.name.starts_with("network-"))
        {
            for _ in 0..3 {
                let mut piece = vec![7; usize::try_from(series.bytes).unwrap()];
                peer.make(series, &mut piece).unwrap();
            }
        }
    }
}
