//! What the emulator says of a host that stands still.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The monitor says nothing more when it has been silent for so long.
const SILENCE: Duration = Duration::from_secs(1);
/// The most time for all that it says.
const LIMIT: Duration = Duration::from_secs(10);
/// All processors' registers, and then what the interrupt controllers have.
const QUESTIONS: &[u8] = b"info registers -a\ninfo pic\n";

/// Asks the emulator's monitor for the registers of all processors, writes what it says to `report`, and returns where
/// each processor is.
///
/// # Errors
/// When the emulator does not answer, or not with registers.
pub(super) fn ask(monitor: &Path, report: &Path) -> io::Result<Vec<String>> {
    let mut monitor = UnixStream::connect(monitor)?;
    monitor.set_read_timeout(Some(SILENCE))?;
    monitor.write_all(QUESTIONS)?;
    let mut said = Vec::new();
    let started = Instant::now();
    let mut buffer = [0; 4096];
    while started.elapsed() < LIMIT {
        match monitor.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    fs::write(report, &said)?;
    let places = places(&String::from_utf8_lossy(&said));
    if places.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no registers"));
    }
    Ok(places)
}

/// Instruction and link register of each processor.
fn places(registers: &str) -> Vec<String> {
    let value = |line: &str, name: &str| {
        let rest = line.split_once(name)?.1;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let places = registers.lines().filter_map(|line| {
        let nip = value(line, "NIP ")?;
        Some(match value(line, "LR ") {
            Some(lr) => format!("{nip} (from {lr})"),
            None => nip,
        })
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// As QEMU prints them.
    const REGISTERS: &str = "QEMU 10.0.8 monitor - type 'help' for more information\r
(qemu) info registers -a\r
\r
CPU#0\r
NIP c000000000012344   LR c0000000000a5678 CTR 0000000000000000 XER 0000000020040000 CPU#0\r
MSR 9000000002009033 HID0 0000000000000000  HF 04902406 iidx 3 didx 3\r
\r
CPU#1\r
NIP 0000000030021234   LR 0000000030025678 CTR 0000000000000000 XER 0000000020040000 CPU#1\r
(qemu) ";

    #[test]
    fn the_monitor_says_where_each_processor_is() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, report) = (folder.path().join("monitor"), folder.path().join("report"));
        let listener = UnixListener::bind(&socket).unwrap();
        let monitor = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut question = [0; QUESTIONS.len()];
            client.read_exact(&mut question).unwrap();
            client.write_all(REGISTERS.as_bytes()).unwrap();
            question
        });
        let expected = [
            "c000000000012344 (from c0000000000a5678)",
            "0000000030021234 (from 0000000030025678)",
        ];
        assert_eq!(ask(&socket, &report).unwrap(), expected);
        assert_eq!(monitor.join().unwrap(), QUESTIONS);
        assert!(fs::read_to_string(&report).unwrap().contains("HID0"));
    }

    #[test]
    fn an_emulator_that_says_nothing_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("monitor");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(ask(&socket, &folder.path().join("report")).is_err());
        assert!(ask(&folder.path().join("none"), &socket).is_err());
    }
}
