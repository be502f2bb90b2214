//! What is taken, and what is said, in each state of a mirror.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::super::archive::Archive;
use super::super::fetch::{FetchError, Wanted};
use super::super::sources::Mirrors;
use super::repository::{index, place};
use super::{Site, changed, mirrors};

const TOOL: Wanted = Wanted::WithDependencies(&["tool"]);

/// A tool and its library in two versions each, and in the next release in a third.
const TOOLS: &str = "
    trixie tool 2+b1; liba (>= 1)
    trixie tool 1~rc1; liba (>= 1)
    trixie liba 2
    trixie liba 1
    forky tool 3; liba (>= 3)
    forky liba 3; libb
    forky libb 1
";

#[test]
fn when_all_is_there_the_newest_of_the_release_is_taken_and_no_other_release_asked() {
    let site = Site::new(TOOLS);
    let taken = ["liba 2 (trixie)", "tool 2+b1 (trixie)"];
    site.assert_fetched(TOOL, None, &taken, &[]);
    assert_eq!(site.requests("forky"), [""; 0]);
    assert_eq!(site.requests("pool").len(), 2);
}

#[test]
fn the_newest_version_missing_an_older_one_of_the_release_is_taken_and_said() {
    let site = Site::new(TOOLS);
    site.lose(&["tool 2+b1 (trixie)"]);
    site.assert_fetched(
        TOOL,
        None,
        &["liba 2 (trixie)", "tool 1~rc1 (trixie)"],
        &["tool 1~rc1 (trixie) in place of tool 2+b1 (trixie): 404 Not Found"],
    );
    assert_eq!(site.requests("forky"), [""; 0]);
}

#[test]
fn a_library_missing_an_older_one_of_the_release_is_taken_and_said() {
    let site = Site::new(TOOLS);
    site.lose(&["liba 2 (trixie)"]);
    site.assert_fetched(
        TOOL,
        None,
        &["liba 1 (trixie)", "tool 2+b1 (trixie)"],
        &["liba 1 (trixie) in place of liba 2 (trixie): 404 Not Found"],
    );
    assert_eq!(site.requests("forky"), [""; 0]);
}

#[test]
fn a_library_only_in_the_next_release_is_taken_from_there_and_said() {
    let site = Site::new(TOOLS);
    site.lose(&["liba 2 (trixie)", "liba 1 (trixie)"]);
    site.assert_fetched(
        TOOL,
        None,
        &["liba 3 (forky)", "libb 1 (forky)", "tool 2+b1 (trixie)"],
        &[
            "liba 3 (forky) in place of liba 2 (trixie): 404 Not Found",
            "libb 1 (forky) as well: liba 3 (forky) needs it",
        ],
    );
}

#[test]
fn a_suite_whose_index_does_not_match_its_checksum_is_left_out_and_that_said() {
    let site = Site::new(TOOLS);
    let locked = site.locked(&["liba 1 (trixie)", "tool 1~rc1 (trixie)"]);
    site.lose(&["tool 1~rc1 (trixie)"]);
    site.spoil_index("trixie");
    let index = index("trixie");
    let address = site.server.address();
    let reason = format!("Failed to fetch {address}/{index} Hash Sum mismatch");
    site.assert_fetched(
        TOOL,
        Some(&locked),
        &["liba 3 (forky)", "libb 1 (forky)", "tool 3 (forky)"],
        &[
            "tool 3 (forky) in place of tool 1~rc1 (trixie): 404 Not Found",
            &format!(
                "liba 3 (forky) in place of liba 1 (trixie): all of Debian trixie is left out: {reason}"
            ),
            "libb 1 (forky) as well: liba 3 (forky) needs it",
        ],
    );
    // The next set neither asks for it nor takes from it.
    site.assert_fetched(Wanted::Alone("liba"), None, &["liba 3 (forky)"], &[]);
    assert_eq!(site.requests(&index).len(), 1);
}

#[test]
fn what_one_mirror_lacks_the_next_one_is_asked_for() {
    let site = Site::new(TOOLS);
    site.spoil_index("trixie");
    site.lose(&["tool 2+b1 (trixie)"]);
    let whole = Site::new(TOOLS);
    let both = mirrors(&[&site.server.address(), &whole.server.address()]);
    let fetched = site.fetch_from(both, TOOL, None).unwrap();
    let tool = site.archive("tool 2+b1 (trixie)");
    assert!(fetched.archives.contains(&tool), "{fetched:?}");
    assert_eq!(fetched.differences, [""; 0]);
    assert_eq!(whole.requests("pool"), [place(&tool)]);
}

