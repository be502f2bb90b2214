//! Guests whose kernel panics: what is said of them.

use std::fs;

use crate::harness::Vmm;
use crate::harness::finished::Finished;

/// What the guest's kernel says of it, on its console.
const PANIC: &str = "Kernel panic - not syncing: sysrq triggered crash";

fn crashing(append: &str) -> Vmm {
    Vmm::job("echo c >/proc/sysrq-trigger").option("--append", append)
}

/// Fails unless one message says that the guest stopped, where its console is, and what it says there.
#[track_caller]
fn assert_told(finished: &Finished, console: &str) {
    finished.assert_status(1);
    assert_eq!(finished.stat("/outcome"), "os-term", "{finished}");
    let errors = finished.errors();
    let told = format!(
        "error: the guest's operating system stopped and gave no reason; its console ({console}) \
         says \""
    );
    assert_eq!(errors.matches("error: ").count(), 1, "{finished}");
    let (_, line) = errors
        .split_once(&told)
        .unwrap_or_else(|| panic!("{finished}"));
    assert!(line.contains(PANIC), "{finished}");
    assert!(!line.contains("end Kernel panic"), "{finished}");
}

/// Whatever the kernel is to do after a panic: it tells the machine first.
#[test]
fn a_guest_that_panics_is_told_of_with_its_console_and_the_line_there() {
    for panic in ["panic=0", "panic=-1"] {
        let finished = crashing(&format!("console=hvc0 {panic}")).run();
        assert!(finished.console().contains(PANIC), "{panic}: {finished}");
        assert_told(&finished, "standard output");
    }
}

#[test]
fn a_panic_whose_console_is_a_file_names_the_file() {
    let path = "/tmp/console-of-a-panic";
    let vmm = crashing("console=hvc0 panic=30").option("--console", &format!("file={path}"));
    let finished = vmm.run();
    let console = fs::read_to_string(path).expect("no console");
    fs::remove_file(path).expect("cannot remove it");
    assert!(console.contains(PANIC), "{console}");
    assert_told(&finished, &format!("the file {path}"));
}
