//! Commands that ask: what there is, and nothing that is not.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::balloon;
use super::commands::{Answer, Request};
use super::error::QmpError;
use crate::qemu::command_line::{
    BACKENDS, DEVICE_TYPES, MACHINES, OBJECT_TYPES, OPTION_PARAMETERS,
};
use crate::qemu::state::RunState;

/// The version of QEMU whose command line and protocol are followed, as far as they go.
const FOLLOWED_VERSION: (u32, u32, u32) = (10, 0, 0);

/// The most processors of a machine.
const MOST_PROCESSORS: u32 = 1024;

const HOST_PROCESSOR_TYPE: &str = "host-powerpc64-cpu";

/// What `query-version` says, and the greeting.
pub(super) fn version() -> Value {
    let (major, minor, micro) = FOLLOWED_VERSION;
    json!({
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": concat!("spapr-vmm ", env!("CARGO_PKG_VERSION")),
    })
}

pub(super) fn query_status(request: &mut Request<'_>) -> Answer {
    let state = request.monitor.guest.run_state();
    Ok(json!({"running": state == RunState::Running, "status": state.name()}))
}

pub(super) fn query_name(request: &mut Request<'_>) -> Answer {
    Ok(match &request.monitor.facts.name {
        Some(name) => json!({"name": name}),
        None => json!({}),
    })
}

pub(super) fn query_uuid(request: &mut Request<'_>) -> Answer {
    Ok(json!({"UUID": request.monitor.facts.uuid}))
}

pub(super) fn query_kvm(request: &mut Request<'_>) -> Answer {
    let kvm = request.monitor.facts.kvm;
    Ok(json!({"enabled": kvm, "present": kvm}))
}

pub(super) fn query_memory_size_summary(request: &mut Request<'_>) -> Answer {
    Ok(json!({"base-memory": request.monitor.facts.memory_bytes, "plugged-memory": 0}))
}

pub(super) fn query_cpus_fast(request: &mut Request<'_>) -> Answer {
    let facts = &request.monitor.facts;
    let threads = facts.threads_per_core.max(1);
    let processors = (0..).zip(&facts.processors);
    Ok(processors
        .map(|(index, id): (u32, _)| {
            json!({
                "cpu-index": index,
                "qom-path": processor_path(index),
                "thread-id": id,
                "props": {"core-id": index / threads * threads, "thread-id": index % threads},
                "target": "ppc64",
            })
        })
        .collect())
}

fn processor_path(index: u32) -> String {
    format!("/machine/unattached/device[{index}]")
}

pub(super) fn query_chardev(request: &mut Request<'_>) -> Answer {
    let chardevs = request.monitor.facts.chardevs.iter();
    Ok(chardevs
        .map(|chardev| {
            json!({
                "label": chardev.label, "filename": chardev.filename,
                "frontend-open": chardev.is_open()
            })
        })
        .collect())
}

pub(super) fn query_chardev_backends(_: &mut Request<'_>) -> Answer {
    Ok(BACKENDS.iter().map(|name| json!({"name": name})).collect())
}

pub(super) fn query_migrate_capabilities(request: &mut Request<'_>) -> Answer {
    let state = request.monitor.migration_events.load(Ordering::Relaxed);
    Ok(json!([{"capability": "events", "state": state}]))
}

pub(super) fn query_machines(_: &mut Request<'_>) -> Answer {
    let pseries = MACHINES.iter().map(|name| {
        let mut machine = json!({
            "name": name,
            "cpu-max": MOST_PROCESSORS,
            "hotpluggable-cpus": false,
            "numa-mem-supported": false,
            "deprecated": false,
            "acpi": false,
            "default-cpu-type": HOST_PROCESSOR_TYPE,
            "default-ram-id": "ppc_spapr.ram",
        });
        if *name == "pseries" {
            machine["is-default"] = true.into();
        }
        machine
    });
    let none = json!({
        "name": "none",
        "cpu-max": 1,
        "hotpluggable-cpus": false,
        "numa-mem-supported": false,
        "deprecated": false,
        "acpi": false,
    });
    Ok(pseries.chain([none]).collect())
}

pub(super) fn query_cpu_definitions(request: &mut Request<'_>) -> Answer {
    let definition = |name: &str, kind: &str| json!({"name": name, "typename": kind, "static": false, "deprecated": false});
    let mut definitions = vec![definition("host", HOST_PROCESSOR_TYPE)];
    if let Some(name) = &request.monitor.facts.host_processor {
        let lower = name.to_ascii_lowercase();
        definitions.push(definition(&lower, &format!("{lower}-powerpc64-cpu")));
    }
    Ok(Value::Array(definitions))
}

