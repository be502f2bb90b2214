//! Tests of the lab's commands as programs: `exec` and `shell`, which boot a host, and `prepare`.
//! `cargo lab test` runs them.

mod lpar;
mod package;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spapr_lab::pseudo_terminal::PseudoTerminal;

/// The time in which a host boots and does next to nothing, other labs and builds apart.
const LIMIT: Duration = Duration::from_secs(400);

/// One of the lab's commands, for a host that is quick to make.
fn lab(command: &str) -> Command {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args([command, "--host", "p9-4k", "--without-vmm"]);
    lab
}

#[test]
fn exec_passes_on_streams_status_and_files_and_tells_all_that_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(file("in")).unwrap();
    fs::write(file("in/a"), "copied in\n").unwrap();
    let wrong = "0".repeat(64);
    let script = format!(
        "cat /srv/in/a
         echo an error >&2
         echo brought back >/tmp/out
         echo LAB-EXPECT-NVME offset=0 length=512 sha256=$(head -c 512 /dev/zero | sha256sum |
             cut -d' ' -f1)
         echo LAB-EXPECT-NVME offset=67108864 length=512 sha256={wrong}
         exit 7"
    );
    let output = lab("exec")
        .args(["--copy", &format!("{}:/srv/in", file("in"))])
        .args(["--fetch", "/none:none"])
        .args(["--fetch", &format!("/tmp/out:{}", file("out"))])
        .args(["--timeout", "60", "--", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let all = format!("{:?}\n{stdout}\n---\n{stderr}", output.status);
    assert_eq!(output.status.code(), Some(7), "{all}");
    assert!(stdout.starts_with("copied in\nLAB-EXPECT-NVME "), "{all}");
    assert!(!stdout.contains("an error"), "{all}");
    assert_eq!(stdout.lines().count(), 3, "{all}");
    assert!(stderr.lines().any(|line| line == "an error"), "{all}");
    assert!(stderr.contains("not fetched: /none"), "{all}");
    assert_eq!(fs::read_to_string(file("out")).unwrap(), "brought back\n");
    // The disk starts with data, and zeros follow it: both expectations are wrong.
    for offset in ["512 bytes at 0 have", "512 bytes at 67108864 have"] {
        assert!(stderr.contains(offset), "{all}");
    }
}

#[test]
fn a_copy_of_what_does_not_exist_is_refused_before_anything_is_built() {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args([
            "exec",
            "--copy",
            "/nonexistent/input:/srv/input",
            "--",
            "true",
        ])
        // Whoever builds first fails at that.
        .env("CARGO", "/nonexistent/cargo")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(
        stderr.contains("--copy: /nonexistent/input does not exist"),
        "{stderr}"
    );
    assert!(!stderr.contains("building"), "{stderr}");
}

#[test]
fn with_a_full_cache_nothing_needs_the_network() {
    let prepare = |network: &[&str], check: &str| {
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .args(network)
            .args(["sh", "-c", &format!("{check} && exec \"$0\" prepare")])
            .arg(env!("CARGO_BIN_EXE_lab"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.ends_with("lab: everything is there\n"), "{stderr}");
    };
    // The first one fills the cache where it is not full yet.
    prepare(&[], "true");
    // The table of routes has a heading alone.
    prepare(&["--net"], "[ $(wc -l </proc/net/route) -le 1 ]");
}

#[test]
fn shell_is_on_the_users_terminal_and_leaves_it_as_it_was() {
    let mut terminal = PseudoTerminal::open().unwrap();
    let before = terminal.modes().unwrap();
    let mut shell = lab("shell")
        .stdin(terminal.stream().unwrap())
        .stdout(terminal.stream().unwrap())
        .stderr(terminal.stream().unwrap())
        .spawn()
        .unwrap();
    let mut wait_for = |terminal: &mut PseudoTerminal, text: &str| {
        if !terminal.wait_for(text, LIMIT) {
            // The host goes with the lab.
            shell.kill().unwrap();
            panic!("no {text:?} on the terminal:\n{}", terminal.screen());
        }
    };
    wait_for(&mut terminal, "p9-4k # ");
    assert_ne!(terminal.modes().unwrap(), before, "not raw");
    terminal.press("echo typed-$((40 + 2))\r").unwrap();
    wait_for(&mut terminal, "typed-42");
    terminal.press("exit 5\r").unwrap();
    wait_for(&mut terminal, "lab: logs: ");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = shell.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < LIMIT, "the lab does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(5), "{}", terminal.screen());
    assert_eq!(terminal.modes().unwrap(), before);
}
