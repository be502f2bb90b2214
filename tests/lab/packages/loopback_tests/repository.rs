//! A small package repository: files of packages, and the indexes that name them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::super::archive::Archive;
use super::super::sources::{Area, area_of};
use crate::workspace::hex;

/// All suites that are asked for a set of Debian 13; those with nothing to offer are empty.
const SUITES: [&str; 5] = [
    "trixie",
    "trixie-updates",
    "trixie-security",
    "trixie-backports",
    "forky",
];

pub(super) const ARCHITECTURE: &str = "ppc64el";

/// A suite's index, in the suite's folder.
const INDEX: &str = "main/binary-ppc64el/Packages";

/// The folders of both mirrors.
pub(super) const MAIN: &str = "debian";
pub(super) const SECURITY: &str = "debian-security";

/// The files of both mirrors, and the packages among them.
#[derive(Default)]
pub(super) struct Repository {
    pub(super) files: HashMap<String, Vec<u8>>,
    pub(super) archives: Vec<Archive>,
}

impl Repository {
    /// A repository of packages, a line each: `suite package version [; depends [; bytes]]`.
    pub(super) fn new(lines: &str) -> Self {
        let mut repository = Self::default();
        let mut indexes: BTreeMap<&str, String> = SUITES.map(|suite| (suite, String::new())).into();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let mut parts = line.split(';').map(str::trim);
            let words: Vec<&str> = parts.next().unwrap().split_whitespace().collect();
            let [suite, package, version] = words[..] else {
                panic!("{line}")
            };
            let depends = parts.next().unwrap_or_default();
            let bytes = parts.next().map_or(0, |bytes| bytes.parse().unwrap());
            let entry = repository.add(suite, package, version, depends, bytes);
            indexes.get_mut(suite).unwrap().push_str(&entry);
        }
        for (suite, text) in indexes {
            let release = format!(
                "Suite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: {ARCHITECTURE}\n\
                 Date: Wed, 01 Jan 2025 00:00:00 UTC\nSHA256:\n {} {} {INDEX}\n",
                sha256(text.as_bytes()),
                text.len()
            );
            let release_path = format!("{}/dists/{suite}/Release", folder_of(suite));
            let files = &mut repository.files;
            files.insert(release_path, release.into_bytes());
            files.insert(index(suite), text.into_bytes());
        }
        repository
    }

    /// Adds a package's file and returns its entry for the index.
    fn add(
        &mut self,
        suite: &str,
        package: &str,
        version: &str,
        depends: &str,
        bytes: usize,
    ) -> String {
        let pool = match area_of(suite) {
            Area::Main => "pool/main",
            Area::Security => "pool/updates/main",
        };
        let mut control = format!(
            "Package: {package}\nVersion: {version}\nArchitecture: {ARCHITECTURE}\n\
             Maintainer: nobody\nDescription: for tests\n"
        );
        if !depends.is_empty() {
            let _ = writeln!(control, "Depends: {depends}");
        }
        let file = deb(
            &control,
            &path_in(package),
            &content(package, version, bytes),
        );
        let archive = Archive {
            package: package.to_owned(),
            version: version.to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            suite: suite.to_owned(),
            bytes: file.len().try_into().unwrap(),
            sha256: sha256(&file),
            path: format!("{pool}/{package}_{version}_{ARCHITECTURE}.deb"),
        };
        let entry = format!(
            "{control}Filename: {}\nSize: {}\nSHA256: {}\n\n",
            archive.path, archive.bytes, archive.sha256
        );
        self.files.insert(place(&archive), file);
        self.archives.push(archive);
        entry
    }
}

/// The one file that a package holds.
pub(super) fn path_in(package: &str) -> String {
    format!("usr/share/{package}")
}

/// What is in it.
pub(super) fn content(package: &str, version: &str, bytes: usize) -> Vec<u8> {
    let line = format!("{package} {version}\n").into_bytes();
    let length = bytes.max(line.len());
    line.into_iter().cycle().take(length).collect()
}

/// The server's path of a package's file.
pub(super) fn place(archive: &Archive) -> String {
    format!("{}/{}", folder_of(&archive.suite), archive.path)
}

/// The server's path of a suite's index.
pub(super) fn index(suite: &str) -> String {
    format!("{}/dists/{suite}/{INDEX}", folder_of(suite))
}

/// The folder of the mirror that has the suite.
fn folder_of(suite: &str) -> &'static str {
    match area_of(suite) {
        Area::Main => MAIN,
        Area::Security => SECURITY,
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A package's file as deb(5) has it, with one file in it.
fn deb(control: &str, path: &str, content: &[u8]) -> Vec<u8> {
    let mut ar = b"!<arch>\n".to_vec();
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar("control", control.as_bytes())),
        ("data.tar", tar(path, content)),
    ];
    for (name, member) in members {
        let length = member.len();
        let header = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{length:<10}`\n",
            0, 0, 0, 100_644
        );
        ar.extend(header.into_bytes());
        ar.extend(member);
        if length % 2 == 1 {
            ar.push(b'\n');
        }
    }
    ar
}

/// An archive of one file, as tar(5) has it.
fn tar(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, field: &str| {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    };
    put(0, &format!("./{path}"));
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = header.to_vec();
    tar.extend(content);
    // Two empty blocks are its end.
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}
