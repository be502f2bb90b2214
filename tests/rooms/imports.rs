//! What the files of a crate name: `crate::room` and other crates, in code that is not a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::graph::Graph;

/// The rooms of the crate whose source is in `folder`.
pub(crate) fn of_crate(folder: &Path) -> Graph {
    let mut graph = Graph::default();
    for file in files(folder) {
        let Some(room) = room_of(folder, &file) else {
            continue;
        };
        graph.add_room(&room);
        for path in paths(&file) {
            if let [first, other, ..] = &path[..]
                && first == "crate"
            {
                graph.add(&room, other);
            }
        }
    }
    graph.of_rooms_alone()
}

/// The first parts of all paths in a crate's source.
pub(crate) fn crates_used(folder: &Path) -> BTreeSet<String> {
    let paths = files(folder).into_iter().flat_map(|file| paths(&file));
    paths.filter_map(|path| path.into_iter().next()).collect()
}

/// The module below the crate's root that a file belongs to; none for the root itself and for programs.
fn room_of(folder: &Path, file: &Path) -> Option<String> {
    let place = file.strip_prefix(folder).expect("a file in the folder");
    let first = place.iter().next()?.to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main", "bin", "testing"].contains(&room)).then(|| room.to_owned())
}

/// All files with code in `folder` that are no tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of source") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// All paths in a file's code, tests apart. A path with braces is several.
fn paths(file: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(file).expect("a readable file");
    let tokens: TokenStream = text.parse().expect("Rust");
    let mut found = Vec::new();
    collect(tokens, &mut found);
    found
}

fn collect(tokens: TokenStream, found: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = behind_item(&tokens, at + 2);
            continue;
        }
        match &tokens[at] {
            TokenTree::Ident(_) => at = path(&tokens, at, &[], found),
            TokenTree::Group(group) => {
                collect(group.stream(), found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Notes the path that starts at `at` behind `before`; where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut next = 0;
                while next < inner.len() {
                    match &inner[next] {
                        TokenTree::Ident(_) => next = self::path(&inner, next, &path, found),
                        _ => next += 1,
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        let is_colon = |index: usize| matches!(tokens.get(index), Some(TokenTree::Punct(sign)) if sign.as_char() == ':');
        if !is_colon(at) || !is_colon(at + 1) {
            break;
        }
        at += 2;
    }
    found.push(path);
    at
}

/// `#[cfg(test)]`.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    match tokens {
        [TokenTree::Punct(sign), TokenTree::Group(group), ..] if sign.as_char() == '#' => {
            group.stream().to_string().replace(' ', "") == "cfg(test)"
        }
        _ => false,
    }
}

/// Where the item ends that starts at `at`: behind its braces or its semicolon.
fn behind_item(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(sign) => sign.as_char() == ';',
        _ => false,
    };
    let end = tokens.iter().skip(at).position(ends);
    end.map_or(tokens.len(), |end| at + end + 1)
}

#[test]
fn paths_are_found_in_braces_and_not_in_tests_or_comments() {
    let source = "
        use crate::one::{two, three::Four};
        /// As [`crate::five`] says.
        fn six() { crate::seven::eight(); }
        #[cfg(test)]
        mod tests { use crate::nine; }
        #[cfg(test)]
        use crate::ten;
        use other::Eleven;
    ";
    let mut found = Vec::new();
    collect(source.parse().expect("Rust"), &mut found);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    let ours: Vec<&String> = found.iter().filter(|path| path.contains("::")).collect();
    assert_eq!(
        ours,
        [
            "crate::one::two",
            "crate::one::three::Four",
            "crate::seven::eight",
            "other::Eleven"
        ]
    );
}
