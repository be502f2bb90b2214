//! What suites offer: the entries of their `Packages` indexes (Debian Policy, chapters 5 and 7).

use std::cmp::Ordering;
use std::collections::HashMap;

use debversion::Version;

use super::archive::Archive;

/// One version of a package in one suite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) archive: Archive,
    /// The fields Pre-Depends and Depends.
    depends: String,
    /// The fields Breaks and Conflicts.
    breaks: String,
    provides: String,
}

impl Offer {
    /// What the package needs: of each list at least one.
    pub(super) fn needs(&self) -> impl Iterator<Item = Vec<Relation<'_>>> {
        self.depends
            .split(',')
            .map(|group| group.split('|').filter_map(relation).collect::<Vec<_>>())
            .filter(|group| !group.is_empty())
    }

    /// What must not be there with it.
    pub(super) fn breaks(&self) -> impl Iterator<Item = Relation<'_>> {
        self.breaks.split(',').filter_map(relation)
    }

    /// Other names that it answers to, some with a version.
    pub(super) fn provides(&self) -> impl Iterator<Item = Relation<'_>> {
        self.provides.split(',').filter_map(relation)
    }

    /// Whether it is what the relation asks for, by its own name or by one that it provides. A name
    /// provided without a version answers only those who ask for none (Policy 7.5).
    pub(super) fn answers(&self, wanted: &Relation<'_>) -> bool {
        let by_own_name =
            self.archive.package == wanted.package && wanted.allows(&self.archive.version);
        by_own_name
            || self.provides().any(|provided| {
                provided.package == wanted.package
                    && match (&wanted.bound, &provided.bound) {
                        (None, _) => true,
                        (Some(_), None) => false,
                        (Some(_), Some((_, version))) => wanted.allows(version),
                    }
            })
    }
}

/// A package by name, and which versions of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Relation<'a> {
    pub(super) package: &'a str,
    /// How the version compares with which other.
    pub(super) bound: Option<(&'a str, &'a str)>,
}

impl Relation<'_> {
    /// Whether the version is one of those.
    pub(super) fn allows(&self, version: &str) -> bool {
        let Some((operator, bound)) = self.bound else {
            return true;
        };
        let order = compare(version, bound);
        match operator {
            "<<" => order == Ordering::Less,
            "<=" | "<" => order != Ordering::Greater,
            "=" => order == Ordering::Equal,
            ">=" | ">" => order != Ordering::Less,
            ">>" => order == Ordering::Greater,
            _ => false,
        }
    }
}

/// `name`, `name:any`, `name (>= version)`; architectures do not occur in indexes of packages.
fn relation(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let (name, bound) = match text.split_once('(') {
        Some((name, bound)) => (name, Some(bound.split(')').next()?.trim())),
        None => (text, None),
    };
    let package = name.trim().split([':', ' ']).next()?;
    if package.is_empty() {
        return None;
    }
    let bound = match bound {
        None => None,
        Some(bound) => {
            let version = bound.find(|c: char| !"<>=".contains(c))?;
            Some((&bound[..version], bound[version..].trim()))
        }
    };
    Some(Relation { package, bound })
}

/// Which version is the newer one. What is no version is older than all that are.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    match (left.parse::<Version>(), right.parse::<Version>()) {
        (Ok(left), Ok(right)) => left.cmp(&right),
        (left, right) => left.is_ok().cmp(&right.is_ok()),
    }
}

/// The entries of a suite's index. One that names no file or no SHA-256 cannot be fetched and is left out.
pub(super) fn parse(text: &str, suite: &str) -> Vec<Offer> {
    text.split("\n\n")
        .filter_map(|entry| parse_entry(entry, suite))
        .collect()
}

fn parse_entry(entry: &str, suite: &str) -> Option<Offer> {
    let mut offer = Offer::default();
    let archive = &mut offer.archive;
    suite.clone_into(&mut archive.suite);
    for line in entry.lines() {
        let Some((key, value)) = line.split_once(": ") else {
            continue;
        };
        match key {
            "Package" => value.clone_into(&mut archive.package),
            "Version" => value.clone_into(&mut archive.version),
            "Architecture" => value.clone_into(&mut archive.architecture),
            "Filename" => value.clone_into(&mut archive.path),
            "Size" => archive.bytes = value.parse().ok()?,
            "SHA256" => value.clone_into(&mut archive.sha256),
            "Depends" | "Pre-Depends" => append(&mut offer.depends, value),
            "Breaks" | "Conflicts" => append(&mut offer.breaks, value),
            "Provides" => value.clone_into(&mut offer.provides),
            _ => {}
        }
    }
    let archive = &offer.archive;
    let complete = ![
        &archive.package,
        &archive.version,
        &archive.architecture,
        &archive.path,
        &archive.sha256,
    ]
    .iter()
    .any(|field| field.is_empty());
    complete.then_some(offer)
}

