//! The files that the process still finds (landlock).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

/// What may be read, beside what is asked for: facts of the kernel and of the host's devices.
const READ: &[&str] = &["/proc", "/sys", "/dev/urandom"];
/// What may be read and written.
const READ_AND_WRITTEN: &[&str] = &["/dev/kvm", "/dev/vfio/vfio", "/dev/null"];

/// Files that a machine needs beyond those that every machine does.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Opened when the machine first starts: kernel and initial RAM disk.
    pub read: Vec<PathBuf>,
    /// Read and written: the nodes of IOMMU groups.
    pub written: Vec<PathBuf>,
    /// Folders in which files are made, and removed at the end.
    pub written_in: Vec<PathBuf>,
}

/// Leaves the calling thread, and those that it starts from now on, with the files that a machine
/// needs. A kernel without landlock changes nothing; that is logged.
///
/// # Errors
/// When the kernel has landlock and refuses the rules.
pub(super) fn restrict_paths(paths: &Paths) -> Result<(), RulesetError> {
    let abi = ABI::V3;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .create()?;
    let read = AccessFs::from_read(abi);
    let file_read = AccessFs::ReadFile;
    let written = AccessFs::from_file(abi) | AccessFs::from_read(abi);
    let mut ruleset = ruleset;
    for path in READ {
        ruleset = add(ruleset, Path::new(path), read)?;
    }
    for path in READ_AND_WRITTEN {
        ruleset = add(ruleset, Path::new(path), written)?;
    }
    for path in &paths.written {
        ruleset = add(ruleset, path, written)?;
    }
    for path in &paths.read {
        ruleset = add(ruleset, path, file_read.into())?;
    }
    for path in &paths.written_in {
        ruleset = add(
            ruleset,
            path,
            AccessFs::RemoveFile | AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate,
        )?;
    }
    let status = ruleset.restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => log::info!("files are restricted by landlock"),
        RulesetStatus::PartiallyEnforced => {
            log::info!("files are restricted by landlock, as far as this kernel can");
        }
        RulesetStatus::NotEnforced => {
            log::warn!("files are not restricted: this kernel has no landlock");
        }
    }
    Ok(())
}

/// Adds a rule for what is at `path`; for what is not there, there is nothing to allow.
fn add(
    ruleset: RulesetCreated,
    path: &Path,
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else {
        return Ok(ruleset);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(ABI::V3)
    };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_finds_what_it_was_given_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let (kernel, other) = (folder.path().join("kernel"), folder.path().join("other"));
        fs::write(&kernel, "k").expect("write");
        fs::write(&other, "o").expect("write");
        let paths = Paths {
            read: vec![kernel.clone()],
            ..Paths::default()
        };
        // Only the thread is restricted.
        let seen = thread::spawn(move || {
            restrict_paths(&paths).expect("rules");
            let proc_is_there = fs::read("/proc/self/status").is_ok();
            let kernel = (fs::read(&kernel).is_ok(), fs::write(&kernel, "x").is_ok());
            (proc_is_there, kernel, fs::read(&other).is_ok())
        });
        let (proc_is_there, kernel, other) = seen.join().expect("no panic");
        assert!(proc_is_there && kernel.0);
        // A kernel without landlock, as under qemu-user, restricts nothing at all.
        assert_eq!(kernel.1, other, "one rule works and another does not");
        let has_landlock = fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|modules| modules.contains("landlock"));
        let is_restricted = has_landlock && cfg!(target_arch = "x86_64");
        assert!(!(is_restricted && other));
    }
}