#[test]
fn when_nothing_is_there_all_that_was_tried_is_named_and_each_file_asked_for_once() {
    let site = Site::new(TOOLS);
    let all: Vec<String> = site.archives.iter().map(Archive::title).collect();
    site.lose(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let error = site.fetch(TOOL, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing is left to take.\n  \
           tool 2+b1 (trixie): 404 Not Found\n  \
           liba 2 (trixie): 404 Not Found\n  \
           tool 1~rc1 (trixie): 404 Not Found\n  \
           liba 1 (trixie): 404 Not Found\n  \
           tool 3 (forky): 404 Not Found\n  \
           liba 3 (forky): 404 Not Found\n  \
           libb 1 (forky): 404 Not Found\n\
         What is missing: No candidates were found for tool any version.\n\
         A mirror in the midst of an update is whole again within hours: try again later, or name \
         another mirror in this machine's package sources."
    );
    let mut requests = site.requests("pool");
    let asked = requests.len();
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), asked);
}

#[test]
fn what_is_locked_is_taken_without_asking_for_an_index() {
    let site = Site::new(TOOLS);
    let titles = ["liba 1 (trixie)", "tool 1~rc1 (trixie)"];
    let locked = site.locked(&titles);
    site.assert_fetched(TOOL, Some(&locked), &titles, &[]);
    let mut requests = site.server.requests();
    requests.sort();
    assert_eq!(requests, [place(&locked[0]), place(&locked[1])]);
}

#[test]
fn for_a_locked_version_that_has_gone_the_nearest_is_taken_and_said() {
    let site = Site::new(TOOLS);
    let locked = site.locked(&["liba 1 (trixie)", "tool 1~rc1 (trixie)"]);
    site.lose(&["tool 1~rc1 (trixie)"]);
    // The library stays as it was last tested.
    site.assert_fetched(
        TOOL,
        Some(&locked),
        &["liba 1 (trixie)", "tool 2+b1 (trixie)"],
        &["tool 2+b1 (trixie) in place of tool 1~rc1 (trixie): 404 Not Found"],
    );
}

#[test]
fn a_file_with_another_checksum_or_length_is_not_taken_and_that_said() {
    for wrong in [changed, |mut file: Vec<u8>| {
        file.truncate(100);
        file
    }] {
        let site = Site::new(TOOLS);
        let tool = site.archive("tool 2+b1 (trixie)");
        site.server.change(&place(&tool), |file| Some(wrong(file)));
        site.assert_fetched(
            TOOL,
            None,
            &["liba 2 (trixie)", "tool 1~rc1 (trixie)"],
            &["tool 1~rc1 (trixie) in place of tool 2+b1 (trixie): Hash Sum mismatch"],
        );
        let kept = fs::read_dir(site.store.folder()).unwrap();
        assert_eq!(kept.count(), 2, "the wrong one as well");
    }
    let site = Site::new(TOOLS);
    let mut locked = site.locked(&["tool 2+b1 (trixie)"]);
    locked[0].bytes += 1;
    site.assert_fetched(
        Wanted::Alone("tool"),
        Some(&locked),
        &["tool 1~rc1 (trixie)"],
        &["tool 1~rc1 (trixie) in place of tool 2+b1 (trixie): arrived damaged"],
    );
}

#[test]
fn a_file_of_the_right_length_left_by_an_earlier_run_is_read_before_it_is_trusted() {
    let site = Site::new(TOOLS);
    let titles = ["liba 1 (trixie)"];
    let locked = site.locked(&titles);
    let bytes = usize::try_from(locked[0].bytes).unwrap();
    fs::write(site.store.path(&locked[0]), vec![0; bytes]).unwrap();
    site.assert_fetched(Wanted::Alone("liba"), Some(&locked), &titles, &[]);
    assert_eq!(site.server.requests(), [place(&locked[0])]);
    // This time it is the right one.
    site.assert_fetched(Wanted::Alone("liba"), Some(&locked), &titles, &[]);
    assert_eq!(site.server.requests().len(), 1);
}