pub(super) fn query_command_line_options(request: &mut Request<'_>) -> Answer {
    let wanted = request.text("option");
    let options: Vec<Value> = OPTION_PARAMETERS
        .iter()
        .filter(|(option, _)| wanted.is_none_or(|wanted| wanted == *option))
        .map(|(option, parameters)| {
            let parameters: Vec<Value> = parameters
                .iter()
                .map(|(name, kind)| json!({"name": name, "type": kind}))
                .collect();
            json!({"option": option, "parameters": parameters})
        })
        .collect();
    if options.is_empty() {
        let wanted = wanted.unwrap_or_default();
        return Err(QmpError::Generic(format!("invalid option name: {wanted}")));
    }
    Ok(Value::Array(options))
}

/// All types: their names and those of the types that they are made from.
fn types() -> impl Iterator<Item = (String, &'static str)> {
    let devices = DEVICE_TYPES
        .iter()
        .map(|device| (device.name.to_owned(), device.parent));
    let objects = OBJECT_TYPES
        .iter()
        .map(|&(name, _)| (name.to_owned(), "object"));
    let machines = MACHINES
        .iter()
        .chain(&["none"])
        .map(|name| (format!("{name}-machine"), "machine"));
    let processors = [(HOST_PROCESSOR_TYPE.to_owned(), "cpu")];
    let accelerators = [("kvm-accel".to_owned(), "accel")];
    // What libvirt knows vhost-user-fs-pci and vhost-vsock-pci by.
    let parts = ["vhost-user-fs-device", "vhost-vsock-device"];
    let parts = parts.map(|name| (name.to_owned(), "virtio-device"));
    devices
        .chain(objects)
        .chain(machines)
        .chain(processors)
        .chain(accelerators)
        .chain(parts)
}

pub(super) fn qom_list_types(request: &mut Request<'_>) -> Answer {
    let wanted = request.text("implements");
    let is_wanted = |name: &str, parent: &str| match wanted {
        None | Some("object") => true,
        Some("device") => DEVICE_TYPES.iter().any(|device| device.name == name),
        Some(wanted) => wanted == name || wanted == parent,
    };
    Ok(types()
        .filter(|(name, parent)| is_wanted(name, parent))
        .map(|(name, parent)| json!({"name": name, "parent": parent}))
        .collect())
}

pub(super) fn device_list_properties(request: &mut Request<'_>) -> Answer {
    let name = request.text("typename").unwrap_or_default();
    let device = DEVICE_TYPES.iter().find(|device| device.name == name);
    let device =
        device.ok_or_else(|| QmpError::DeviceNotFound(format!("Device '{name}' not found")))?;
    let properties = device.properties.iter();
    Ok(properties
        .map(|(name, kind, description)| {
            json!({"name": name, "type": kind, "description": description})
        })
        .collect())
}

pub(super) fn qom_list_properties(request: &mut Request<'_>) -> Answer {
    let name = request.text("typename").unwrap_or_default();
    let object = OBJECT_TYPES.iter().find(|(known, _)| *known == name);
    if let Some((_, properties)) = object {
        return Ok(named_properties(properties));
    }
    if DEVICE_TYPES.iter().any(|device| device.name == name) {
        return device_list_properties(request);
    }
    let is_machine = name
        .strip_suffix("-machine")
        .is_some_and(|name| MACHINES.contains(&name));
    if is_machine {
        let machine = OPTION_PARAMETERS
            .iter()
            .find(|(name, _)| *name == "machine");
        return Ok(named_properties(
            machine.map_or(&[], |(_, properties)| properties),
        ));
    }
    if types().any(|(known, _)| known == name) {
        return Ok(json!([]));
    }
    Err(QmpError::DeviceNotFound(format!(
        "Class '{name}' not found"
    )))
}

fn named_properties(properties: &[(&str, &str)]) -> Value {
    let describe = |(name, kind): &(&str, &str)| json!({"name": name, "type": kind});
    properties.iter().map(describe).collect()
}

/// The objects of the machine by their paths, with their types.
fn objects(request: &Request<'_>) -> Vec<(String, String)> {
    let facts = &request.monitor.facts;
    let kind = if facts.processors.is_empty() {
        "none-machine"
    } else {
        "pseries-machine"
    };
    let container = |path: &str| (path.to_owned(), "container".to_owned());
    let mut objects = vec![
        container(""),
        ("/machine".to_owned(), kind.to_owned()),
        container("/machine/peripheral"),
        container("/machine/unattached"),
    ];
    let devices = facts.devices.iter();
    objects.extend(
        devices.map(|(id, kind)| (format!("/machine/peripheral/{id}"), (*kind).to_owned())),
    );
    let processors = (0..).zip(&facts.processors);
    objects.extend(
        processors.map(|(index, _)| (processor_path(index), HOST_PROCESSOR_TYPE.to_owned())),
    );
    objects
}

