//! Where packages come from: the suites of each Debian release, in the order in which they are asked, and
//! the mirrors that this machine uses.

use std::fs;
use std::process::Command;

use thiserror::Error;

use crate::command::{self, CommandError};

/// Why there is no mirror to fetch from.
#[derive(Debug, Error)]
pub(crate) enum SourcesError {
    #[error("/etc/os-release does not name this machine's Debian release (VERSION_CODENAME)")]
    NoCodename,
    #[error(
        "this machine's package sources name no Debian mirror; `apt-get update --print-uris` shows what they name"
    )]
    NoMirror,
    #[error("cannot ask apt for this machine's package sources")]
    Ask(#[from] CommandError),
}

/// A Debian release that a set of packages is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 12 with packages of Debian 13 built for it.
    BookwormBackports,
    /// Debian 13.
    Trixie,
    /// What becomes Debian 14.
    Forky,
}

/// The archive that a suite is in; mirrors of both are configured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Area {
    Main,
    Security,
}

const BOOKWORM: [&str; 3] = ["bookworm", "bookworm-updates", "bookworm-security"];
const TRIXIE: [&str; 3] = ["trixie", "trixie-updates", "trixie-security"];

impl Release {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::BookwormBackports => "bookworm-backports",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Suites to take packages from. One group after the other: within a group the newest version is the
    /// best one, and all of a group come before the next one's.
    pub(crate) fn suites(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Bookworm => &[&BOOKWORM, &["bookworm-backports"], &TRIXIE],
            Self::BookwormBackports => &[&["bookworm-backports"], &BOOKWORM, &TRIXIE],
            Self::Trixie => &[&TRIXIE, &["trixie-backports"], &["forky"]],
            Self::Forky => &[&["forky", "forky-security"], &["sid"]],
        }
    }
}

/// The archive that a suite is in.
pub(super) fn area_of(suite: &str) -> Area {
    match suite.ends_with("-security") {
        true => Area::Security,
        false => Area::Main,
    }
}

/// What is said of a suite that no mirror has.
pub(super) fn no_mirror_of(suite: &str) -> String {
    format!("this machine's package sources name no mirror of Debian {suite}")
}

/// The mirrors to fetch from, the ones to ask first in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mirrors {
    pub(super) main: Vec<String>,
    pub(super) security: Vec<String>,
    /// What apt is to know of the mirrors' signatures: options in a line of sources.list, in brackets and
    /// with a blank behind, or nothing.
    pub(super) signatures: String,
}

impl Mirrors {
    /// The mirrors from which this machine takes its own release; their indexes must be signed by a key of
    /// this machine's Debian keyring.
    pub(crate) fn of_this_machine() -> Result<Self, SourcesError> {
        let release =
            fs::read_to_string("/etc/os-release").map_err(|_| SourcesError::NoCodename)?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|value| value.trim_matches('"').to_owned())
            .ok_or(SourcesError::NoCodename)?;
        let mut print = Command::new("apt-get");
        print.args(["update", "--print-uris"]).env("LC_ALL", "C");
        let uris = command::output(&mut print)?;
        let mirrors = Self {
            main: mirrors_of(&uris, &codename),
            security: mirrors_of(&uris, &format!("{codename}-security")),
            signatures: signed_by_keyring(),
        };
        match mirrors.main.is_empty() {
            true => Err(SourcesError::NoMirror),
            false => Ok(mirrors),
        }
    }

    /// Those of an archive.
    pub(super) fn of(&self, area: Area) -> &[String] {
        match area {
            Area::Main => &self.main,
            Area::Security => &self.security,
        }
    }
}

fn signed_by_keyring() -> String {
    ["gpg", "pgp"]
        .map(|kind| format!("/usr/share/keyrings/debian-archive-keyring.{kind}"))
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false))
        .map(|path| format!("[signed-by={path}] "))
        .unwrap_or_default()
}

fn mirrors_of(uris: &str, suite: &str) -> Vec<String> {
    let ending = format!("/dists/{suite}/InRelease");
    let mut mirrors: Vec<String> = uris
        .lines()
        .filter_map(|line| {
            line.strip_prefix('\'')?
                .split('\'')
                .next()?
                .strip_suffix(&ending)
        })
        .map(str::to_owned)
        .collect();
    // Other projects name their releases after Debian's; Debian's own mirrors first.
    mirrors.sort_by_key(|mirror| {
        !(mirror.ends_with("/debian") || mirror.ends_with("/debian-security"))
    });
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_the_machines_own_release_comes_first() {
        let uris = "\
            'http://other.example/tool/dists/bookworm/InRelease' a 0 \n\
            'http://mirror.example/debian/dists/bookworm/InRelease' b 0 \n\
            'http://mirror.example/debian/dists/bookworm-updates/InRelease' c 0 \n\
            'http://safe.example/debian-security/dists/bookworm-security/InRelease' d 0 \n";
        assert_eq!(
            mirrors_of(uris, "bookworm"),
            ["http://mirror.example/debian", "http://other.example/tool"]
        );
        assert_eq!(
            mirrors_of(uris, "bookworm-security"),
            ["http://safe.example/debian-security"]
        );
    }

    #[test]
    fn a_release_comes_before_its_backports_and_those_before_the_next_release() {
        let groups = Release::Trixie.suites();
        assert!(groups[0].contains(&"trixie-security"));
        assert_eq!(groups[1..], [&["trixie-backports"], &["forky"]]);
    }
}
