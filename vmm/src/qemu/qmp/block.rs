//! What commands about disks do.

use serde_json::{Value, json};
use spapr_devices::image::{Image, Kind, Tally};
use spapr_devices::virtio::disk::{Disk, IoStatus};

use super::commands::{Answer, Request};
use super::error::QmpError;
use super::types::Type::{Bool, Enum, Int, Object, Str};
use super::types::{Type, optional, required};
use crate::qemu::command_line::{DriveKind, NODE_DRIVERS};
use crate::qemu::disks::DiskFacts;

const IMAGE: Type = Object(&[
    required("filename", Str),
    required("format", Str),
    required("virtual-size", Int),
    optional("actual-size", Int),
    required("dirty-flag", Bool),
]);

/// A node, as `query-block` and `query-named-block-nodes` have it.
pub(super) const NODE: Type = Object(&[
    required("file", Str),
    required("node-name", Str),
    required("ro", Bool),
    required("drv", Enum(NODE_DRIVERS)),
    required("backing_file_depth", Int),
    required("active", Bool),
    required("encrypted", Bool),
    required("detect_zeroes", Enum(&["off"])),
    required("bps", Int),
    required("bps_rd", Int),
    required("bps_wr", Int),
    required("iops", Int),
    required("iops_rd", Int),
    required("iops_wr", Int),
    required("write_threshold", Int),
    required("image", IMAGE),
    required(
        "cache",
        Object(&[
            required("writeback", Bool),
            required("direct", Bool),
            required("no-flush", Bool),
        ]),
    ),
]);

/// A device, as `query-block` has it.
pub(super) const BLOCK: Type = Object(&[
    required("device", Str),
    optional("qdev", Str),
    required("type", Str),
    required("removable", Bool),
    required("locked", Bool),
    optional("inserted", NODE),
    optional("io-status", Enum(&["ok", "failed", "nospace"])),
]);

const COUNTS: Type = Object(&[
    required("rd_bytes", Int),
    required("wr_bytes", Int),
    required("unmap_bytes", Int),
    required("rd_operations", Int),
    required("wr_operations", Int),
    required("flush_operations", Int),
    required("unmap_operations", Int),
    required("rd_total_time_ns", Int),
    required("wr_total_time_ns", Int),
    required("flush_total_time_ns", Int),
    required("unmap_total_time_ns", Int),
    required("wr_highest_offset", Int),
    required("rd_merged", Int),
    required("wr_merged", Int),
    required("unmap_merged", Int),
    required("failed_rd_operations", Int),
    required("failed_wr_operations", Int),
    required("failed_flush_operations", Int),
    required("failed_unmap_operations", Int),
    required("invalid_rd_operations", Int),
    required("invalid_wr_operations", Int),
    required("invalid_flush_operations", Int),
    required("invalid_unmap_operations", Int),
    required("account_invalid", Bool),
    required("account_failed", Bool),
]);

const OF_NODE: Type = Object(&[required("node-name", Str), required("stats", COUNTS)]);

/// What was counted, as `query-blockstats` has it: of a device with the node that it has and the file below, or of
/// a node.
pub(super) const STATISTICS: Type = Object(&[
    optional("device", Str),
    optional("qdev", Str),
    optional("node-name", Str),
    required("stats", COUNTS),
    optional("parent", OF_NODE),
]);

/// The disks that there are.
fn disks<'a>(request: &'a Request<'_>) -> impl Iterator<Item = (&'a DiskFacts, &'a Disk)> {
    let disks = request.monitor.facts.disks.iter();
    disks.filter_map(|facts| Some((facts, facts.disk.as_deref()?)))
}

fn node(name: &str, driver: &str, disk: &Disk) -> Value {
    let image = disk.image();
    let options = image.options();
    let path = options.path.display().to_string();
    json!({
        "file": path,
        "node-name": name,
        "ro": options.read_only,
        "drv": driver,
        "backing_file_depth": 0,
        "active": true,
        "encrypted": false,
        "detect_zeroes": "off",
        "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        "write_threshold": 0,
        "image": {
            "filename": path,
            "format": driver,
            "virtual-size": number(image.bytes()),
            "actual-size": number(image.allocated_bytes().unwrap_or(0)),
            "dirty-flag": false,
        },
        "cache": {
            "writeback": disk.options().write_cache,
            "direct": options.direct,
            "no-flush": options.ignores_flush,
        },
    })
}

