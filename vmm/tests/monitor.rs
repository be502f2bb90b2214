//! `spapr-vmm-qemu` as a process, without a machine: how libvirt asks what there is.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const LIMIT: Duration = Duration::from_secs(30);

fn vmm(folder: &Path) -> Command {
    let mut command = program::command(env!("CARGO_BIN_EXE_spapr-vmm-qemu"));
    let monitor = folder.join("monitor");
    command
        .args(["-S", "-no-user-config", "-nodefaults", "-nographic"])
        .args(["-machine", "none,accel=kvm:tcg", "-qmp"])
        .arg(format!("unix:{},server=on,wait=off", monitor.display()))
        .arg("-pidfile")
        .arg(folder.join("pid"));
    command
}

struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    fn connect(folder: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(folder.join("monitor")) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no monitor: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        let reader = BufReader::new(stream.try_clone().expect("clone"));
        let mut client = Self { stream, reader };
        assert!(client.receive().get("QMP").is_some());
        client.ask("qmp_capabilities");
        client
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).expect("a line in time");
        assert!(length > 0, "closed");
        serde_json::from_str(&line).expect("JSON")
    }

    fn ask(&mut self, command: &str) -> Value {
        let request = json!({"execute": command}).to_string();
        self.stream.write_all(request.as_bytes()).expect("write");
        self.receive()["return"].clone()
    }
}

fn wait_until_gone(path: &Path) {
    let deadline = Instant::now() + LIMIT;
    while path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} is still there",
            path.display()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether all threads of a process have a filter of system calls.
fn is_filtered(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    tasks.into_iter().all(|task| {
        let status = task.expect("a task").path().join("status");
        fs::read_to_string(status).is_ok_and(|status| status.contains("Seccomp:\t2"))
    })
}

#[test]
fn the_probe_becomes_a_daemon_answers_and_quits() {
    let folder = tempfile::tempdir().expect("folder");
    for sandbox in sandboxes() {
        let status = vmm(folder.path())
            .args(["-daemonize", "-sandbox", sandbox])
            .status();
        assert!(status.expect("starts").success());
        // Once it is a daemon, its monitor and its file are there.
        let pid = fs::read_to_string(folder.path().join("pid")).expect("a pid file");
        let pid: u32 = pid.trim().parse().expect("a number");
        let mut client = Client::connect(folder.path());
        assert_eq!(client.ask("query-target")["arch"], "ppc64");
        assert!(
            *sandbox == "off" || is_filtered(pid),
            "a thread has no filter"
        );
        client.ask("quit");
        assert_eq!(client.receive()["event"], "SHUTDOWN");
        wait_until_gone(&folder.path().join("pid"));
    }
}

/// A process that does not outlive its test.
struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        // One that has ended needs no more.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Waits for the greeting of a monitor that was connected to, for `limit`.
fn is_greeted(stream: &mut UnixStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).expect("timeout");
    let mut byte = [0];
    stream.read(&mut byte).is_ok_and(|length| length == 1)
}

#[test]
fn without_descriptors_a_client_waits_until_there_is_one_and_costs_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let stderr = fs::File::create(&log).expect("a file");
    let child = vmm(folder.path()).stderr(stderr).spawn();
    let mut child = Spawned(child.expect("starts"));
    let mut first = Client::connect(folder.path());
    let open = fs::read_dir(format!("/proc/{}/fd", child.0.id())).expect("descriptors");
    let open: Vec<u32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // Descriptors get the lowest numbers that are free.
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(2).expect("free");
    let limited = Command::new("prlimit")
        .args(["--pid", &child.0.id().to_string()])
        .arg(format!("--nofile={limit}:{limit}"))
        .status();
    assert!(limited.expect("prlimit").success());
    let mut others = Vec::new();
    let mut waiting = loop {
        assert!(others.len() < 25, "the limit is not felt");
        let mut next = UnixStream::connect(folder.path().join("monitor")).expect("connect");
        if !is_greeted(&mut next, Duration::from_secs(2)) {
            break next;
        }
        others.push(next);
    };
    assert_eq!(first.ask("query-target")["arch"], "ppc64");
    drop(others);
    assert!(is_greeted(&mut waiting, LIMIT));
    first.ask("quit");
    assert!(child.0.wait().expect("ends").success());
    let messages = fs::read_to_string(&log).expect("messages");
    let tries = messages.matches("has to wait").count();
    assert!((1..=60).contains(&tries), "{tries} tries: {messages}");
}

