//! Where the lab keeps its things, and the lock that lets one lab run at a time.
//!
//! The cache is `target/lab-cache` in the workspace, or what `LAB_CACHE` names:
//! `packages/` and `images/` hold finished artefacts only: each is made in `partial/` and renamed
//! when complete, under a name that contains a digest of all it was made from.
//! `runs/` holds the files of hosts that run now, `logs/` what earlier runs wrote.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use thiserror::Error;

use crate::progress::{Step, say};

/// Log folders of so many runs are kept.
const LOGS_KEPT: usize = 40;

/// Why the lab's own files cannot be used.
#[derive(Debug, Error)]
pub(crate) enum WorkspaceError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no Cargo.toml of the workspace in {}; start the lab with `cargo lab`", path.display())]
    NoWorkspace { path: PathBuf },
}

/// Names what was done to which file when it failed.
pub(crate) fn at<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> WorkspaceError + 'a {
    move |source| WorkspaceError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The workspace and the lab's cache.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    cache: PathBuf,
    command: String,
    held: Mutex<Weak<Locked>>,
}

/// The cache is this process's alone while this exists; the kernel gives it back however the
/// process ends.
#[derive(Debug)]
pub(crate) struct Locked {
    _file: File,
}

impl Workspace {
    /// Finds the workspace and makes the cache's folders.
    pub(crate) fn open(command: &str) -> Result<Self, WorkspaceError> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().unwrap_or(&package).to_owned();
        if !root.join("Cargo.toml").is_file() {
            return Err(WorkspaceError::NoWorkspace { path: root });
        }
        let cache = std::env::var_os("LAB_CACHE")
            .map_or_else(|| root.join("target/lab-cache"), |path| root.join(path));
        for folder in ["packages", "images", "partial", "runs", "logs"] {
            let folder = cache.join(folder);
            fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
        }
        Ok(Self {
            root,
            cache,
            command: command.to_owned(),
            held: Mutex::default(),
        })
    }

    /// Waits until no other lab uses the cache. Everything that makes artefacts or runs a host
    /// does so under this lock; within one lab it is shared.
    pub(crate) fn lock(&self) -> Result<Arc<Locked>, WorkspaceError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(locked) = held.upgrade() {
            return Ok(locked);
        }
        let locked = Arc::new(Locked {
            _file: lock(&self.cache.join("lock"), &self.command)?,
        });
        // Nobody else runs: whatever is there was left behind by a lab that was killed.
        for folder in ["partial", "runs"] {
            empty(&self.cached(folder))?;
        }
        *held = Arc::downgrade(&locked);
        Ok(locked)
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the cache.
    pub(crate) fn cached(&self, folder: &str) -> PathBuf {
        self.cache.join(folder)
    }

    /// A fresh folder for the files of one running host; it goes when dropped.
    pub(crate) fn run_folder(&self) -> Result<TempDir, WorkspaceError> {
        let runs = self.cached("runs");
        tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&runs)
            .map_err(at("write in", &runs))
    }

    /// A fresh folder for one run's logs, numbered; the oldest ones go.
    pub(crate) fn log_folder(&self, host: &str) -> Result<PathBuf, WorkspaceError> {
        let logs = self.cached("logs");
        let mut names: Vec<String> = fs::read_dir(&logs)
            .map_err(at("read the folder", &logs))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| number(name).is_some())
            .collect();
        names.sort_by_key(|name| number(name));
        let next = names.last().and_then(|name| number(name)).unwrap_or(0) + 1;
        for old in names.iter().rev().skip(LOGS_KEPT) {
            // A log that cannot be removed does no harm.
            let _ = fs::remove_dir_all(logs.join(old));
        }
        let folder = logs.join(format!("{next:05}-{}-{host}", self.command));
        fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
        Ok(folder)
    }

    /// The cached artefact `kind/name-digest`, made by `make` in a temporary folder if it is not
    /// there yet. `recipe` must name everything the artefact depends on.
    pub(crate) fn provide<E: From<WorkspaceError>>(
        &self,
        kind: &str,
        name: &str,
        recipe: &[&[u8]],
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let finished = self.cached(kind).join(format!("{name}-{}", digest(recipe)));
        if finished.is_dir() {
            return Ok(finished);
        }
        let partial = self.cached("partial");
        let folder = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(&partial)
            .map_err(at("write in", &partial))?;
        make(folder.path())?;
        let made = folder.keep();
        fs::rename(&made, &finished).map_err(at("rename the finished folder to", &finished))?;
        Ok(finished)
    }
}

/// Twelve hex digits of the SHA-256 over the parts and their lengths.
fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())[..12].to_owned()
}

/// Bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(name: &str) -> Option<u32> {
    name.split('-').next()?.parse().ok()
}

fn empty(folder: &Path) -> Result<(), WorkspaceError> {
    for entry in fs::read_dir(folder).map_err(at("read the folder", folder))? {
        let path = entry.map_err(at("read the folder", folder))?.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(at("remove what an interrupted run left in", &path))?;
    }
    Ok(())
}

/// Takes the lock, saying who holds it.
fn lock(path: &Path, command: &str) -> Result<File, WorkspaceError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(at("open the lock", path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        // Only for the message; an unreadable name is no reason to fail.
        let _ = file.read_to_string(&mut holder);
        let step = Step::start(format!("waiting for another lab: {}", holder.trim()));
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(at("lock", path))?;
        drop(step);
        say("the other lab has ended");
    }
    let holder = format!("`cargo lab {command}`, process {}\n", std::process::id());
    file.set_len(0).map_err(at("write", path))?;
    file.rewind().map_err(at("write", path))?;
    file.write_all(holder.as_bytes())
        .map_err(at("write", path))?;
    Ok(file)
}
