use super::*;
use crate::qemu::monitor::sample::monitor;
use crate::qemu::state::RunState;

/// Arguments with which a command can be called, where it needs some.
fn arguments(name: &str) -> Value {
    match name {
        "device-list-properties" => json!({"typename": "vfio-pci"}),
        "migrate-set-capabilities" => json!({"capabilities": []}),
        "qom-get" => json!({"path": "/machine", "property": "type"}),
        "balloon" => json!({"value": 1 << 29}),
        "qom-set" => json!({
            "path": "/machine/peripheral/balloon0",
            "property": "guest-stats-polling-interval",
            "value": 2,
        }),
        "qom-list" => json!({"path": "/machine/peripheral"}),
        "qom-list-properties" => json!({"typename": "pseries-machine"}),
        "netdev_add" => json!({"type": "tap", "id": "n"}),
        "set_link" => json!({"name": "net0", "up": true}),
        "block_resize" => json!({"node-name": "libvirt-1-storage", "size": 1024}),
        "getfd" | "closefd" => json!({"fdname": "x"}),
        "remove-fd" => json!({"fdset-id": 3}),
        "dump-guest-memory" => json!({"paging": false, "protocol": "fd:x"}),
        _ => json!({}),
    }
}

#[test]
fn what_commands_return_is_what_the_schema_says() {
    let (monitor, _events) = monitor();
    let mut refused = Vec::new();
    for command in COMMANDS {
        let Value::Object(arguments) = arguments(command.name) else {
            panic!("no object")
        };
        let wrong = super::super::types::members_mismatch(command.arguments, &arguments);
        assert_eq!(wrong, None, "{}", command.name);
        let mut request = Request {
            monitor: &monitor,
            arguments,
            descriptor: None,
            awaits: None,
        };
        match (command.run)(&mut request) {
            Ok(value) => {
                let wrong = command.returns.mismatch("return", &value);
                assert_eq!(wrong, None, "{}: {value}", command.name);
            }
            Err(_) => refused.push(command.name),
        }
    }
    // No descriptor came, no network card can be added, no such set is there, and no processor.
    assert_eq!(
        refused,
        [
            "add-fd",
            "closefd",
            "dump-guest-memory",
            "getfd",
            "inject-nmi",
            "netdev_add",
            "remove-fd"
        ]
    );
}

#[test]
fn the_schema_has_every_command_and_no_loose_ends() {
    let schema = query_qmp_schema();
    let entries = schema.as_array().expect("a list");
    let names: Vec<&str> = entries
        .iter()
        .map(|entry| entry["name"].as_str().expect("a name"))
        .collect();
    for command in COMMANDS {
        assert!(names.contains(&command.name), "{}", command.name);
    }
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "a name twice");
    for entry in entries {
        let mut used = vec![
            &entry["arg-type"],
            &entry["ret-type"],
            &entry["element-type"],
        ];
        let members = entry["members"].as_array();
        used.extend(members.into_iter().flatten().map(|member| &member["type"]));
        for name in used.into_iter().filter_map(Value::as_str) {
            assert!(names.contains(&name), "{name} in {entry}");
        }
    }
}

#[test]
fn run_states_are_named_as_the_schema_says() {
    assert_eq!(RunState::ALL.map(RunState::name), *RUN_STATES);
}
