//! docs/crates.md has each crate in the programs with unsafe code, and no other.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;
use spapr_lab::documents;

/// What cargo prints.
fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(arguments)
        .args(["--locked", "--offline"]);
    let output = cargo.output().expect("cargo");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{why}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A package's name and version, and the folder that it is in.
type Folders = HashMap<(String, String), PathBuf>;

/// All packages that Cargo.lock has.
fn folders() -> Folders {
    let text = cargo(&["metadata", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    packages
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().unwrap_or(Path::new("")).to_owned();
            ((text(&package["name"]), text(&package["version"])), folder)
        })
        .collect()
}

/// The packages that are in the programs, those of this source tree aside, with their folders. Macros are the
/// compiler's, and in no program.
fn of_programs() -> Vec<(String, PathBuf)> {
    let mut folders = folders();
    let tree = cargo(&[
        "tree",
        "--package=spapr-vmm",
        "--edges=normal,no-proc-macro",
        "--target=powerpc64le-unknown-linux-gnu",
        "--prefix=none",
        "--format={p}",
    ]);
    let lines = tree
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = lines.filter_map(|words| match words[..] {
        // A path follows the version of what is in this tree.
        [name, version] | [name, version, "(*)"] => {
            let key = (name.to_owned(), version.trim_start_matches('v').to_owned());
            Some((name.to_owned(), folders.remove(&key)?))
        }
        _ => None,
    });
    named.collect()
}

fn says_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => says_unsafe(group.stream()),
        _ => false,
    })
}

/// Whether a file in the folder says so outside of comments and text. Tests in files of their own do not count.
fn has_unsafe(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return !path.ends_with("tests") && has_unsafe(&path);
        }
        let is_test = path
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem == "test");
        if is_test || path.extension().is_none_or(|it| it != "rs") {
            return false;
        }
        let source = fs::read_to_string(&path).unwrap_or_default();
        // To read all of it as tokens takes its time.
        source.contains("unsafe") && source.parse().map_or(true, says_unsafe)
    })
}

/// The names in the first column of the page's tables.
fn on_the_page() -> BTreeSet<String> {
    let page = documents::page("crates.md").expect("a page");
    let rows = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split('|').next());
    let names = cells.flat_map(|cell| cell.split(','));
    names
        .map(|name| name.trim_matches([' ', '`']).to_owned())
        .collect()
}

#[test]
fn the_page_has_each_crate_with_unsafe_code() {
    let found = of_programs().into_iter();
    let found = found.filter(|(_, folder)| has_unsafe(&folder.join("src")));
    let found: BTreeSet<String> = found.map(|(name, _)| name).collect();
    assert!(found.contains("vm-memory"), "{found:?}");
    let listed = on_the_page();
    let missing: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/crates.md lacks {missing:?}, and has {gone:?} for nothing"
    );
}