/// As QMP's numbers go.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

const fn io_status(status: IoStatus) -> &'static str {
    match status {
        IoStatus::Ok => "ok",
        IoStatus::NoSpace => "nospace",
        IoStatus::Failed => "failed",
    }
}

pub(super) fn query_block(request: &mut Request<'_>) -> Answer {
    let describe = |(facts, disk): (&DiskFacts, &Disk)| {
        let mut device = json!({
            "device": "",
            "type": "unknown",
            "removable": facts.kind == DriveKind::ScsiCd,
            "locked": false,
        });
        if facts.may_stop() {
            device["io-status"] = io_status(disk.status()).into();
        }
        if let Some(qdev) = facts.qdev() {
            device["qdev"] = qdev.into();
        }
        if let Some((name, driver)) = facts.nodes.first() {
            device["inserted"] = node(name, driver, disk);
        }
        device
    };
    let empty = request.monitor.facts.empty_drives.iter().map(|drive| {
        let mut device = json!({
            "device": "",
            "type": "unknown",
            "removable": true,
            "locked": false,
        });
        if let Some(id) = &drive.device {
            device["qdev"] = id.as_str().into();
        }
        device
    });
    Ok(disks(request).map(describe).chain(empty).collect())
}

pub(super) fn query_named_block_nodes(request: &mut Request<'_>) -> Answer {
    let nodes = disks(request).flat_map(|(facts, disk)| {
        let nodes = facts.nodes.iter();
        nodes.map(move |(name, driver)| node(name, driver, disk))
    });
    Ok(nodes.collect())
}

/// Counts under QEMU's names. Zeroes that are written count as writes.
fn counts(image: &Image) -> Value {
    let tally = |kind| image.counters().tally(kind);
    let (read, flush, unmap) = (tally(Kind::Read), tally(Kind::Flush), tally(Kind::Discard));
    let (plain, zeroes) = (tally(Kind::Write), tally(Kind::Zero));
    let write = Tally {
        operations: plain.operations + zeroes.operations,
        bytes: plain.bytes + zeroes.bytes,
        failed: plain.failed + zeroes.failed,
        invalid: plain.invalid + zeroes.invalid,
        nanoseconds: plain.nanoseconds.saturating_add(zeroes.nanoseconds),
    };
    let mut all = json!({
        "wr_highest_offset": number(image.counters().highest_write()),
        "rd_merged": 0, "wr_merged": 0, "unmap_merged": 0,
        "account_invalid": true, "account_failed": true,
    });
    for (name, tally) in [
        ("rd", read),
        ("wr", write),
        ("flush", flush),
        ("unmap", unmap),
    ] {
        if name != "flush" {
            all[format!("{name}_bytes")] = number(tally.bytes).into();
        }
        all[format!("{name}_operations")] = number(tally.operations).into();
        all[format!("{name}_total_time_ns")] = number(tally.nanoseconds).into();
        all[format!("failed_{name}_operations")] = number(tally.failed).into();
        all[format!("invalid_{name}_operations")] = number(tally.invalid).into();
    }
    all
}

pub(super) fn query_blockstats(request: &mut Request<'_>) -> Answer {
    if request.flag("query-nodes") == Some(true) {
        let nodes = disks(request).flat_map(|(facts, disk)| {
            let names = facts.nodes.iter().map(|(name, _)| name);
            names.map(|name| json!({"node-name": name, "stats": counts(disk.image())}))
        });
        return Ok(nodes.collect());
    }
    let describe = |(facts, disk): (&DiskFacts, &Disk)| {
        let stats = counts(disk.image());
        let mut device = json!({"device": "", "stats": stats});
        if let Some(qdev) = facts.qdev() {
            device["qdev"] = qdev.into();
        }
        if let Some((name, _)) = facts.nodes.first() {
            device["node-name"] = name.as_str().into();
        }
        if let Some((name, _)) = facts.nodes.get(1) {
            device["parent"] = json!({"node-name": name, "stats": device["stats"]});
        }
        device
    };
    Ok(disks(request).map(describe).collect())
}

