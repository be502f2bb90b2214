//! What monitors are told of the host.

use std::fs;
use std::path::Path;

use spapr_kvm::host;

/// Where the host's processors are described.
const HOST_CPUS: &str = "/proc/device-tree/cpus";

/// Whether guests can be run by KVM here.
pub fn has_kvm() -> bool {
    host::open()
        .is_ok_and(|kvm| host::create_vm(&kvm).is_ok_and(|vm| host::require_radix(&vm).is_ok()))
}

/// The host's processor by the name that its device tree has for it, such as `POWER9`.
pub fn processor_name() -> Option<String> {
    name_in(Path::new(HOST_CPUS))
}

fn name_in(cpus: &Path) -> Option<String> {
    let entries = fs::read_dir(cpus).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let name = entry.file_name();
        let processor = name.to_str()?.strip_prefix("PowerPC,")?;
        Some(processor.split('@').next()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_name_is_that_of_its_node() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(name_in(folder.path()), None);
        for node in ["l2-cache@20", "PowerPC,POWER9@8"] {
            fs::create_dir(folder.path().join(node)).expect("node");
        }
        assert_eq!(name_in(folder.path()).as_deref(), Some("POWER9"));
    }
}
