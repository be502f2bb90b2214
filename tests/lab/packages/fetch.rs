//! Fetching a set of packages in a way that gives way: what cannot be had is put aside, and the next best
//! is taken, and told.
//!
//! Mirrors are caught in the midst of an update now and then: their indexes name files that are not there
//! yet, or do not match their own checksums. So no single file and no single index is needed as long as
//! others serve.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::apt::{Apt, AptError, Download, is_silence, unescaped};
use super::archive::{Archive, Store};
use super::search::Search;
use super::sources::{Mirrors, Release, SourcesError, area_of, no_mirror_of};
use crate::progress::{Step, say};

/// What is told of a file that apt takes for whole and that is another one.
const DAMAGED: &str = "arrived damaged";

/// What a set is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These packages and all they need to run.
    WithDependencies(&'static [&'static str]),
    /// The package alone.
    Alone(&'static str),
    /// A kernel with its modules and nothing else: the newest one.
    Kernel {
        /// The end of its packages' names.
        flavour: &'static str,
        /// How its version starts; one of another series is taken only if the release's suites have no
        /// such one left.
        series: &'static str,
    },
}

/// Why a set could not be fetched.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Sources(#[from] SourcesError),
    #[error(transparent)]
    Apt(#[from] AptError),
    #[error("cannot use the folder of packages {folder}")]
    Store {
        folder: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the mirror does not answer: {answer}\n\
         Check this machine's network and proxy: `apt-get update` must work."
    )]
    Unreachable { answer: String },
    #[error(
        "nothing is left to take.{tried}{left_out}\nWhat is missing: {missing}\n\
         A mirror in the midst of an update is whole again within hours: try again later, or name another \
         mirror in this machine's package sources."
    )]
    NothingLeft {
        tried: String,
        left_out: String,
        missing: String,
    },
}

/// A set's files, all in the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) archives: Vec<Archive>,
    /// What is not as it was last tested, or as it should be, a line each.
    pub(super) differences: Vec<String>,
}

/// What was tried and cannot be had.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) archive: Archive,
    pub(super) answer: String,
}

/// What a run has found out about mirrors, so that it neither asks nor tells twice.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    refused: Mutex<Vec<Refused>>,
    /// Suites whose index cannot be used, by architecture and name, and why.
    left_out: Mutex<BTreeMap<(&'static str, &'static str), String>>,
}

impl Learnt {
    pub(super) const fn new() -> Self {
        Self {
            refused: Mutex::new(Vec::new()),
            left_out: Mutex::new(BTreeMap::new()),
        }
    }

    pub(super) fn refused(&self) -> MutexGuard<'_, Vec<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn left_out(
        &self,
    ) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), String>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer that the request for this file got, if it was one for none.
    pub(super) fn answer(&self, archive: &Archive) -> Option<String> {
        let refused = self.refused();
        let refused = refused
            .iter()
            .find(|refused| refused.archive.place() == archive.place())?;
        Some(refused.answer.clone())
    }
}

/// Where sets are fetched from and to.
#[derive(Debug)]
pub(super) struct Depot<'a> {
    pub(super) learnt: &'a Learnt,
    pub(super) mirrors: Mirrors,
    pub(super) store: &'a Store,
    /// Folder of the private apts.
    pub(super) apt: &'a Path,
    pub(super) architecture: &'static str,
}

