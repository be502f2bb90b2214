//! The file that says with which packages the project was last tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::archive::Archive;
use crate::workspace::{WorkspaceError, at};

/// The file, in the workspace.
pub(crate) const FILE: &str = "tests/lab/packages.lock";

const HEADING: &str = "\
# The Debian packages that the project was last tested with, set by set; `cargo lab prepare --update` writes
# this file. A line is: package version architecture suite bytes sha256 path-below-the-mirror.
";

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    #[error(transparent)]
    File(#[from] WorkspaceError),
    #[error(
        "{}, line {line}: not a package as `cargo lab prepare --update` writes it; restore the file, or \
         remove it and run that", path.display()
    )]
    Malformed { path: PathBuf, line: usize },
}

/// The packages of each set, by the set's name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    sets: BTreeMap<String, Vec<Archive>>,
}

impl Lock {
    /// Reads the file; without one nothing is known of what was tested.
    pub(crate) fn read(path: &Path) -> Result<Self, LockError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(at("read", path))?,
        };
        Self::parse(&text).map_err(|line| LockError::Malformed {
            path: path.to_owned(),
            line,
        })
    }

    /// # Errors
    /// The number of the first line that is not as it should be.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut lock = Self::default();
        let mut set = None;
        for (number, line) in (1_usize..).zip(text.lines()) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let name = name.strip_suffix(']').ok_or(number)?;
                let before = lock.sets.insert(name.to_owned(), Vec::new());
                // A merge can leave a set twice, or nothing of one.
                if before.is_some() || lock.has_empty_set_but(name) {
                    return Err(number);
                }
                set = Some(name.to_owned());
                continue;
            }
            let archives = set.as_ref().and_then(|name| lock.sets.get_mut(name));
            let archives = archives.ok_or(number)?;
            let archive = archive(line).ok_or(number)?;
            if archives
                .iter()
                .any(|other| other.package == archive.package)
            {
                return Err(number);
            }
            archives.push(archive);
        }
        match lock.has_empty_set_but("") {
            true => Err(text.lines().count()),
            false => Ok(lock),
        }
    }

    fn has_empty_set_but(&self, name: &str) -> bool {
        let mut sets = self.sets.iter();
        sets.any(|(other, archives)| other != name && archives.is_empty())
    }

    /// The set's packages, if the file has the set.
    pub(super) fn set(&self, name: &str) -> Option<&[Archive]> {
        self.sets.get(name).map(Vec::as_slice)
    }

    pub(super) fn insert(&mut self, name: &str, mut archives: Vec<Archive>) {
        archives.sort_by(|left, right| left.package.cmp(&right.package));
        self.sets.insert(name.to_owned(), archives);
    }

    fn text(&self) -> String {
        let mut text = HEADING.to_owned();
        for (name, archives) in &self.sets {
            let _ = writeln!(text, "\n[{name}]");
            for archive in archives {
                text.push_str(&line(archive));
            }
        }
        text
    }

    /// Puts the file in the place of the one before, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), LockError> {
        let new = path.with_extension("lock.new");
        Ok(fs::write(&new, self.text())
            .and_then(|()| fs::rename(&new, path))
            .map_err(at("write", path))?)
    }
}

/// The archive's line, its end included.
pub(super) fn line(archive: &Archive) -> String {
    let Archive {
        package,
        version,
        architecture,
        suite,
        bytes,
        sha256,
        path,
    } = archive;
    format!("{package} {version} {architecture} {suite} {bytes} {sha256} {path}\n")
}

fn archive(line: &str) -> Option<Archive> {
    let words: Vec<&str> = line.split(' ').collect();
    let [package, version, architecture, suite, bytes, sha256, path] = words[..] else {
        return None;
    };
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    // It becomes part of a URI, and of a command line of apt's.
    let is_path = !path.is_empty() && path.split('/').all(|part| part != ".." && !part.is_empty());
    (is_digest && is_path).then_some(())?;
    Some(Archive {
        package: package.to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
        suite: suite.to_owned(),
        bytes: bytes.parse().ok()?,
        sha256: sha256.to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let archive = |package: &str| Archive {
            package: package.to_owned(),
            version: "1:2.0-1+b3".to_owned(),
            architecture: "ppc64el".to_owned(),
            suite: "trixie".to_owned(),
            bytes: 12,
            sha256: "a".repeat(64),
            path: format!("pool/main/t/{package}_2.0-1+b3_ppc64el.deb"),
        };
        let mut lock = Lock::default();
        lock.insert("tools", vec![archive("saw"), archive("hammer")]);
        lock.insert("bench", vec![archive("bench")]);
        lock
    }

    #[test]
    fn what_is_written_is_read_again_sorted() {
        let lock = sample();
        assert_eq!(Lock::parse(&lock.text()), Ok(lock.clone()));
        assert_eq!(lock.set("tools").unwrap()[0].package, "hammer");
        assert_eq!(lock.set("none"), None);
    }

    #[test]
    fn a_line_that_is_cut_short_is_named_by_its_number() {
        let text = sample().text();
        let cut = text.replace("saw_2.0-1+b3_ppc64el.deb", "../x");
        assert_eq!(Lock::parse(&cut), Err(9));
        assert_eq!(Lock::parse(text.trim_end()), Ok(sample()));
        assert_eq!(Lock::parse("a b c\n"), Err(1));
        let twice = format!("{text}{}", text.lines().last().unwrap());
        assert_eq!(Lock::parse(&twice), Err(10));
        assert_eq!(Lock::parse("[a]\n[b]\n"), Err(2));
        assert_eq!(Lock::parse("[a]\n"), Err(1));
        assert_eq!(Lock::parse(&format!("{text}[tools]\n")), Err(10));
        assert_eq!(Lock::parse("[a\n"), Err(1));
    }
}
