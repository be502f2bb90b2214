//! The byte streams between a host and the lab, each a socket that the emulator connects to.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

/// One of a host's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Firmware and kernel messages.
    Console,
    /// What the host's init tells the lab, line by line.
    Control,
    /// The script's standard output.
    Stdout,
    /// The script's standard error.
    Stderr,
    /// The interactive shell's terminal.
    Terminal,
}

impl Channel {
    pub(super) const ALL: [Self; 5] = [
        Self::Console,
        Self::Control,
        Self::Stdout,
        Self::Stderr,
        Self::Terminal,
    ];

    /// The name of its socket and of its character device in the emulator.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Control => "control",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Terminal => "terminal",
        }
    }
}

/// What arrives from a host.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes of a stream.
    Bytes(Channel, Vec<u8>),
    /// The emulator has closed the stream: nothing more will come.
    Closed,
}

/// The sockets, listening.
#[derive(Debug)]
pub(super) struct Listeners(Vec<(Channel, UnixListener)>);

impl Listeners {
    /// Makes a socket for each channel in the folder.
    pub(super) fn bind(folder: &Path) -> io::Result<Self> {
        let bind = |channel: Channel| {
            let listener = UnixListener::bind(folder.join(channel.name()))?;
            listener.set_nonblocking(true)?;
            Ok((channel, listener))
        };
        Channel::ALL
            .into_iter()
            .map(bind)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for the emulator to connect to all, then hands what arrives to `events`. Returns the
    /// terminal's stream, to write to.
    ///
    /// `alive` says whether it still makes sense to wait.
    pub(super) fn accept(
        self,
        events: &SyncSender<Event>,
        limit: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> io::Result<Option<UnixStream>> {
        let started = Instant::now();
        let mut terminal = None;
        for (channel, listener) in self.0 {
            let stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    Err(_) if !alive() => return Err(ErrorKind::ConnectionAborted.into()),
                    Err(_) if started.elapsed() > limit => return Err(ErrorKind::TimedOut.into()),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            };
            stream.set_nonblocking(false)?;
            if channel == Channel::Terminal {
                terminal = Some(stream.try_clone()?);
            }
            let events = events.clone();
            thread::spawn(move || forward(channel, stream, &events));
        }
        Ok(terminal)
    }
}

/// Passes on what arrives until the stream ends or nobody listens any more.
fn forward(channel: Channel, mut stream: UnixStream, events: &SyncSender<Event>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let event = match stream.read(&mut buffer) {
            Ok(length) if length > 0 => Event::Bytes(channel, buffer[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            _ => {
                let _ = events.send(Event::Closed);
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Lines longer than this are cut: what arrives is not trusted to end them.
    const LONGEST: usize = 64 << 10;

    /// Takes bytes and hands on the lines that are now complete, without their ends.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' || self.0.len() >= Self::LONGEST {
                let text = String::from_utf8_lossy(&self.0);
                line(text.trim_end_matches('\r'));
                self.0.clear();
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["a", "b\r\nc", "\n", "\n\u{fffd}", "x\ny"] {
            lines.push(piece.as_bytes(), |line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["ab", "c", "", "\u{fffd}x"]);
    }

    #[test]
    fn a_line_that_never_ends_is_cut() {
        let mut lines = Lines::default();
        let mut seen = 0;
        lines.push(&vec![b'x'; Lines::LONGEST * 2 + 1], |_| seen += 1);
        assert_eq!(seen, 2);
    }
}
