//! A terminal on a socket: one client at a time. What the guest writes while none is there goes
//! nowhere.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How long a listener that cannot accept is left alone, as when there are no descriptors left.
const RETRY_ACCEPT: Duration = Duration::from_millis(500);

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// In the file system.
    Unix(UnixListener),
    /// Of TCP.
    Tcp(TcpListener),
}

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Connection {
    /// In the file system.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Listener {
    fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => Ok(Connection::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => Ok(Connection::Tcp(listener.accept()?.0)),
        }
    }
}

impl Connection {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    fn shut_down(&self) {
        // Of a connection that is gone already there is nothing to end.
        let _gone = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client that there is now, for the writer; the reader sets it.
#[derive(Clone, Debug, Default)]
struct Current(Arc<Mutex<Option<Connection>>>);

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock()
    }
}

/// What the guest writes to.
#[derive(Debug)]
pub struct SocketOutput(Current);

/// What the guest reads from: it accepts clients, one after the other.
#[derive(Debug)]
pub struct SocketInput {
    listener: Option<Listener>,
    client: Option<Connection>,
    current: Current,
}

/// A Unix socket at `path`, for clients to connect to. One that an earlier process left behind is removed, as it would
/// be in the way; nothing else is.
///
/// # Errors
/// The kernel's refusal.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        // If it cannot be removed, binding fails and says why.
        let _in_the_way = fs::remove_file(path);
    }
    UnixListener::bind(path)
}

/// A terminal whose clients connect to `listener`.
pub fn listen(listener: Listener) -> (SocketOutput, SocketInput) {
    let current = Current::default();
    let output = SocketOutput(current.clone());
    let input = SocketInput {
        listener: Some(listener),
        client: None,
        current,
    };
    (output, input)
}

/// A terminal on a connection, which is not made again when it ends.
///
/// # Errors
/// When there is no descriptor left.
pub fn connected(connection: Connection) -> io::Result<(SocketOutput, SocketInput)> {
    let current = Current(Arc::new(Mutex::new(Some(connection.try_clone()?))));
    let output = SocketOutput(current.clone());
    let input = SocketInput {
        listener: None,
        client: Some(connection),
        current,
    };
    Ok((output, input))
}

impl Read for SocketInput {
    /// Reads from the client, waiting for one if there is none. The end of input is when none can
    /// come any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(client) = &mut self.client {
                match client.read(buffer) {
                    Ok(length @ 1..) => return Ok(length),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(_) | Err(_) => {
                        // Frees a writer that this client kept waiting.
                        client.shut_down();
                        self.client = None;
                        *self.current.lock() = None;
                    }
                }
            }
            let Some(listener) = &self.listener else {
                return Ok(0);
            };
            let accepted = listener.accept();
            match accepted.and_then(|client| Ok((client.try_clone()?, client))) {
                Ok((writer, reader)) => {
                    self.client = Some(reader);
                    *self.current.lock() = Some(writer);
                }
                Err(_) => thread::sleep(RETRY_ACCEPT),
            }
        }
    }
}

impl Write for SocketOutput {
    /// Writes to the client, or nowhere when there is none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Cloned so that the lock is not held while a client is slow: the reader takes it to free
        // the writer.
        let client = self.0.lock().as_ref().map(Connection::try_clone);
        let written = match client {
            Some(Ok(mut client)) => client.write(bytes),
            Some(Err(error)) => Err(error),
            None => Ok(bytes.len()),
        };
        match written {
            Ok(length @ 1..) => Ok(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            // The reader sees the end, too, and waits for another client.
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_and_go_and_what_is_written_without_one_is_lost() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).expect("bind");
        let (mut output, mut input) = listen(Listener::Unix(listener));
        output.write_all(b"lost").expect("goes nowhere");
        for round in 0..3 {
            let mut client = UnixStream::connect(&path).expect("connect");
            client.write_all(b"typed").expect("write");
            let mut typed = [0; 5];
            input.read_exact(&mut typed).expect("read");
            assert_eq!(&typed, b"typed");
            let said = format!("round {round}");
            output.write_all(said.as_bytes()).expect("write");
            let mut seen = vec![0; said.len()];
            client.read_exact(&mut seen).expect("read");
            assert_eq!(seen, said.as_bytes());
        }
    }

    #[test]
    fn a_client_that_reads_nothing_frees_the_writer_when_it_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).expect("bind");
        let (mut output, mut input) = listen(Listener::Unix(listener));
        let mut client = UnixStream::connect(&path).expect("connect");
        client.write_all(b"x").expect("write");
        input.read_exact(&mut [0]).expect("read");
        let writer = thread::spawn(move || output.write_all(&vec![b'y'; 8 << 20]));
        thread::sleep(Duration::from_millis(50));
        assert!(!writer.is_finished(), "the client reads nothing");
        let reader = thread::spawn(move || {
            let mut byte = [0];
            input.read(&mut byte)
        });
        drop(client);
        writer.join().expect("no panic").expect("goes nowhere");
        // The reader waits for another client.
        UnixStream::connect(&path)
            .expect("connect")
            .write_all(b"z")
            .expect("write");
        assert_eq!(reader.join().expect("no panic").expect("read"), 1);
    }

    #[test]
    fn a_connection_that_ends_is_the_end_of_input() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (mut output, mut input) = connected(Connection::Unix(ours)).expect("clone");
        drop(theirs);
        assert_eq!(input.read(&mut [0; 4]).expect("the end"), 0);
        output.write_all(b"x").expect("goes nowhere");
    }
}