pub(super) fn block_resize(request: &mut Request<'_>) -> Answer {
    let (device, name) = (request.text("device"), request.text("node-name"));
    let wanted = device.or(name).unwrap_or_default();
    let is_wanted = |facts: &DiskFacts| {
        let mut nodes = facts.nodes.iter();
        nodes.any(|(known, _)| known == wanted) || facts.device.as_deref() == Some(wanted)
    };
    let (_, disk) = disks(request)
        .find(|(facts, _)| is_wanted(facts))
        .ok_or_else(|| {
            QmpError::DeviceNotFound(format!("Cannot find device or node '{wanted}'"))
        })?;
    let size = request.number("size").unwrap_or(-1);
    let bytes = u64::try_from(size).map_err(|_| {
        QmpError::Generic(format!(
            "Parameter 'size' expects a size of 0 or more, not {size}"
        ))
    })?;
    // As QEMU: what is no whole sector is rounded up.
    let bytes = bytes.checked_next_multiple_of(512).unwrap_or(bytes);
    let resized = disk.resize(bytes);
    resized.map_err(|error| QmpError::Generic(format!("{wanted} cannot be resized: {error}")))?;
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::super::commands::ask;
    use super::*;
    use crate::qemu::disks::EmptyDrive;
    use crate::qemu::monitor::sample::monitor;

    #[test]
    fn a_disk_is_found_by_its_device_and_its_nodes() {
        let (monitor, _events) = monitor();
        let block = ask(&monitor, query_block, &json!({})).unwrap();
        assert_eq!(
            block[0]["qdev"],
            "/machine/peripheral/virtio-disk0/virtio-backend"
        );
        assert_eq!(block[0]["inserted"]["node-name"], "libvirt-1-format");
        assert_eq!(block[0]["io-status"], "ok");
        assert_eq!(block[0]["inserted"]["image"]["virtual-size"], 4096);
        let nodes = ask(&monitor, query_named_block_nodes, &json!({})).unwrap();
        assert_eq!(nodes[1]["drv"], "file");
        let counts = ask(&monitor, query_blockstats, &json!({})).unwrap();
        assert_eq!(counts[0]["stats"]["rd_operations"], 0);
        assert_eq!(counts[0]["parent"]["node-name"], "libvirt-1-storage");
        let counts = ask(&monitor, query_blockstats, &json!({"query-nodes": true})).unwrap();
        assert_eq!(counts.as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn drives_behind_a_scsi_controller_have_the_names_of_their_devices() {
        let (mut monitor, _events) = monitor();
        let disk = &mut monitor.facts.disks[0];
        disk.kind = DriveKind::ScsiCd;
        disk.device = Some("scsi0-0-0-0".to_owned());
        assert_eq!(disk.qom_path(0), "/machine/peripheral/scsi0-0-0-0");
        monitor.facts.empty_drives.push(EmptyDrive {
            device: Some("scsi0-0-0-1".to_owned()),
        });
        let block = ask(&monitor, query_block, &json!({})).unwrap();
        let of = |name: &str| [0, 1].map(|at| block[at][name].clone());
        assert_eq!(of("qdev"), ["scsi0-0-0-0", "scsi0-0-0-1"]);
        assert_eq!(of("removable"), [true, true]);
        assert!(block[0]["inserted"].is_object() && block[1]["inserted"].is_null());
    }

    #[test]
    fn a_disk_is_resized_by_any_of_its_names() {
        let (monitor, _events) = monitor();
        let size = || {
            let nodes = ask(&monitor, query_named_block_nodes, &json!({})).unwrap();
            nodes[0]["image"]["virtual-size"].clone()
        };
        let resize = |name: &str, of: &str, size: i64| {
            let arguments = json!({ name: of, "size": size });
            ask(&monitor, block_resize, &arguments)
        };
        resize("node-name", "libvirt-1-storage", 1 << 20).unwrap();
        assert_eq!(size(), 1 << 20);
        resize("device", "virtio-disk0", 1000).unwrap();
        assert_eq!(size(), 1024);
        let refused = resize("node-name", "other", 1024).unwrap_err();
        assert_eq!(refused.to_json()["class"], "DeviceNotFound");
        assert!(resize("device", "virtio-disk0", -1).is_err());
    }
}