fn append(field: &mut String, value: &str) {
    if !field.is_empty() {
        field.push(',');
    }
    field.push_str(value);
}

/// All that is on offer, by name.
#[derive(Debug, Default)]
pub(super) struct Offers {
    all: Vec<Offer>,
    by_name: HashMap<String, Vec<usize>>,
    providers: HashMap<String, Vec<usize>>,
}

impl Offers {
    pub(super) fn new(all: Vec<Offer>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        let mut providers: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, offer) in all.iter().enumerate() {
            by_name
                .entry(offer.archive.package.clone())
                .or_default()
                .push(number);
            for provided in offer.provides() {
                providers
                    .entry(provided.package.to_owned())
                    .or_default()
                    .push(number);
            }
        }
        Self {
            all,
            by_name,
            providers,
        }
    }

    pub(super) fn all(&self) -> &[Offer] {
        &self.all
    }

    pub(super) fn into_all(self) -> Vec<Offer> {
        self.all
    }

    /// Those of this name, as numbers for [`Offers::all`].
    pub(super) fn named(&self, package: &str) -> &[usize] {
        self.by_name.get(package).map_or(&[], Vec::as_slice)
    }

    /// Those that provide this name, as numbers for [`Offers::all`].
    pub(super) fn providing(&self, package: &str) -> &[usize] {
        self.providers.get(package).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: tool
Version: 1:2.0-1+b3
Architecture: ppc64el
Pre-Depends: libc6 (>= 2.38)
Depends: python3:any, mail | sendmail (<< 9), liba (= 1-1)
Conflicts: old-tool
Provides: hammer, saw (= 3)
Filename: pool/main/t/tool/tool_2.0-1+b3_ppc64el.deb
Size: 123
SHA256: ab
Description: cuts
 and hits: all

Package: without-a-file
Version: 1
Architecture: all
";

    #[test]
    fn an_entry_is_read_and_one_that_cannot_be_fetched_left_out() {
        let offers = parse(INDEX, "trixie");
        let [tool] = &offers[..] else {
            panic!("{offers:?}")
        };
        assert_eq!(tool.archive.version, "1:2.0-1+b3");
        assert_eq!(tool.archive.bytes, 123);
        let needs: Vec<Vec<&str>> = tool
            .needs()
            .map(|group| group.iter().map(|needed| needed.package).collect())
            .collect();
        assert_eq!(
            needs,
            [
                vec!["libc6"],
                vec!["python3"],
                vec!["mail", "sendmail"],
                vec!["liba"]
            ]
        );
        let bounds: Vec<_> = tool.needs().flatten().map(|needed| needed.bound).collect();
        let expected = [
            Some((">=", "2.38")),
            None,
            None,
            Some(("<<", "9")),
            Some(("=", "1-1")),
        ];
        assert_eq!(bounds, expected);
        assert_eq!(tool.breaks().count(), 1);
    }

    #[test]
    fn a_name_provided_without_a_version_answers_only_those_who_ask_for_none() {
        let offers = parse(INDEX, "trixie");
        let answers = |text| offers[0].answers(&relation(text).unwrap());
        assert!(answers("hammer"));
        assert!(!answers("hammer (>= 1)"));
        assert!(answers("saw (>= 2)"));
        assert!(!answers("saw (>= 4)"));
        assert!(answers("tool (>> 1:1)"));
        assert!(!answers("tool (<< 1:1)"));
    }

    #[test]
    fn versions_compare_as_dpkg_does() {
        assert_eq!(compare("1.0~rc1-1", "1.0-1"), Ordering::Less);
        assert_eq!(compare("1:1.0-1", "2.0-1"), Ordering::Greater);
        assert_eq!(compare("6.12.107-1", "6.12.117-1"), Ordering::Less);
        assert_eq!(compare("7.2.12-1~bpo13+1", "7.2.12-1"), Ordering::Less);
    }
}
