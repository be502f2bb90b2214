//! Disks as monitors know them, and what they are told of requests that the host has failed.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};
use spapr_devices::image::Kind;
use spapr_devices::virtio::disk::{Action, Disk, DiskFailure, DiskFailures};

use super::command_line::DriveKind;

/// A disk.
#[derive(Clone)]
pub struct DiskFacts {
    /// The name of its device, if it has one.
    pub device: Option<String>,
    /// What its device is.
    pub kind: DriveKind,
    /// Its block nodes with their drivers, the device's first.
    pub nodes: Vec<(String, &'static str)>,
    /// The disk itself, once there is a machine.
    pub disk: Option<Arc<Disk>>,
}

impl DiskFacts {
    /// The path of its back end among the machine's objects; `number` is the disk's, for one without a name.
    pub fn qom_path(&self, number: usize) -> String {
        let device = match &self.device {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/peripheral-anon/device[{number}]"),
        };
        match self.kind {
            DriveKind::Virtio => format!("{device}/virtio-backend"),
            DriveKind::ScsiDisk | DriveKind::ScsiCd => device,
        }
    }

    /// What `query-block` and `query-blockstats` call its device, if that has a name: QEMU says which is a virtio
    /// disk's by its path, and which another's by its name.
    pub fn qdev(&self) -> Option<String> {
        let device = self.device.as_ref()?;
        Some(match self.kind {
            DriveKind::Virtio => self.qom_path(0),
            DriveKind::ScsiDisk | DriveKind::ScsiCd => device.clone(),
        })
    }

    /// Whether the machine pauses for some of its errors.
    pub fn may_stop(&self) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| disk.options().on_error.may_stop())
    }
}

impl fmt::Debug for DiskFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFacts")
            .field("device", &self.device)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// A CD drive without a medium.
#[derive(Clone, Debug)]
pub struct EmptyDrive {
    /// The name of its device, if it has one.
    pub device: Option<String>,
}

/// Where the machine's disks tell of failures, and how monitors name them. Without, there are no disks.
#[derive(Clone, Default)]
pub struct DiskErrors {
    failures: Option<Arc<DiskFailures>>,
    disks: Vec<DiskFacts>,
}

/// What became of requests since that was last asked.
#[derive(Debug, Default)]
pub struct Heard {
    /// What `BLOCK_IO_ERROR` carries, of each.
    pub events: Vec<Value>,
    /// One of them waits for the machine to pause.
    pub stops: bool,
}

impl DiskErrors {
    /// Of these disks, in the machine's order.
    pub fn of(failures: Option<Arc<DiskFailures>>, disks: Vec<DiskFacts>) -> Self {
        Self { failures, disks }
    }

    /// Where disks tell.
    pub fn failures(&self) -> Option<&DiskFailures> {
        self.failures.as_deref()
    }

    /// What was told since.
    pub fn hear(&self) -> Heard {
        let mut heard = Heard::default();
        for failure in self.failures.iter().flat_map(|failures| failures.take()) {
            let Some(facts) = self.disks.get(failure.disk) else {
                continue;
            };
            // A request of a life that is over waits no more.
            let waits = facts.disk.as_ref().is_some_and(|disk| disk.waits());
            heard.stops |= failure.action == Action::Stop && waits;
            heard.events.push(event(facts, &failure));
        }
        heard
    }

    /// The machine goes on, and disks are well until something fails.
    pub fn forget(&self) {
        for disk in self.disks.iter().filter_map(|facts| facts.disk.as_ref()) {
            disk.forget_status();
        }
    }
}

fn event(facts: &DiskFacts, failure: &DiskFailure) -> Value {
    let mut event = json!({
        "device": "",
        "qom-path": facts.qom_path(failure.disk),
        "operation": match failure.kind {
            Kind::Read => "read",
            _ => "write",
        },
        "action": match failure.action {
            Action::Report => "report",
            Action::Ignore => "ignore",
            Action::Stop => "stop",
        },
        "reason": failure.reason,
    });
    if let Some((node, _)) = facts.nodes.first() {
        event["node-name"] = node.as_str().into();
    }
    // As query-block has its io-status.
    if facts.may_stop() {
        event["nospace"] = failure.is_no_space.into();
    }
    event
}