impl Depot<'_> {
    /// Fetches the set: as it was last tested (`locked`) if that can be had, else the nearest to it.
    pub(super) fn fetch(
        &self,
        release: Release,
        wanted: Wanted,
        locked: Option<&[Archive]>,
    ) -> Result<Fetched, FetchError> {
        if let Some(locked) = locked
            && self.download(locked)?
        {
            return Ok(Fetched {
                archives: locked.to_vec(),
                differences: Vec::new(),
            });
        }
        let mut search = Search::new(self, release, wanted, locked.unwrap_or_default());
        let mut first = locked.map(<[Archive]>::to_vec);
        loop {
            let archives = search.best()?;
            if self.download(&archives)? {
                let wished = first.as_deref().unwrap_or(&archives);
                let differences = search.differences(wished, &archives);
                for difference in &differences {
                    say(difference);
                }
                return Ok(Fetched {
                    archives,
                    differences,
                });
            }
            first.get_or_insert(archives);
        }
    }

    /// Fetches those of the files that are not in the store yet, and says whether all of them are there
    /// now. Those that are not are put aside.
    fn download(&self, wanted: &[Archive]) -> Result<bool, FetchError> {
        let mut missing = Vec::new();
        let mut complete = true;
        for archive in wanted {
            if self.learnt.answer(archive).is_some() {
                complete = false;
            } else if !self.has(archive)? {
                missing.push((archive, no_mirror_of(&archive.suite)));
            }
        }
        if missing.is_empty() {
            return Ok(complete);
        }
        let bytes: u64 = missing.iter().map(|(archive, _)| archive.bytes).sum();
        let names: Vec<&str> = missing
            .iter()
            .map(|(archive, _)| archive.package.as_str())
            .collect();
        let step = Step::start(format!(
            "downloading {} ({}), {} MB",
            shortened(&names),
            self.architecture,
            bytes.div_ceil(1_000_000)
        ));
        step.expect_bytes(bytes);
        let apt = Apt::set_up(self.apt, "transport", self.architecture)?;
        apt.name_mirrors(&self.mirrors)?;
        let most_mirrors = self.mirrors.main.len().max(self.mirrors.security.len());
        for mirror in 0..most_mirrors {
            missing = self.ask(&apt, mirror, missing, &step)?;
        }
        step.done();
        // What a mirror says of a file holds for this run. That it says nothing may be over in a moment,
        // and must not change what is tested.
        if let Some((_, answer)) = missing.iter().find(|(_, answer)| is_silence(answer)) {
            let answer = answer.clone();
            return Err(FetchError::Unreachable { answer });
        }
        for (archive, answer) in missing {
            complete = false;
            say(&format!("{} cannot be had: {answer}", archive.title()));
            self.learnt.refused().push(Refused {
                archive: archive.clone(),
                answer,
            });
        }
        Ok(complete)
    }

    /// Asks the mirrors of this number for what is missing. Returns what still is, with the answers.
    fn ask<'a>(
        &self,
        apt: &Apt,
        mirror: usize,
        missing: Vec<(&'a Archive, String)>,
        step: &Step,
    ) -> Result<Vec<(&'a Archive, String)>, FetchError> {
        let uri = |archive: &Archive| {
            let mirror = self.mirrors.of(area_of(&archive.suite)).get(mirror)?;
            // apt would make a link to a file.
            let mirror = match mirror.strip_prefix("file:") {
                Some(folder) => format!("copy:{folder}"),
                None => mirror.clone(),
            };
            Some(format!("{mirror}/{}", archive.path))
        };
        let files: Vec<Download> = missing
            .iter()
            .filter_map(|(archive, _)| {
                Some(Download {
                    uri: uri(archive)?,
                    sha256: archive.sha256.clone(),
                    path: self.store.path(archive),
                })
            })
            .collect();
        if files.is_empty() {
            return Ok(missing);
        }
        let answers = apt.download(&files, step)?;
        let mut still = Vec::new();
        for (archive, before) in missing {
            if self.has(archive)? {
                continue;
            }
            let answer = match uri(archive) {
                Some(uri) => answers.get(&unescaped(&uri)).cloned(),
                None => Some(before),
            };
            still.push((archive, answer.unwrap_or(DAMAGED.to_owned())));
        }
        Ok(still)
    }

    fn has(&self, archive: &Archive) -> Result<bool, FetchError> {
        self.store.has(archive).map_err(|source| FetchError::Store {
            folder: self.store.folder().display().to_string(),
            source,
        })
    }
}

/// A list of names that fits a line.
fn shortened(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [first, ..] => format!("{first} and {} more", names.len() - 1),
        [] => String::new(),
    }
}

impl Wanted {
    /// As messages name it.
    pub(super) fn title(self) -> String {
        match self {
            Self::WithDependencies(packages) => packages.join(", "),
            Self::Alone(package) => package.to_owned(),
            Self::Kernel { flavour, series } => {
                let series = series.trim_end_matches('.');
                format!(
                    "the kernel {series}{}{flavour}",
                    if series.is_empty() { "" } else { "-" }
                )
            }
        }
    }
}
