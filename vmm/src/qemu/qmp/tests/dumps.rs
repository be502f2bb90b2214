//! Dumps and system resets, as clients ask for them.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::dump::Snapshot;
use crate::dump::tests::{MARK, MARK_AT, memory_of, snapshot};
use crate::lifecycle::Lifecycle;
use crate::memory::LEAST_BYTES;
use crate::qemu::controls::Controls;

/// A machine that has nothing but memory.
struct Still(Arc<Mutex<Vec<&'static str>>>);

impl Controls for Still {
    fn pause(&self) {
        self.0.lock().push("pause");
    }

    fn resume(&self) {
        self.0.lock().push("resume");
    }

    fn request_shutdown(&self) {}

    fn system_reset(&self) {
        self.0.lock().push("system reset");
    }

    fn snapshot(&self) -> Option<Snapshot> {
        Some(snapshot())
    }
}

/// A guest that runs, and what is done to it.
fn running(fixture: &Fixture) -> Arc<Mutex<Vec<&'static str>>> {
    let done = Arc::default();
    let lifecycle = Arc::new(Lifecycle::new().expect("eventfd"));
    let guest = &fixture.monitor.guest;
    guest.attach(&lifecycle, Box::new(Still(Arc::clone(&done))));
    guest.cont().expect("starts");
    done.lock().clear();
    done
}

fn dump_to(protocol: &str, detach: bool) -> Value {
    json!({"execute": "dump-guest-memory", "id": "dump", "arguments": {
        "paging": false, "protocol": protocol, "format": "elf", "detach": detach
    }})
}

fn pass_as(name: &str) -> Value {
    json!({"execute": "getfd", "arguments": {"fdname": name}})
}

fn assert_is_dump(core: &[u8]) {
    let (place, address, bytes) = memory_of(core);
    assert_eq!((address, bytes), (0, LEAST_BYTES));
    let marked = place + usize::try_from(MARK_AT).expect("in memory");
    assert!(core[marked..].starts_with(MARK));
}

#[test]
fn a_detached_dump_is_written_while_clients_are_served_and_its_end_is_told() {
    let fixture = Fixture::new();
    let done = running(&fixture);
    let mut client = fixture.negotiated();
    assert_eq!(
        client.ask("query-dump"),
        json!({"status": "none", "completed": 0, "total": 0})
    );
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    assert_eq!(
        client.pass(&pass_as("dump"), &writer),
        json!({"return": {}})
    );
    drop(writer);
    client.say(dump_to("fd:dump", true).to_string().as_bytes());
    assert_eq!(client.reply(), json!({"return": {}, "id": "dump"}));
    // Nobody reads it yet.
    let progress = client.ask("query-dump");
    assert_eq!(progress["status"], "active", "{progress}");
    assert_eq!(progress["total"], LEAST_BYTES);
    assert!(progress["completed"].as_u64() < Some(LEAST_BYTES));
    assert_eq!(client.ask("query-status")["status"], "save-vm");
    let kept = fixture.folder.path().join("kept");
    std::fs::write(&kept, "kept").expect("write");
    let protocol = format!("file:{}", kept.display());
    client.say(dump_to(&protocol, true).to_string().as_bytes());
    let told = "the guest is being dumped; wait until that has ended (query-dump)";
    assert_eq!(client.reply()["error"]["desc"], told);
    assert_eq!(std::fs::read(&kept).expect("read"), b"kept");
    let mut core = Vec::new();
    reader.read_to_end(&mut core).expect("read");
    assert_is_dump(&core);
    // Those before were told between the replies above.
    let event = loop {
        let event = client.event();
        if event["event"] == "DUMP_COMPLETED" {
            break event;
        }
    };
    let result = json!({"status": "completed", "completed": LEAST_BYTES, "total": LEAST_BYTES});
    assert_eq!(event["data"], json!({"result": result}));
    assert_eq!(client.ask("query-dump"), result);
    assert_eq!(client.ask("query-status")["status"], "running");
    assert_eq!(*done.lock(), ["pause", "resume"]);
}