#[test]
fn a_mirror_that_refuses_connections_is_told_at_once_and_nothing_else_tried() {
    let site = Site::new(TOOLS);
    let locked = site.locked(&["liba 1 (trixie)", "tool 1~rc1 (trixie)"]);
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirrors = mirrors(&[&format!("http://{}", refusing.local_addr().unwrap())]);
    drop(refusing);
    for locked in [Some(&locked[..]), None] {
        let started = Instant::now();
        let error = site.fetch_from(mirrors.clone(), TOOL, locked).unwrap_err();
        let FetchError::Unreachable { answer } = error else {
            panic!("{error}")
        };
        assert!(answer.contains("Connection refused"), "{answer}");
        assert!(site.learnt.refused().is_empty());
        assert!(site.learnt.left_out().is_empty());
        // apt tries three times, and waits a second or two in between.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}

const KERNEL: Wanted = Wanted::Kernel {
    flavour: "powerpc64le",
    series: "6.12.",
};

/// Kernels with their modules in one package, and newer ones with a package for each.
const KERNELS: &str = "
    trixie linux-image-6.13.1-powerpc64le 6.13.1-1; ; 1100000
    trixie linux-image-6.12.2-powerpc64le-64k 6.12.2-1; ; 1100000
    trixie linux-image-6.12.2-powerpc64le 6.12.2-1; ; 1100000
    trixie linux-image-6.12.1-powerpc64le 6.12.1-1; ; 1100000
    forky linux-image-7.2-powerpc64le 7.2-1; linux-binary-7.2-powerpc64le
    forky linux-binary-7.2-powerpc64le 7.2-1; linux-modules-7.2-powerpc64le
    forky linux-modules-7.2-powerpc64le 7.2-1
    forky linux-binary-7.1-powerpc64le 7.1-1; linux-modules-7.1-powerpc64le
    forky linux-modules-7.1-powerpc64le 7.1-1
";

#[test]
fn an_older_kernel_of_the_series_comes_before_another_series_and_the_next_release() {
    let site = Site::new(KERNELS);
    site.lose(&["linux-image-6.12.2-powerpc64le 6.12.2-1 (trixie)"]);
    site.assert_fetched(
        KERNEL,
        None,
        &["linux-image-6.12.1-powerpc64le 6.12.1-1 (trixie)"],
        &[
            "linux-image-6.12.1-powerpc64le 6.12.1-1 (trixie) in place of \
             linux-image-6.12.2-powerpc64le 6.12.2-1 (trixie): 404 Not Found",
        ],
    );
    assert_eq!(site.requests("forky"), [""; 0]);
}

#[test]
fn the_next_releases_kernel_is_taken_whole_or_not_at_all() {
    let site = Site::new(KERNELS);
    site.lose(&[
        "linux-image-6.12.2-powerpc64le 6.12.2-1 (trixie)",
        "linux-image-6.12.1-powerpc64le 6.12.1-1 (trixie)",
        "linux-image-6.13.1-powerpc64le 6.13.1-1 (trixie)",
        "linux-modules-7.2-powerpc64le 7.2-1 (forky)",
    ]);
    site.assert_fetched(
        KERNEL,
        None,
        &[
            "linux-binary-7.1-powerpc64le 7.1-1 (forky)",
            "linux-modules-7.1-powerpc64le 7.1-1 (forky)",
        ],
        &[
            "linux-binary-7.1-powerpc64le 7.1-1 (forky) in place of \
             linux-image-6.12.2-powerpc64le 6.12.2-1 (trixie): 404 Not Found",
            "linux-modules-7.1-powerpc64le 7.1-1 (forky) as well: \
             linux-binary-7.1-powerpc64le 7.1-1 (forky) needs it",
        ],
    );
}

#[test]
fn an_old_version_is_taken_from_the_security_suites_own_mirror() {
    let site = Site::new(
        "
        trixie tool 2
        trixie-security tool 1
        forky tool 3
        ",
    );
    site.lose(&["tool 2 (trixie)"]);
    site.assert_fetched(
        TOOL,
        None,
        &["tool 1 (trixie-security)"],
        &["tool 1 (trixie-security) in place of tool 2 (trixie): 404 Not Found"],
    );
    let old = site.archive("tool 1 (trixie-security)");
    assert_eq!(site.requests(&old.path), [place(&old)]);
}

#[test]
fn a_locked_version_that_moved_from_the_security_suite_is_the_same() {
    let site = Site::new(
        "
        trixie tool 2
        trixie tool 1
        trixie-security tool 1
        ",
    );
    let locked = site.locked(&["tool 1 (trixie-security)"]);
    site.lose(&["tool 1 (trixie-security)"]);
    site.assert_fetched(TOOL, Some(&locked), &["tool 1 (trixie)"], &[]);
}

#[test]
fn this_machines_own_sources_lists_and_state_stay_as_they_are() {
    let before = machine_files();
    let site = Site::new(TOOLS);
    site.lose(&["tool 2+b1 (trixie)"]);
    site.fetch(TOOL, None).unwrap();
    // A machine without Debian's sources is asked for them all the same.
    let _ = Mirrors::of_this_machine();
    let after = machine_files();
    assert!(before.len() > 2, "{before:?}");
    assert_eq!(before, after);
}

/// apt's files on this machine with their lengths and when they were changed.
fn machine_files() -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut files = BTreeMap::new();
    let mut unread = vec![PathBuf::from("/etc/apt"), PathBuf::from("/var/lib/apt")];
    while let Some(path) = unread.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        // Not every user may look into all folders.
        if let Ok(entries) = fs::read_dir(&path) {
            unread.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files.insert(path, (metadata.len(), metadata.modified().unwrap()));
    }
    files
}
