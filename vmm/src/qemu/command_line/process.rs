//! Options about the process rather than its machine.

use super::properties::Properties;
use super::{CommandLineError, PassedDescriptor, ProcessOptions, absolute, instead};
use crate::spec::choice;

/// Reads one option; false when it is none of these.
pub(super) fn read(
    process: &mut ProcessOptions,
    option: &'static str,
    value: &str,
) -> Result<bool, CommandLineError> {
    match option {
        "S" => process.starts_paused = true,
        "daemonize" => process.daemonize = true,
        "no-shutdown" => process.no_shutdown = true,
        "no-reboot" => process.no_reboot = true,
        "pidfile" => process.pid_file = Some(absolute("-pidfile", value)?),
        "name" => {
            let mut properties = Properties::parse("-name", Some("guest"), value)?;
            process.name = properties.text("guest")?;
            // Threads have names in any case.
            properties.ignore(&["debug-threads", "process"]);
            properties.finish()?;
        }
        "sandbox" => sandbox(process, value)?,
        "msg" => {
            let mut properties = Properties::parse("-msg", None, value)?;
            process.timestamps = properties.switch("timestamp")?.unwrap_or(false);
            process.guest_name_in_messages = properties.switch("guest-name")?.unwrap_or(false);
            properties.finish()?;
        }
        "overcommit" => {
            let mut properties = Properties::parse("-overcommit", None, value)?;
            process.locks_memory = properties.switch("mem-lock")?.unwrap_or(false);
            properties.always("cpu-pm", false)?;
            properties.finish()?;
        }
        // No files are read that could be kept from it.
        "no-user-config" => {}
        "display" | "vga" | "monitor" | "parallel" | "net" | "nic" => {
            none(option, value)?;
        }
        "audiodev" => {
            let mut properties = Properties::parse("-audiodev", Some("driver"), value)?;
            properties.only("driver", &["none"])?;
            properties.ignore(&["id"]);
            properties.finish()?;
        }
        "boot" => {
            // The kernel is given: there is no other thing to boot from.
            let mut properties = Properties::parse("-boot", Some("order"), value)?;
            properties.either("strict")?;
            properties.always("menu", false)?;
            properties.finish()?;
        }
        "spapr-vmm" => {
            let mut properties = Properties::parse("-spapr-vmm", None, value)?;
            if let Some(level) = properties.one_of("log", &choice::LOG)? {
                process.log = Some(level);
            }
            if let Some(path) = properties.text("stats")? {
                process.stats = Some(absolute("-spapr-vmm stats", &path)?);
            }
            // The others make the machine, and were checked with it.
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn none(option: &str, value: &str) -> Result<(), CommandLineError> {
    if value == "none" {
        return Ok(());
    }
    Err(CommandLineError::Instead {
        option: format!("-{option} {value}"),
        instead: instead::of_none(option),
    })
}

/// What QEMU lets one allow is denied here all the same: nothing needs it.
fn sandbox(process: &mut ProcessOptions, value: &str) -> Result<(), CommandLineError> {
    let mut properties = Properties::parse("-sandbox", Some("enable"), value)?;
    process.sandbox = properties.switch("enable")?.unwrap_or(false);
    for name in ["obsolete", "spawn", "resourcecontrol"] {
        properties.only(name, &["deny", "allow"])?;
    }
    properties.only("elevateprivileges", &["deny", "allow", "children"])?;
    properties.finish()
}

/// `-add-fd fd=N,set=N,opaque=TEXT`
pub(super) fn passed_descriptor(value: &str) -> Result<PassedDescriptor, CommandLineError> {
    let mut properties = Properties::parse("-add-fd", None, value)?;
    let missing = |name| CommandLineError::MissingProperty {
        option: "-add-fd".to_owned(),
        name,
    };
    let set = properties.number32("set")?.ok_or(missing("set"))?;
    let fd = properties.descriptor("fd")?.ok_or(missing("fd"))?;
    let opaque = properties.text("opaque")?;
    properties.finish()?;
    Ok(PassedDescriptor { set, fd, opaque })
}