#[test]
fn a_dump_that_is_not_detached_is_replied_to_when_it_has_ended_and_holds_nobody_else_up() {
    let fixture = Fixture::new();
    let _done = running(&fixture);
    let mut client = fixture.negotiated();
    let mut other = fixture.negotiated();
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    client.pass(&pass_as("dump"), &writer);
    drop(writer);
    let mut both = dump_to("fd:dump", false).to_string();
    both.push_str(r#"{"execute":"query-status","id":"next"}"#);
    client.say(both.as_bytes());
    while other.ask("query-dump")["status"] != "active" {}
    assert_eq!(other.ask("query-status")["status"], "save-vm");
    let mut core = Vec::new();
    reader.read_to_end(&mut core).expect("read");
    assert_is_dump(&core);
    assert_eq!(client.reply(), json!({"return": {}, "id": "dump"}));
    let next = client.reply();
    assert_eq!(
        (&next["id"], &next["return"]["status"]),
        (&json!("next"), &json!("running"))
    );
}

#[test]
fn a_dump_whose_target_fails_is_told_of_and_the_guest_goes_on() {
    let fixture = Fixture::new();
    let done = running(&fixture);
    let mut client = fixture.negotiated();
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full");
    let full = full.expect("full").into();
    for (target, told) in [
        (std::os::fd::OwnedFd::from(writer), "Broken pipe"),
        (full, "No space left on device"),
    ] {
        client.pass(&pass_as("dump"), &target);
        client.say(dump_to("fd:dump", false).to_string().as_bytes());
        let event = loop {
            let event = client.event();
            if event["event"] == "DUMP_COMPLETED" {
                break event;
            }
        };
        assert_eq!(event["data"]["result"]["status"], "failed");
        let error = event["data"]["error"].as_str().expect("text").to_owned();
        assert!(error.contains(told), "{error}");
        assert_eq!(client.reply()["error"]["desc"], error);
        assert_eq!(client.ask("query-status")["status"], "running");
        done.lock().clear();
    }
}

#[test]
fn a_dump_goes_to_a_file_or_to_a_descriptor_of_a_set() {
    let fixture = Fixture::new();
    let _done = running(&fixture);
    let mut client = fixture.negotiated();
    let path = fixture.folder.path().join("core");
    let protocol = format!("file:{}", path.display());
    client.say(dump_to(&protocol, false).to_string().as_bytes());
    assert_eq!(client.reply()["return"], json!({}));
    assert_is_dump(&std::fs::read(&path).expect("the file"));
    let other = fixture.folder.path().join("other");
    let file = std::fs::File::create(&other).expect("file");
    let add = json!({"execute": "add-fd", "arguments": {"fdset-id": 4}});
    client.pass(&add, &file);
    client.say(dump_to("file:/dev/fdset/4", false).to_string().as_bytes());
    assert_eq!(client.reply()["return"], json!({}));
    assert_is_dump(&std::fs::read(&other).expect("the file"));
}

/// What cannot be asked of `dump-guest-memory`, with what it is told; the last one is found out with the guest held.
fn impossible_dumps() -> Vec<(Value, String)> {
    let past = format!(
        "bytes 0x1000 to {:#x} are not all guest memory",
        LEAST_BYTES + 0x1000
    );
    let impossible = [
        (
            json!({"paging": true, "protocol": "fd:x"}),
            "'paging' has to be false",
        ),
        (
            json!({"paging": false, "protocol": "fd:x", "format": "kdump-zlib"}),
            "Parameter 'format' does not accept value 'kdump-zlib'",
        ),
        (
            json!({"paging": false, "protocol": "fd:x"}),
            "named 'x' not found",
        ),
        (
            json!({"paging": false, "protocol": "fd:reader"}),
            "cannot be written to",
        ),
        (
            json!({"paging": false, "protocol": "exec:cat"}),
            "not 'exec:cat'",
        ),
        (
            json!({"paging": false, "protocol": "file:/nowhere/core"}),
            "/nowhere/core cannot be opened: No such file",
        ),
        (
            json!({"paging": false, "protocol": "file:/dev/null", "begin": 1}),
            "Parameter 'length' is missing",
        ),
        (
            json!({"paging": false, "protocol": "file:/dev/null", "length": 1}),
            "Parameter 'begin' is missing",
        ),
        (
            json!({"paging": false, "protocol": "file:/dev/null", "begin": 0, "length": -1}),
            "'length' expects a non-negative value",
        ),
        (
            json!({"paging": false, "protocol": "file:/dev/null", "begin": 4096,
                "length": LEAST_BYTES}),
            past.as_str(),
        ),
    ];
    let owned = |(arguments, told): (Value, &str)| (arguments, told.to_owned());
    impossible.map(owned).to_vec()
}

#[test]
fn dumps_that_cannot_be_made_are_refused_with_the_reason() {
    let fixture = Fixture::new();
    let done = running(&fixture);
    let mut client = fixture.negotiated();
    let (reader, _writer) = std::io::pipe().expect("pipe");
    client.pass(&pass_as("reader"), &reader);
    for (arguments, told) in impossible_dumps() {
        let command = json!({"execute": "dump-guest-memory", "arguments": arguments});
        client.say(command.to_string().as_bytes());
        let reply = client.reply();
        let desc = reply["error"]["desc"].as_str().unwrap_or_default();
        assert!(desc.contains(&told), "{arguments}: {reply}");
    }
    assert_eq!(client.ask("query-status")["status"], "running");
    // The last one was found out with the guest already held.
    assert_eq!(*done.lock(), ["pause", "resume"]);
    fixture.monitor.guest.detach();
    client.say(dump_to("file:/dev/null", true).to_string().as_bytes());
    assert_eq!(client.reply()["error"]["desc"], "the guest is off");
}

#[test]
fn a_dump_that_nobody_reads_ends_with_its_machine() {
    let fixture = Fixture::new();
    let _done = running(&fixture);
    let mut client = fixture.negotiated();
    let (_reader, writer) = std::io::pipe().expect("pipe");
    client.pass(&pass_as("dump"), &writer);
    client.say(dump_to("fd:dump", true).to_string().as_bytes());
    assert_eq!(client.reply()["return"], json!({}));
    let begun = Instant::now();
    fixture.monitor.guest.detach();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "it was waited for in vain"
    );
    let progress = client.ask("query-dump");
    assert_eq!(progress["status"], "failed", "{progress}");
}

#[test]
fn an_nmi_is_a_system_reset_of_all_processors() {
    let fixture = Fixture::new();
    let done = running(&fixture);
    let mut client = fixture.negotiated();
    assert_eq!(client.ask("inject-nmi"), json!({}));
    assert_eq!(*done.lock(), ["system reset"]);
}
