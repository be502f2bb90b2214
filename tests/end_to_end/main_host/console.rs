//! The guest's terminal: on standard input and output, on a pseudo-terminal, in a file.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Vmm;
use crate::harness::running::type_line;

/// Printed by the guest's init when the shell is about to start.
const SHELL_STARTS: &str = "LAB-GUEST-INIT";

#[test]
fn what_is_typed_on_standard_input_reaches_the_guests_shell() {
    let mut running = Vmm::linux().stdin(Stdio::piped()).start();
    let mut keyboard = running.stdin();
    running.wait_for_console(SHELL_STARTS, 1);
    type_line(&mut keyboard, "echo typed-$((40 + 2))");
    running.wait_for_console("typed-42", 1);
    type_line(&mut keyboard, "exit");
    running.finish().assert_powered_off();
}

#[test]
fn what_is_typed_on_a_pseudo_terminal_reaches_the_guests_shell() {
    let mut running = Vmm::linux().option("--console", "pty").start();
    let message = running.wait_for_message("the console is /dev/pts/");
    let name = message.split_once("the console is ").expect("just seen").1;
    let name = name.split_whitespace().next().expect("a name");
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .expect("cannot open it");
    let mut reader = terminal.try_clone().expect("cannot clone it");
    let (lines, screen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 1024];
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            let text = String::from_utf8_lossy(&chunk[..length]).into_owned();
            if lines.send(text).is_err() {
                break;
            }
        }
    });
    let mut seen = String::new();
    let mut wait_for = |text: &str| {
        let deadline = Instant::now() + Duration::from_secs(100);
        while !seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let more = screen.recv_timeout(left);
            seen.push_str(&more.unwrap_or_else(|_| panic!("no {text:?} on the terminal:\n{seen}")));
        }
    };
    wait_for(SHELL_STARTS);
    type_line(&mut terminal, "echo typed-$((40 + 2))");
    wait_for("typed-42");
    type_line(&mut terminal, "exit");
    let finished = running.finish().assert_powered_off();
    assert_eq!(finished.console(), "", "{finished}");
}

#[test]
fn a_file_gets_all_that_the_guest_prints() {
    let path = "/tmp/console-of-the-guest";
    let vmm =
        Vmm::bare_metal("flood-guest", "lines=3000").option("--console", &format!("file={path}"));
    let finished = vmm.run().assert_powered_off();
    assert_eq!(finished.console(), "", "{finished}");
    let text = fs::read_to_string(path).expect("no file");
    fs::remove_file(path).expect("cannot remove it");
    assert_eq!(text.matches("FLOOD-LINE").count(), 3000);
    assert!(text.trim_end().ends_with("FLOOD-DONE"));
}