#[test]
fn a_signal_ends_it_in_its_sandbox_too() {
    let folder = tempfile::tempdir().expect("folder");
    for sandbox in sandboxes() {
        let mut command = vmm(folder.path());
        let child = command.args(["-sandbox", sandbox]).spawn();
        let mut child = Spawned(child.expect("starts"));
        let mut client = Client::connect(folder.path());
        let kill = Command::new("kill").arg(child.0.id().to_string()).status();
        assert!(kill.expect("kill").success());
        let event = client.receive();
        assert_eq!(event["data"]["reason"], "host-signal", "{event}");
        let status = child.0.wait().expect("wait");
        assert_eq!(status.code(), Some(0), "sandbox {sandbox}: {status:?}");
        assert!(!folder.path().join("pid").exists());
    }
}

#[test]
fn a_descriptor_comes_with_the_request_that_takes_it() {
    let folder = tempfile::tempdir().expect("folder");
    let mut child = vmm(folder.path()).spawn().expect("starts");
    let mut client = Client::connect(folder.path());
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    let request = br#"{"execute":"add-fd","arguments":{"fdset-id":7}}"#;
    let sent = client.stream.send_with_fd(&request[..], theirs.as_raw_fd());
    sent.expect("send");
    assert_eq!(client.receive()["return"]["fdset-id"], 7);
    assert_eq!(client.ask("query-fdsets")[0]["fdset-id"], 7);
    client.stream.write_all(request).expect("write");
    let reply = client.receive();
    let told = reply["error"]["desc"].as_str().unwrap_or_default();
    assert!(told.contains("No file descriptor"), "{reply}");
    // One that sends several at once is disconnected, and they are closed.
    let mut greedy = Client::connect(folder.path());
    let several = [theirs.as_raw_fd(); 2];
    let sent = greedy.stream.send_with_fds(&[&request[..]], &several);
    sent.expect("send");
    let mut line = String::new();
    assert_eq!(greedy.reader.read_line(&mut line).ok(), Some(0), "{line}");
    assert_eq!(
        client.ask("query-fdsets")[0]["fds"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    drop(theirs);
    client
        .stream
        .write_all(br#"{"execute":"remove-fd","arguments":{"fdset-id":7}}"#)
        .expect("write");
    assert_eq!(client.receive()["return"], json!({}));
    // Nobody else has the other end open.
    ours.set_read_timeout(Some(LIMIT)).expect("timeout");
    assert_eq!(ours.read(&mut [0]).expect("the end"), 0);
    client.ask("quit");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn refused_clients_do_not_fill_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let log = fs::File::create(folder.path().join("log")).expect("log");
    let mut child = vmm(folder.path()).stderr(log).spawn().expect("starts");
    let mut clients = vec![Client::connect(folder.path())];
    let refused = (0..400)
        .filter(|_| {
            let stream = UnixStream::connect(folder.path().join("monitor")).expect("connects");
            stream.set_read_timeout(Some(LIMIT)).expect("timeout");
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let mut line = String::new();
            let is_refused = !reader.read_line(&mut line).is_ok_and(|length| length > 0);
            if !is_refused {
                clients.push(Client { stream, reader });
            }
            is_refused
        })
        .count();
    assert!(refused > 300, "{refused} were refused");
    clients[0].ask("quit");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    let log = fs::read_to_string(folder.path().join("log")).expect("log");
    let told = log.matches("already").count();
    assert!((1..=60).contains(&told), "{told} lines in\n{log}");
}

#[test]
fn what_is_not_supported_is_named_and_the_status_is_1() {
    let folder = tempfile::tempdir().expect("folder");
    let output = vmm(folder.path()).args(["-netdev", "user,id=n"]).output();
    let output = output.expect("starts");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("-netdev user is not supported: networks without privileges are passt's"),
        "{message}"
    );
}

/// With and without a sandbox; qemu-user has no filters of system calls.
fn sandboxes() -> &'static [&'static str] {
    let is_emulated = cfg!(target_arch = "powerpc64")
        && fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| !text.contains("POWER"));
    if is_emulated {
        &["off"]
    } else {
        &["off", "on"]
    }
}
