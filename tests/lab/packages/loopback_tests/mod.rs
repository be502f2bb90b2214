//! Fetching from a mirror on loopback, in the states in which mirrors are caught.
//!
//! `cargo lab test` runs these tests: they need apt, and `interrupted` needs namespaces, too.

mod interrupted;
mod lockfile;
mod repository;
mod server;
mod states;

use std::time::Duration;

use tempfile::TempDir;

use super::archive::{Archive, Store};
use super::fetch::{Depot, FetchError, Fetched, Learnt, Wanted};
use super::sources::{Mirrors, Release};
use repository::{ARCHITECTURE, MAIN, Repository, SECURITY, place};
use server::Server;

/// A mirror, and a lab that fetches from it.
struct Site {
    server: Server,
    archives: Vec<Archive>,
    folder: TempDir,
    store: Store,
    learnt: Learnt,
}

impl Site {
    /// A mirror of these packages, in lines as [`Repository::new`] takes them.
    fn new(lines: &str) -> Self {
        let Repository { files, archives } = Repository::new(lines);
        let folder = tempfile::tempdir().unwrap();
        Self {
            server: Server::start(files, Duration::ZERO),
            archives,
            store: Store::open(folder.path().join("archives")).unwrap(),
            folder,
            learnt: Learnt::new(),
        }
    }

    fn archive(&self, title: &str) -> Archive {
        let mut archives = self.archives.iter();
        let archive = archives.find(|archive| archive.title() == title);
        archive.expect(title).clone()
    }

    /// Packages as a lock file has them.
    fn locked(&self, titles: &[&str]) -> Vec<Archive> {
        titles.iter().map(|title| self.archive(title)).collect()
    }

    /// Takes packages' files away; indexes still name them.
    fn lose(&self, titles: &[&str]) {
        for title in titles {
            self.server.change(&place(&self.archive(title)), |_| None);
        }
    }

    /// Sends a suite's index with another byte in it than its checksum is of.
    fn spoil_index(&self, suite: &str) {
        self.server
            .change(&repository::index(suite), |index| Some(changed(index)));
    }

    fn fetch(&self, wanted: Wanted, locked: Option<&[Archive]>) -> Result<Fetched, FetchError> {
        self.fetch_from(mirrors(&[&self.server.address()]), wanted, locked)
    }

    fn fetch_from(
        &self,
        mirrors: Mirrors,
        wanted: Wanted,
        locked: Option<&[Archive]>,
    ) -> Result<Fetched, FetchError> {
        let depot = Depot {
            learnt: &self.learnt,
            mirrors,
            store: &self.store,
            apt: &self.folder.path().join("apt"),
            architecture: ARCHITECTURE,
        };
        depot.fetch(Release::Trixie, wanted, locked)
    }

    /// Checks what is taken, and that it is in the store, and what is said.
    fn assert_fetched(
        &self,
        wanted: Wanted,
        locked: Option<&[Archive]>,
        taken: &[&str],
        said: &[&str],
    ) {
        let fetched = self.fetch(wanted, locked).unwrap();
        let mut titles: Vec<String> = fetched.archives.iter().map(Archive::title).collect();
        titles.sort();
        assert_eq!(titles, taken);
        assert_eq!(fetched.differences, said);
        for archive in &fetched.archives {
            assert!(self.store.has(archive).unwrap(), "{archive:?}");
        }
    }

    /// The requests for files whose paths have this part.
    fn requests(&self, part: &str) -> Vec<String> {
        let mut requests = self.server.requests();
        requests.retain(|path| path.contains(part));
        requests
    }
}

/// The file with another byte in its midst.
fn changed(mut file: Vec<u8>) -> Vec<u8> {
    let middle = file.len() / 2;
    file[middle] ^= 1;
    file
}

/// The mirrors on these servers; they sign nothing.
fn mirrors(addresses: &[&str]) -> Mirrors {
    let folders = |folder| {
        let folders = addresses
            .iter()
            .map(|address| format!("{address}/{folder}"));
        folders.collect()
    };
    Mirrors {
        main: folders(MAIN),
        security: folders(SECURITY),
        signatures: "[trusted=yes] ".to_owned(),
    }
}
