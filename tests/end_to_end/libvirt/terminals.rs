//! Terminals and memory as libvirt wires them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use spapr_lab::proc_sizes;

use crate::harness::host::HugePages;
use crate::harness::libvirt::{Description, Domain, console_file, start};
use crate::harness::typist::Typist;

/// Pages of 2 MiB for a domain of 1 GiB.
pub(super) const PAGES: u64 = 512;

/// Sizes in KiB of the pages of the mappings that are as large as the guest's memory. The interrupt
/// controller's, of a file of KVM's, is as large.
pub(super) fn page_sizes(domain: &Domain) -> Vec<u64> {
    let smaps = domain.proc("smaps");
    let mut is_guests = false;
    let mut is_kvms = false;
    let mut pages = Vec::new();
    for line in smaps.lines() {
        // A mapping's first line is "FIRST-END PERMISSIONS OFFSET DEVICE INODE NAME".
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        if !word.ends_with(':') {
            is_kvms = line.contains("anon_inode:");
        } else if let Some(size) = proc_sizes::bytes(line, "Size:") {
            is_guests = size == 1 << 30 && !is_kvms;
        } else if let Some(page) = proc_sizes::bytes(line, "KernelPageSize:").filter(|_| is_guests)
        {
            pages.push(page >> 10);
        }
    }
    pages
}

pub(super) fn log_of(name: &str) -> String {
    format!("<log file='{}' append='off'/>", console_file(name))
}

#[test]
fn a_guest_in_huge_pages_has_its_terminal_on_a_unix_socket() {
    let _pages = HugePages::take(PAGES);
    let domain = Description::new("unix")
        .element("<memoryBacking><hugepages/></memoryBacking>")
        .terminal(&format!(
            "<serial type='unix'><source mode='bind' path='/tmp/unix.socket'/>{}</serial>",
            log_of("unix")
        ))
        .define();
    domain.start();
    assert!(domain.proc("cmdline").contains("memory-backend-file"));
    assert_eq!(page_sizes(&domain), [2048]);
    domain.wait_for_prompt(1);
    // Clients come and go.
    for round in 0..2 {
        let client = UnixStream::connect("/tmp/unix.socket").expect("connect");
        let keyboard = client.try_clone().expect("clone");
        let mut typist = Typist::new(keyboard, client.try_clone().expect("clone"));
        typist.command(
            &format!("echo typed-$((40 + {round}))"),
            &format!("typed-4{round}"),
        );
        client.shutdown(std::net::Shutdown::Both).expect("leave");
    }
}

#[test]
fn a_guest_in_a_memfd_has_its_terminal_in_a_file() {
    let file = console_file("file");
    let domain = Description::new("file")
        .element("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>")
        .terminal(&format!(
            "<serial type='file'><source path='{file}'/></serial>"
        ))
        .define();
    domain.start();
    let arguments = domain.proc("cmdline");
    assert!(arguments.contains("memory-backend-memfd"), "{arguments}");
    assert!(
        arguments.contains("/dev/fdset/"),
        "the file is a passed descriptor: {arguments}"
    );
    domain.wait_for_console("Linux version", 1);
}

/// libvirt's daemon for logs, which ends with this: libvirtd would wait for one that does not answer.
struct LogDaemon(String);

impl LogDaemon {
    fn find() -> Self {
        let output = Command::new("pidof").arg("virtlogd").output();
        let output = output.expect("pidof").stdout;
        Self(String::from_utf8_lossy(&output).trim().to_owned())
    }

    fn signal(&self, signal: &str) -> bool {
        let status = Command::new("kill").args([signal, &self.0]).status();
        status.expect("kill").success()
    }
}

impl Drop for LogDaemon {
    fn drop(&mut self) {
        // The test may have ended it.
        let _ = self.signal("-KILL");
    }
}

/// The pipes that a process has open, with the files that open them anew.
fn pipes(descriptors: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(descriptors).expect("descriptors");
    let entries = entries.map(|entry| entry.expect("a descriptor").path());
    let pipes = entries.filter_map(|path| {
        let target = fs::read_link(&path).ok()?.to_str()?.to_owned();
        let path = path.to_str()?.to_owned();
        target.starts_with("pipe:").then_some((target, path))
    });
    pipes.collect()
}

/// Writes until there is no room.
fn fill(pipe: &str) {
    const O_NONBLOCK: i32 = 0o4000;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(pipe);
    let mut file: File = file.expect("a pipe");
    for size in [65536, 1] {
        let piece = vec![b'x'; size];
        loop {
            match file.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What takes its time.
mod long {
    use super::*;

    #[test]
    fn logs_that_are_full_or_closed_do_not_disturb_a_guest() {
        let domain = Description::new("logs").define();
        domain.start();
        domain.wait_for_prompt(1);
        let daemon = LogDaemon::find();
        assert!(daemon.signal("-STOP"));
        let theirs = pipes(&format!("/proc/{}/fd", daemon.0));
        let ours = pipes(domain.descriptors().to_str().expect("a path"));
        let shared = ours
            .iter()
            .filter(|(pipe, _)| theirs.iter().any(|(other, _)| other == pipe));
        let mut filled = 0;
        for (_, path) in shared {
            fill(path);
            filled += 1;
        }
        // That of the terminal, and that of messages.
        assert!(filled >= 2, "{ours:?} {theirs:?}");
        let mut console = domain.attach_console();
        let typist = &mut console.typist;
        typist.command("seq 1 2000; echo full-$((40 + 2))", "full-42");
        drop(daemon);
        typist.command("echo closed-$((40 + 2))", "closed-42");
        typist.command("seq 1 2000; echo still-$((40 + 2))", "still-42");
        console.leave();
        start();
        domain.virsh("shutdown");
        domain.wait_for_state("shut off (shutdown)");
    }
}
