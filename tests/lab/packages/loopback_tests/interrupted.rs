//! Runs that are killed, and runs on a disk that fills up: the next one trusts nothing of what they left.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::super::fetch::Wanted;
use super::super::sources::Release;
use super::super::{DIFFERENCES, LIST, Packages, Recipe, lock};
use super::repository::{ARCHITECTURE, Repository, content, path_in};
use super::{Server, mirrors};
use crate::progress::report;
use crate::workspace::Workspace;

/// Tells the process that fetches which server to fetch from.
const ADDRESS: &str = "LOOPBACK_ADDRESS";

/// So many libraries the tool needs, in files of so many bytes.
const LIBRARIES: usize = 12;
const BYTES: usize = 60_000;

/// A part of the other tests: they run it in a process of its own, and without them it does nothing.
#[test]
fn child_fetches() {
    let Ok(address) = env::var(ADDRESS) else {
        return;
    };
    let mirrors = mirrors(&[&address]);
    let recipe = Recipe {
        name: "tool".to_owned(),
        release: Release::Trixie,
        architecture: ARCHITECTURE,
        wanted: Wanted::WithDependencies(&["tool"]),
    };
    let workspace = Workspace::open("test").unwrap();
    let _locked = workspace.lock().unwrap();
    if let Err(error) = Packages::of_recipe(&workspace, &recipe, None, || Ok(mirrors)) {
        report(&error);
        panic!("not fetched");
    }
}

/// A repository of the tool with its libraries, and of others that are not to be taken.
fn repository() -> Repository {
    let needs: Vec<String> = (0..LIBRARIES)
        .map(|number| format!("lib{number}"))
        .collect();
    let needs = needs.join(", ");
    let mut lines = format!("trixie tool 2; {needs}; {BYTES}\n");
    for number in 0..LIBRARIES {
        lines += &format!("trixie lib{number} 1; ; {BYTES}\n");
        lines += &format!("forky lib{number} 2; ; {BYTES}\n");
    }
    lines += &format!("trixie tool 1; {needs}; {BYTES}\nforky tool 3; {needs}; {BYTES}\n");
    Repository::new(&lines)
}

/// The command that fetches into a cache.
fn fetching(server: &Server, cache: &Path) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([
        "--exact",
        "packages::loopback_tests::interrupted::child_fetches",
    ]);
    child.arg("--nocapture");
    child.env(ADDRESS, server.address()).env("LAB_CACHE", cache);
    child.stdin(Stdio::null()).stdout(Stdio::null());
    child
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Checks that the cache holds the best set, unpacked, and nothing of the way to it.
fn assert_whole(cache: &Path, repository: &Repository) {
    let [set] = &sets(cache)[..] else {
        panic!("{:?}", sets(cache))
    };
    assert_set(set, repository);
    for folder in ["archives", "partial"] {
        let left = files(&cache.join(folder));
        assert!(left.is_empty(), "{folder}: {:?}", left.keys());
    }
}