fn find_object(objects: &[(String, String)], path: &str) -> Result<(String, String), QmpError> {
    let wanted = path.trim_end_matches('/');
    let found = objects.iter().find(|(known, _)| known == wanted);
    found
        .cloned()
        .ok_or_else(|| QmpError::DeviceNotFound(format!("Device '{path}' not found")))
}

pub(super) fn qom_list(request: &mut Request<'_>) -> Answer {
    let objects = objects(request);
    let path = request.text("path").unwrap_or_default();
    let (path, _) = find_object(&objects, path)?;
    let mut properties = vec![json!({"name": "type", "type": "string"})];
    if balloon::at(request, &path).is_some() {
        let own = balloon::PROPERTIES;
        properties.extend(own.map(|(name, kind)| json!({"name": name, "type": kind})));
    }
    for (known, kind) in &objects {
        let child = known
            .strip_prefix(&path)
            .and_then(|rest| rest.strip_prefix('/'));
        if let Some(child) = child
            && !child.contains('/')
        {
            properties.push(json!({"name": child, "type": format!("child<{kind}>")}));
        }
    }
    Ok(Value::Array(properties))
}

pub(super) fn qom_get(request: &mut Request<'_>) -> Answer {
    let objects = objects(request);
    let path = request.text("path").unwrap_or_default();
    let (_, kind) = find_object(&objects, path)?;
    let property = request.text("property").unwrap_or_default();
    let of_balloon = balloon::at(request, path);
    if let Some(value) = of_balloon.and_then(|control| balloon::get(control, property)) {
        return Ok(value);
    }
    match property {
        "type" => Ok(json!(kind)),
        property => Err(QmpError::Generic(format!(
            "Property '{kind}.{property}' not found"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;
    use crate::qemu::monitor::sample::monitor;

    fn ask(run: fn(&mut Request<'_>) -> Answer, arguments: &Value) -> Answer {
        let (monitor, _events) = monitor();
        commands::ask(&monitor, run, arguments)
    }

    #[test]
    fn processors_have_the_ids_of_their_threads() {
        let answer = ask(query_cpus_fast, &json!({})).expect("answered");
        assert_eq!(answer[3]["thread-id"], 104);
        assert_eq!(answer[3]["props"], json!({"core-id": 2, "thread-id": 1}));
    }

    #[test]
    fn devices_are_found_by_their_names() {
        let answer = ask(qom_list, &json!({"path": "/machine/peripheral"})).expect("answered");
        assert_eq!(
            answer[1],
            json!({"name": "pci.1", "type": "child<spapr-pci-host-bridge>"})
        );
        assert_eq!(
            answer[2],
            json!({"name": "serial0", "type": "child<spapr-vty>"})
        );
        let path = json!({"path": "/machine/peripheral/serial0", "property": "type"});
        assert_eq!(ask(qom_get, &path), Ok(json!("spapr-vty")));
        let root = ask(qom_list, &json!({"path": "/"})).expect("answered");
        assert_eq!(root[1]["name"], "machine");
        let nowhere = ask(qom_list, &json!({"path": "/nowhere"})).expect_err("refused");
        assert_eq!(nowhere.to_json()["class"], "DeviceNotFound");
    }

    #[test]
    fn types_are_those_that_work() {
        let answer = ask(qom_list_types, &json!({})).expect("answered");
        let names: Vec<&str> = answer
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|entry| entry["name"].as_str())
            .collect();
        for name in [
            "vfio-pci",
            "spapr-vty",
            "spapr-pci-host-bridge",
            "memory-backend-memfd",
            "virtio-balloon-pci",
            "virtserialport",
            "virtio-scsi-pci",
            "vhost-user-fs-device",
            "vhost-vsock-device",
            "scsi-hd",
            "scsi-cd",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        for name in ["tcg-accel", "lsi53c895a", "VGA"] {
            assert!(!names.contains(&name), "{name}");
        }
        let devices = ask(qom_list_types, &json!({"implements": "device"})).expect("answered");
        assert_eq!(devices.as_array().map(Vec::len), Some(DEVICE_TYPES.len()));
        let missing = json!({"typename": "virtio-net-ccw"});
        let refused = ask(device_list_properties, &missing).expect_err("refused");
        assert_eq!(refused.to_string(), "Device 'virtio-net-ccw' not found");
    }
}
