//! A user's terminal is raw while the guest has it, and afterwards as it was, whatever ended the
//! guest.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use spapr_lab::pseudo_terminal::PseudoTerminal;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::front_end::FrontEnd;
use crate::harness::running::Running;

/// The time in which a guest has printed what a test waits for.
const LIMIT: Duration = Duration::from_secs(100);

/// Runs the VMM on a terminal; `act` ends it when the guest has printed `text`.
fn on_a_terminal(
    vmm: Vmm,
    text: &str,
    act: impl FnOnce(&mut PseudoTerminal, &Running),
) -> Finished {
    let start = |[stdin, stdout, stderr]: [Stdio; 3]| {
        vmm.stdin(stdin).stdout(stdout).stderr(stderr).start()
    };
    started_on_a_terminal(start, text, act)
}

/// The same of what `start` starts on three streams.
fn started_on_a_terminal(
    start: impl FnOnce([Stdio; 3]) -> Running,
    text: &str,
    act: impl FnOnce(&mut PseudoTerminal, &Running),
) -> Finished {
    let mut terminal = PseudoTerminal::open().expect("no pseudo-terminal");
    let before = terminal.modes().expect("modes");
    let stream = || terminal.stream().expect("a descriptor");
    let running = start([stream(), stream(), stream()]);
    let printed = terminal.wait_for(text, LIMIT);
    let screen = terminal.screen();
    assert!(printed, "no {text:?} on the terminal:\n{screen}");
    act(&mut terminal, &running);
    let finished = running.finish();
    let after = terminal.modes().expect("modes");
    assert_eq!(after, before, "{}\n{finished}", terminal.screen());
    finished
}

/// A guest that is quick to start and prints for ever.
fn endless() -> Vmm {
    Vmm::bare_metal("flood-guest", "lines=1000000000")
}

fn assert_raw(terminal: &PseudoTerminal) {
    let fresh = PseudoTerminal::open().expect("no pseudo-terminal");
    let cooked = fresh.modes().expect("modes");
    assert_ne!(terminal.modes().expect("modes"), cooked, "not raw");
}

#[test]
fn the_terminal_is_as_it_was_when_the_guest_has_powered_off() {
    let finished = on_a_terminal(Vmm::linux(), "LAB-GUEST-INIT", |terminal, _| {
        assert_raw(terminal);
        terminal.press("exit\r").expect("the keyboard");
    });
    finished.assert_powered_off();
}

#[test]
fn the_terminal_is_as_it_was_after_ctrl_a_x_in_the_sandbox_too() {
    let vmm = endless().argument("--sandbox");
    let finished = on_a_terminal(vmm, "FLOOD-LINE", |terminal, _| {
        assert_raw(terminal);
        let screen = terminal.screen();
        assert!(screen.contains("Ctrl-A x ends the guest"), "{screen}");
        terminal.press("\u{1}x").expect("the keyboard");
    });
    // The user's wish is no failure.
    finished.assert_status(0);
    assert_eq!(finished.stat("/outcome"), "quit", "{finished}");
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal() {
    let finished = on_a_terminal(endless(), "FLOOD-LINE", |terminal, running| {
        assert_raw(terminal);
        running.signal(Signal::TERM);
    });
    finished.assert_status(1);
    assert_eq!(finished.stat("/outcome"), "signal", "{finished}");
}

#[test]
fn the_terminal_is_as_it_was_when_the_guest_cannot_start() {
    let vmm = Vmm::new().option("--kernel", "/etc/passwd");
    on_a_terminal(vmm, "error: ", |_, _| {}).assert_status(2);
}

#[test]
fn the_terminal_is_as_it_was_after_the_front_ends_serial_stdio() {
    let front_end = FrontEnd::bare_metal_by_hand("flood-guest", "lines=1000000000");
    let start = |streams| front_end.start_on(streams).0;
    let finished = started_on_a_terminal(start, "FLOOD-LINE", |terminal, _| {
        assert_raw(terminal);
        terminal.press("\u{1}x").expect("the keyboard");
    });
    assert_eq!(finished.signal(), None, "{finished}");
}
