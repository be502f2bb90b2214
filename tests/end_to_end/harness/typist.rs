//! A user at a guest's terminal.

use std::io::{Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// The most time that an answer takes on an emulated host.
const LIMIT: Duration = Duration::from_secs(60);

/// What a guest's shell prints when it waits for a command.
pub(crate) const PROMPT: &str = "~ # ";

/// Types commands, and waits for what they print.
#[derive(Debug)]
pub(crate) struct Typist<K> {
    keyboard: K,
    pieces: Receiver<String>,
    /// What the screen has shown since the last command.
    text: String,
}

impl<K: Write> Typist<K> {
    /// One with a keyboard and a screen.
    pub(crate) fn new(keyboard: K, mut screen: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 1024];
            while let Ok(length @ 1..) = screen.read(&mut chunk) {
                let piece = String::from_utf8_lossy(&chunk[..length]).into_owned();
                if sender.send(piece).is_err() {
                    break;
                }
            }
        });
        Self {
            keyboard,
            pieces,
            text: String::new(),
        }
    }

    /// Waits until the screen shows `expected`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, expected: &str) {
        let shown = self.shows(expected, LIMIT);
        assert!(shown, "no {expected:?} on the screen:\n{}", self.text);
    }

    /// Whether the screen shows `expected` in time.
    fn shows(&mut self, expected: &str, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.text.contains(expected) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.text.push_str(&piece),
                Err(_) => return false,
            }
        }
        true
    }

    /// Types a line, and waits until the screen shows `expected`.
    #[track_caller]
    pub(crate) fn command(&mut self, line: &str, expected: &str) {
        let shown = self.try_command(line, expected, LIMIT);
        assert!(shown, "no {expected:?} on the screen:\n{}", self.text);
    }

    /// Types a line; whether the screen shows `expected` in time.
    #[track_caller]
    pub(crate) fn try_command(&mut self, line: &str, expected: &str, limit: Duration) -> bool {
        self.text.clear();
        self.keys(format!("{line}\r").as_bytes());
        self.shows(expected, limit)
    }

    /// Presses keys.
    #[track_caller]
    pub(crate) fn keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("the keyboard is gone");
        self.keyboard.flush().expect("the keyboard is gone");
    }
}