/// The unpacked sets in a cache.
fn sets(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("packages")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Checks that an unpacked set is the best one, whole, with nothing else in it.
fn assert_set(set: &Path, repository: &Repository) {
    let best = repository.archives.iter().filter(|archive| {
        archive.suite == "trixie" && (archive.package != "tool" || archive.version == "2")
    });
    let mut list = Vec::new();
    let mut expected: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for archive in best {
        list.push(lock::line(archive));
        let content = content(&archive.package, &archive.version, BYTES);
        expected.insert(path_in(&archive.package).into(), content);
    }
    list.sort();
    expected.insert(LIST.into(), list.concat().into_bytes());
    let untested = format!("tool: not in {}, so never tested\n", lock::FILE);
    expected.insert(DIFFERENCES.into(), untested.into_bytes());
    assert_eq!(expected.len(), 1 + LIBRARIES + 2);
    let files = files(set);
    assert!(files.keys().eq(expected.keys()), "{:?}", files.keys());
    for (path, content) in files {
        let shown = String::from_utf8_lossy(&content);
        assert!(content == expected[&path], "{}:\n{shown}", path.display());
    }
}

/// When runs are killed: so many milliseconds after they have said this.
const MOMENTS: [(&str, u64); 12] = [
    ("list of Debian trixie (", 0),
    ("list of Debian trixie (", 100),
    ("list of Debian trixie-updates (", 50),
    ("list of Debian trixie-security (", 0),
    ("list of Debian trixie-security (", 100),
    ("downloading", 0),
    ("downloading", 200),
    ("downloading", 400),
    ("downloading", 600),
    ("unpacking", 0),
    ("unpacking", 50),
    ("unpacking", 100),
];

#[test]
fn a_run_killed_at_any_moment_leaves_nothing_that_the_next_one_trusts() {
    let repository = repository();
    let server = Server::start(repository.files.clone(), Duration::from_millis(2));
    let check = |(step, delay): (&str, u64)| {
        let cache = tempfile::tempdir().unwrap();
        let mut command = fetching(&server, cache.path());
        let mut killed = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(killed.stderr.take().unwrap()).lines();
        let reached = said.any(|line| line.unwrap().contains(step));
        assert!(reached, "{step}");
        thread::sleep(Duration::from_millis(delay));
        killed.kill().unwrap();
        killed.wait().unwrap();
        for set in sets(cache.path()) {
            assert_set(&set, &repository);
        }
        let next = fetching(&server, cache.path()).output().unwrap();
        let said = String::from_utf8_lossy(&next.stderr);
        assert!(next.status.success(), "{step}, {delay} ms:\n{said}");
        assert_whole(cache.path(), &repository);
    };
    thread::scope(|scope| {
        for moments in MOMENTS.chunks(3) {
            scope.spawn(|| moments.iter().copied().for_each(check));
        }
    });
}

/// Runs a command on a disk with so many KiB free, which is to fill up, and once more when there is room.
const ON_A_FULL_DISK: &str = r#"
    mount -t tmpfs -o size=8m tmpfs "$LAB_CACHE" || exit 101
    fallocate -l "$((8192 - FREE))KiB" "$LAB_CACHE/others" || exit 102
    "$0" "$@" 2>"$OUT/full" && exit 103
    [ -z "$(ls "$LAB_CACHE/packages")" ] || exit 104
    rm "$LAB_CACHE/others"
    "$0" "$@" 2>"$OUT/next" || exit 105
    cp -r "$LAB_CACHE" "$OUT/cache"
"#;

/// So many KiB, and the step of the fetch during which the disk is full then.
const FREE: [(u32, &str); 4] = [
    (24, "fetching the package list"),
    (40, "fetching the package list"),
    (512, "downloading"),
    (1300, "unpacking"),
];

#[test]
fn a_disk_that_fills_up_is_named_and_leaves_nothing_that_the_next_run_trusts() {
    let repository = repository();
    let server = Server::start(repository.files.clone(), Duration::ZERO);
    let check = |(free, step): (u32, &str)| {
        let folder = tempfile::tempdir().unwrap();
        let [disk, out] = ["disk", "out"].map(|name| folder.path().join(name));
        fs::create_dir(&disk).unwrap();
        fs::create_dir(&out).unwrap();
        let fetch = fetching(&server, &disk);
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount"]);
        unshare.args(["sh", "-c", ON_A_FULL_DISK]);
        unshare.arg(fetch.get_program()).args(fetch.get_args());
        unshare.envs(
            fetch
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        unshare.env("FREE", free.to_string()).env("OUT", &out);
        let status = unshare.stdout(Stdio::null()).status().unwrap();
        let said = |name| fs::read_to_string(out.join(name)).unwrap_or_default();
        let (full, next) = (said("full"), said("next"));
        assert!(status.success(), "{free}: {status}\n{full}\n{next}");
        let mut steps = full.lines().filter(|line| line.ends_with('…'));
        let last = steps.next_back().unwrap();
        assert!(last.contains(step), "{free}: {full}");
        let is_clear = |cause: &str| {
            cause.contains("no room on the disk for") || cause.contains("No space left on device")
        };
        let mut causes = full
            .lines()
            .filter_map(|line| line.strip_prefix("lab:   because: "));
        assert!(causes.any(is_clear), "{free}: {full}");
        for gives_way in ["is left out", "cannot be had", "in place of"] {
            assert!(!full.contains(gives_way), "{free}: {full}");
        }
        assert_whole(&out.join("cache"), &repository);
    };
    thread::scope(|scope| {
        for free in FREE {
            let check = &check;
            scope.spawn(move || check(free));
        }
    });
}
