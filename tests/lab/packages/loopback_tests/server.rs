//! A mirror: a small HTTP server on loopback, for as long as the process lives.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// So much is sent before a slow server waits.
const CHUNK: usize = 4096;

/// What it serves and what it was asked for; paths are without the slash in front.
#[derive(Default)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    requests: Mutex<Vec<String>>,
    /// After each chunk.
    wait: Duration,
}

pub(super) struct Server {
    port: u16,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves the files, and waits so long after each few kilobytes.
    pub(super) fn start(files: HashMap<String, Vec<u8>>, wait: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            files: Mutex::new(files),
            wait,
            ..Shared::default()
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client may go at any time.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Self { port, shared }
    }

    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was asked for, in order.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Changes the file, or takes it away.
    pub(super) fn change(&self, path: &str, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut files = self.shared.files.lock().unwrap();
        let file = files.remove(path).expect(path);
        if let Some(changed) = change(file) {
            files.insert(path.to_owned(), changed);
        }
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let path = path.replace("%2b", "+").replace("%7e", "~");
        let path = path.trim_start_matches('/').to_owned();
        let file = shared.files.lock().unwrap().get(&path).cloned();
        shared.requests.lock().unwrap().push(path);
        send(stream, file, shared.wait)?;
    }
    Ok(())
}

fn send(mut stream: &TcpStream, file: Option<Vec<u8>>, wait: Duration) -> io::Result<()> {
    let status = if file.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = file.unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    for chunk in body.chunks(CHUNK) {
        stream.write_all(chunk)?;
        thread::sleep(wait);
    }
    Ok(())
}
