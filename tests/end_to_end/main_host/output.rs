//! Standard output and standard error that are closed, full, or read late.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::harness::Vmm;

/// A guest about which there is much to say.
fn talked_about() -> Vmm {
    Vmm::bare_metal("hostile-guest", "seed=4 rounds=2000").option("--log", "trace")
}

/// A pipe that has no room for another byte, and that nobody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("no pipe");
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("flags");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, flags).expect("flags");
    (reader, writer)
}

#[test]
fn a_closed_standard_error_does_not_disturb_the_guest() {
    let finished = talked_about().redirected("2>&-").run().assert_powered_off();
    assert!(
        finished.console().contains("HOSTILE-GUEST-DONE"),
        "{finished}"
    );
}

#[test]
fn a_full_standard_error_does_not_disturb_the_guest() {
    let (_nobody_reads, writer) = full_pipe();
    let finished = talked_about()
        .stderr(writer.into())
        .run()
        .assert_powered_off();
    assert!(
        finished.console().contains("HOSTILE-GUEST-DONE"),
        "{finished}"
    );
    assert!(finished.took() < Duration::from_secs(60), "{finished}");
}

#[test]
fn a_broken_standard_error_does_not_disturb_the_guest() {
    let (reader, writer) = std::io::pipe().expect("no pipe");
    drop(reader);
    let finished = talked_about()
        .stderr(writer.into())
        .run()
        .assert_powered_off();
    assert!(
        finished.console().contains("HOSTILE-GUEST-DONE"),
        "{finished}"
    );
}

#[test]
fn what_a_guest_can_trigger_is_logged_at_a_limited_rate() {
    let finished = Vmm::bare_metal("hostile-guest", "seed=5 rounds=4000")
        .run()
        .assert_powered_off();
    let lines = finished.errors().lines().count();
    assert!(
        (1..400).contains(&lines),
        "{lines} lines for thousands of mistakes\n{finished}"
    );
}

#[test]
fn a_reader_that_is_late_for_a_second_gets_all_of_the_console() {
    let (mut reader, writer) = std::io::pipe().expect("no pipe");
    let running = Vmm::bare_metal("flood-guest", "lines=3000")
        .stdout(writer.into())
        .start();
    thread::sleep(Duration::from_secs(1));
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("cannot read");
    running.finish().assert_powered_off();
    assert_eq!(text.matches("FLOOD-LINE").count(), 3000);
    assert!(text.trim_end().ends_with("FLOOD-DONE"));
}

#[test]
fn a_reader_that_is_stuck_does_not_stop_the_guest() {
    let (_nobody_reads, writer) = full_pipe();
    let vmm = Vmm::bare_metal("flood-guest", "lines=3000").stdout(Stdio::from(writer));
    let finished = vmm.run().assert_powered_off();
    assert!(finished.took() < Duration::from_secs(60), "{finished}");
}
