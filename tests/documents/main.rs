//! README.md and the pages of docs/: where their links lead, and what they have of crates.

mod crates;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use spapr_lab::documents::{self, Contents};

/// `a/../b` is `b`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Why a link of the page at `path` leads nowhere.
fn problem(path: &Path, link: &str, pages: &HashMap<PathBuf, Contents>) -> Option<String> {
    if link.starts_with("https://") || link.starts_with("http://") {
        return None;
    }
    let (file, anchor) = match link.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (link, None),
    };
    let target = match file {
        "" => path.to_owned(),
        file => plain(&path.parent().unwrap_or(Path::new("")).join(file)),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !root.join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    let anchor = anchor?;
    let Some(contents) = pages.get(&target) else {
        return Some(format!("{} has no headings", target.display()));
    };
    let is_there = contents.anchors.iter().any(|it| it == anchor);
    (!is_there).then(|| format!("{} has no heading #{anchor}", target.display()))
}

fn all_pages() -> HashMap<PathBuf, Contents> {
    let pages = documents::pages().expect("pages").into_iter();
    pages
        .map(|page| {
            let contents = page.contents();
            (page.path, contents)
        })
        .collect()
}

#[test]
fn links_lead_to_files_and_headings_that_there_are() {
    let pages = all_pages();
    let mut wrong = Vec::new();
    let mut links = 0;
    for (path, contents) in &pages {
        links += contents.links.len();
        for link in &contents.links {
            let problem = problem(path, link, &pages);
            wrong.extend(problem.map(|why| format!("{}: {link}: {why}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links > 50, "{links} links found");
}

#[test]
fn a_link_to_what_is_not_there_is_told() {
    let pages = all_pages();
    let of_readme = |link: &str| problem(Path::new("README.md"), link, &pages);
    assert_eq!(of_readme("docs/lab.md"), None);
    assert!(of_readme("docs/no.md").is_some());
    assert!(of_readme("docs/lab.md#no-such-heading").is_some());
    assert!(of_readme("#no-such-heading").is_some());
}

/// Whoever opens docs/ finds each page from its index.
#[test]
fn the_index_of_the_pages_has_each_of_them() {
    let pages = all_pages();
    let index = &pages[Path::new("docs/README.md")];
    for path in pages.keys().filter(|path| path.starts_with("docs")) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_there = name == "README.md" || index.links.iter().any(|link| link == name);
        assert!(is_there, "docs/README.md does not lead to {name}");
    }
}
