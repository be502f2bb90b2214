//! Commands that QEMU has and this program has not, and what to do instead. libvirt shows it to whoever typed what
//! needs them.

/// Devices, disks and processors of a running guest.
pub(super) const HOT_PLUG: &str = "nothing is attached to, changed in or detached from a guest that runs; change the domain \
    (virsh edit) and start the guest anew";

/// Images that would stand below, on or beside those of a running guest's disks.
const NODES: &str = "nothing is added to a guest's disks while it runs, be it a disk, a snapshot or a backup; change the \
    domain (virsh edit) and start the guest anew, or shut it down and use qemu-img on the images";

/// Saved and moving guests.
const MIGRATION: &str =
    "guests are not saved or migrated; shut the guest down (virsh shutdown) and start it anew";

/// Snapshots and jobs on disks.
const DISK_JOBS: &str = "there are no snapshots, copies or backups of a guest's disks while it runs; shut it down \
    and use qemu-img on the images";

/// Screens and keyboards.
const GRAPHICS: &str =
    "the guest has no screen, keyboard or mouse; its terminal is at virsh console";

/// Disks whose speed is bounded.
const THROTTLING: &str = "disks are not throttled; in a libvirt domain, remove <iotune>, and bound the whole guest by \
    control groups (virsh blkiotune)";

/// The human monitor.
const MONITOR: &str =
    "there is no monitor for people; virsh qemu-monitor-command takes QMP without --hmp";

/// What to do in place of one of QEMU's commands; `None` for a name that is none of them.
pub(super) fn of_command(name: &str) -> Option<&'static str> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    Some(match name {
        "device_add"
        | "device_del"
        | "netdev_del"
        | "chardev-add"
        | "chardev-change"
        | "chardev-remove"
        | "object-add"
        | "object-del"
        | "set-action"
        | "eject"
        | "query-hotpluggable-cpus"
        | "cpu-add"
        | "blockdev-change-medium"
        | "blockdev-open-tray"
        | "blockdev-close-tray"
        | "blockdev-insert-medium"
        | "blockdev-remove-medium"
        | "blockdev-reopen" => HOT_PLUG,
        "blockdev-add" | "blockdev-del" => NODES,
        "savevm" | "loadvm" | "query-migrate" | "calc-dirty-rate" | "set-vcpu-dirty-limit" => {
            MIGRATION
        }
        "transaction" | "change-backing-file" | "drive-backup" | "drive-mirror" => DISK_JOBS,
        "screendump" | "send-key" | "input-send-event" | "set_password" | "expire_password"
        | "query-vnc" | "query-spice" | "display-update" | "display-reload" => GRAPHICS,
        "block_set_io_throttle" => THROTTLING,
        "human-monitor-command" => MONITOR,
        _ if begins(&["migrate", "x-colo"]) => MIGRATION,
        _ if begins(&["block", "snapshot-", "nbd-server-", "job-"]) => DISK_JOBS,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::qmp::commands::COMMANDS;

    #[test]
    fn what_needs_a_command_that_is_not_there_is_told_what_to_do() {
        for (name, part) in [
            ("device_add", "start the guest anew"),
            ("migrate", "virsh shutdown"),
            ("migrate-set-parameters", "virsh shutdown"),
            ("blockdev-snapshot", "qemu-img"),
            ("blockdev-add", "be it a disk, a snapshot or a backup"),
            ("screendump", "virsh console"),
        ] {
            let told = of_command(name).unwrap_or_default();
            assert!(told.contains(part), "{name}: {told}");
        }
        assert_eq!(of_command("query-frob"), None);
    }

    /// A prefix above would catch one only after the session has found the command itself.
    #[test]
    fn names_that_are_told_of_whole_are_of_no_command_that_there_is() {
        let own = COMMANDS.iter().map(|command| command.name);
        let told: Vec<_> = own.filter(|name| of_command(name).is_some()).collect();
        let by_prefix = ["block_resize", "migrate-set-capabilities"];
        assert_eq!(told, by_prefix);
    }
}
