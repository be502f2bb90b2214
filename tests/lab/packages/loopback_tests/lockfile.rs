//! What stands in the lock file is taken as far as it can be had.

use std::fs;

use super::super::fetch::{FetchError, Wanted};
use super::super::sources::Mirrors;
use super::repository::MAIN;
use super::{Site, mirrors};

const TOOL: Wanted = Wanted::WithDependencies(&["tool"]);

/// The next release's libraries were tested with this one's tool.
const MIXED: &str = "
    trixie tool 2; liba, libb
    trixie tool 1; liba, libb
    trixie liba 1
    trixie libb 1
    forky liba 3
    forky libb 3
    trixie-security libc 1
";

#[test]
fn locked_packages_of_the_next_release_stay_when_another_one_has_gone() {
    let site = Site::new(MIXED);
    let locked = site.locked(&["tool 2 (trixie)", "liba 3 (forky)", "libb 3 (forky)"]);
    site.lose(&["tool 2 (trixie)"]);
    site.assert_fetched(
        TOOL,
        Some(&locked),
        &["liba 3 (forky)", "libb 3 (forky)", "tool 1 (trixie)"],
        &["tool 1 (trixie) in place of tool 2 (trixie): 404 Not Found"],
    );
}

#[test]
fn a_locked_package_of_the_next_release_that_has_gone_gives_way_to_this_ones() {
    let site = Site::new(MIXED);
    let locked = site.locked(&["tool 2 (trixie)", "liba 3 (forky)", "libb 1 (trixie)"]);
    site.lose(&["liba 3 (forky)"]);
    site.assert_fetched(
        TOOL,
        Some(&locked),
        &["liba 1 (trixie)", "libb 1 (trixie)", "tool 2 (trixie)"],
        &["liba 1 (trixie) in place of liba 3 (forky): 404 Not Found"],
    );
}

#[test]
fn a_newer_kernel_is_told_beside_the_old_one_of_its_kind() {
    let site = Site::new(
        "
        forky linux-binary-7.3-powerpc64le 7.3-1
        forky linux-modules-7.3-powerpc64le 7.3-1
        forky linux-binary-7.2-powerpc64le 7.2-1
        forky linux-modules-7.2-powerpc64le 7.2-1
        ",
    );
    let locked = site.locked(&[
        "linux-binary-7.2-powerpc64le 7.2-1 (forky)",
        "linux-modules-7.2-powerpc64le 7.2-1 (forky)",
    ]);
    site.lose(&["linux-modules-7.2-powerpc64le 7.2-1 (forky)"]);
    let kernel = Wanted::Kernel {
        flavour: "powerpc64le",
        series: "",
    };
    site.assert_fetched(
        kernel,
        Some(&locked),
        &[
            "linux-binary-7.3-powerpc64le 7.3-1 (forky)",
            "linux-modules-7.3-powerpc64le 7.3-1 (forky)",
        ],
        &[
            "linux-binary-7.3-powerpc64le 7.3-1 (forky) in place of \
             linux-binary-7.2-powerpc64le 7.2-1 (forky): it does not go with the others",
            "linux-modules-7.3-powerpc64le 7.3-1 (forky) in place of \
             linux-modules-7.2-powerpc64le 7.2-1 (forky): 404 Not Found",
        ],
    );
}

#[test]
fn a_mirror_that_falls_silent_ends_the_run_and_changes_nothing_that_is_tested() {
    let site = Site::new(MIXED);
    let locked = site.locked(&["tool 2 (trixie)", "libc 1 (trixie-security)"]);
    // The security suites' mirror refuses connections; the other one delivers.
    let silent = Mirrors {
        security: vec!["http://127.0.0.1:9/security".to_owned()],
        ..mirrors(&[&site.server.address()])
    };
    let error = site.fetch_from(silent, TOOL, Some(&locked)).unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    // When it answers again all is as it was tested.
    site.assert_fetched(
        TOOL,
        Some(&locked),
        &["libc 1 (trixie-security)", "tool 2 (trixie)"],
        &[],
    );
}

#[test]
fn a_suite_that_no_mirror_has_is_named_and_done_without_in_every_run() {
    let site = Site::new(
        "
        trixie tool 1
        trixie-security tool 2
        ",
    );
    let locked = site.locked(&["tool 2 (trixie-security)"]);
    for _ in 0..2 {
        let without = Mirrors {
            security: Vec::new(),
            ..mirrors(&[&site.server.address()])
        };
        let fetched = site.fetch_from(without, TOOL, Some(&locked)).unwrap();
        let no_mirror = "this machine's package sources name no mirror of Debian trixie-security";
        assert_eq!(
            fetched.differences,
            [format!(
                "tool 1 (trixie) in place of tool 2 (trixie-security): {no_mirror}"
            )]
        );
    }
}

#[test]
fn a_list_of_mirrors_in_a_file_serves_as_it_does_this_machines_apt() {
    let site = Site::new(MIXED);
    let locked = site.locked(&["tool 2 (trixie)"]);
    let list = site.folder.path().join("mirrors.list");
    fs::write(&list, format!("{}/{MAIN}\n", site.server.address())).unwrap();
    let listed = Mirrors {
        main: vec![format!("mirror+file:{}", list.display())],
        ..mirrors(&[&site.server.address()])
    };
    let fetched = site.fetch_from(listed, TOOL, Some(&locked)).unwrap();
    assert_eq!(fetched.archives, locked);
}
