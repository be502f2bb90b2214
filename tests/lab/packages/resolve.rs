//! Which versions go together: the best set that holds what is wanted and all it needs.
//!
//! apt's own resolver is no help here: it does not leave a release's version for the next one's because
//! something that had to come from there needs it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Display};

use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, Dependencies, DependencyProvider, Interner,
    KnownDependencies, NameId, Problem, Requirement, SolvableId, Solver, SolverCache, StringId,
    UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
};

use super::index::{Offer, Offers, Relation};

/// Finds the packages wanted with all that they need, as numbers for [`Offers::all`]; each in the version
/// that `preference` puts first, as far as they go together. Those that `usable` denies are not taken.
///
/// # Errors
/// Why no set holds them all, in words.
pub(super) fn closure(
    offers: &Offers,
    wanted: &[&str],
    usable: &dyn Fn(&Offer) -> bool,
    preference: &dyn Fn(&Offer, &Offer) -> std::cmp::Ordering,
) -> Result<Vec<usize>, String> {
    let provider = Provider {
        offers,
        usable,
        preference,
        pool: Pool::default(),
        solvables: RefCell::default(),
    };
    let requirements = wanted
        .iter()
        .map(|package| {
            let relation = Relation {
                package,
                bound: None,
            };
            provider.one_of(&[relation]).into()
        })
        .collect();
    let mut solver = Solver::new(provider);
    let problem = Problem::new().requirements(requirements);
    match solver.solve(problem) {
        Ok(chosen) => {
            let pool = &solver.provider().pool;
            let number = |solvable| pool.resolve_solvable(solvable).record.number;
            Ok(chosen.into_iter().map(number).collect())
        }
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let reason = conflict.display_user_friendly(&solver).to_string();
            Err(reason.trim_end().to_owned())
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => Err("interrupted".to_owned()),
    }
}

/// Which versions of a package are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Versions {
    /// The package asked for; maybe one that others provide.
    package: String,
    bound: Option<(String, String)>,
    /// All but those.
    inverse: bool,
}

impl Versions {
    fn hold(&self, offer: &Offer) -> bool {
        let bound = self.bound.as_ref();
        let relation = Relation {
            package: &self.package,
            bound: bound.map(|(operator, version)| (operator.as_str(), version.as_str())),
        };
        offer.answers(&relation) != self.inverse
    }
}

impl Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.inverse { "not " } else { "" };
        match &self.bound {
            Some((operator, version)) => write!(f, "{not}{operator} {version}"),
            None => write!(f, "{not}any version"),
        }
    }
}

/// An offer as the solver sees it.
#[derive(Debug, Clone)]
struct Record {
    number: usize,
    title: String,
}

impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl VersionSet for Versions {
    type V = Record;
}

struct Provider<'a> {
    offers: &'a Offers,
    usable: &'a dyn Fn(&Offer) -> bool,
    preference: &'a dyn Fn(&Offer, &Offer) -> std::cmp::Ordering,
    pool: Pool<Versions>,
    solvables: RefCell<HashMap<usize, SolvableId>>,
}

impl Provider<'_> {
    fn offer(&self, solvable: SolvableId) -> &Offer {
        &self.offers.all()[self.pool.resolve_solvable(solvable).record.number]
    }

    fn solvable(&self, name: NameId, number: usize) -> SolvableId {
        let mut solvables = self.solvables.borrow_mut();
        *solvables.entry(number).or_insert_with(|| {
            let offer = &self.offers.all()[number];
            let title = format!("{} ({})", offer.archive.version, offer.archive.suite);
            self.pool.intern_solvable(name, Record { number, title })
        })
    }

    fn versions(&self, of: &str, relation: &Relation<'_>, inverse: bool) -> VersionSetId {
        let versions = Versions {
            package: relation.package.to_owned(),
            bound: relation
                .bound
                .map(|(operator, version)| (operator.to_owned(), version.to_owned())),
            inverse,
        };
        let name = self.pool.intern_package_name(of.to_owned());
        self.pool.intern_version_set(name, versions)
    }

    /// A requirement for one of these, each by its own name or that of a package that provides it.
    fn one_of(&self, alternatives: &[Relation<'_>]) -> Requirement {
        let mut sets = Vec::new();
        for relation in alternatives {
            sets.push(self.versions(relation.package, relation, false));
            let mut providers: Vec<&str> = self
                .offers
                .providing(relation.package)
                .iter()
                .map(|number| self.offers.all()[*number].archive.package.as_str())
                .filter(|provider| *provider != relation.package)
                .collect();
            providers.sort_unstable();
            providers.dedup();
            for provider in providers {
                sets.push(self.versions(provider, relation, false));
            }
        }
        match sets[..] {
            [set] => set.into(),
            _ => {
                let mut sets = sets.into_iter();
                // An alternative has at least its own name.
                let first = sets.next().unwrap_or_default();
                self.pool.intern_version_set_union(first, sets).into()
            }
        }
    }
}

impl Interner for Provider<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        let offer = self.offer(solvable);
        format!(
            "{} {} ({})",
            offer.archive.package, offer.archive.version, offer.archive.suite
        )
    }

    fn display_merged_solvables(&self, solvables: &[SolvableId]) -> impl Display + '_ {
        let mut titles: Vec<&str> = solvables
            .iter()
            .map(|solvable| self.pool.resolve_solvable(*solvable).record.title.as_str())
            .collect();
        titles.sort_unstable();
        titles.dedup();
        let name = solvables
            .first()
            .map_or("", |first| &self.offer(*first).archive.package);
        format!("{name} {}", titles.join(" | "))
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        self.pool.resolve_package_name(name).clone()
    }

    fn display_version_set(&self, version_set: VersionSetId) -> impl Display + '_ {
        self.pool.resolve_version_set(version_set).clone()
    }

    fn display_string(&self, string_id: StringId) -> impl Display + '_ {
        self.pool.resolve_string(string_id).to_owned()
    }

    fn version_set_name(&self, version_set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(version_set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(
        &self,
        version_set_union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(version_set_union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for Provider<'_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        version_set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let versions = self.pool.resolve_version_set(version_set);
        let mut fitting = candidates.to_vec();
        fitting.retain(|solvable| versions.hold(self.offer(*solvable)) != inverse);
        fitting
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let numbers = self.offers.named(self.pool.resolve_package_name(name));
        let usable = |number: &&usize| (self.usable)(&self.offers.all()[**number]);
        let candidates = numbers
            .iter()
            .filter(usable)
            .map(|number| self.solvable(name, *number))
            .collect();
        Some(Candidates {
            candidates,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        solvables.sort_by(|left, right| (self.preference)(self.offer(*left), self.offer(*right)));
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let offer = self.offer(solvable);
        let requirements = offer
            .needs()
            .map(|alternatives| self.one_of(&alternatives).into())
            .collect();
        let constrains = offer
            .breaks()
            .filter(|broken| broken.package != offer.archive.package)
            .map(|broken| self.versions(broken.package, &broken, true))
            .collect();
        Dependencies::Known(KnownDependencies {
            requirements,
            constrains,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::index::{compare, parse};
    use super::*;

    /// Offers of lines `suite package version [; depends [; more fields]]`.
    fn offers(lines: &str) -> Offers {
        let mut all = Vec::new();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let mut parts = line.split(';').map(str::trim);
            let words: Vec<&str> = parts.next().unwrap().split_whitespace().collect();
            let mut entry = format!(
                "Package: {}\nVersion: {}\nArchitecture: ppc64el\nFilename: pool/{}\nSize: 1\nSHA256: 0\n",
                words[1], words[2], words[1],
            );
            if let Some(depends) = parts.next() {
                let _ = writeln!(entry, "Depends: {depends}");
            }
            for field in parts {
                let _ = writeln!(entry, "{field}");
            }
            all.extend(parse(&entry, words[0]));
        }
        Offers::new(all)
    }

    /// The set for `wanted` without the versions in `aside`, as `package version`.
    fn set(lines: &str, wanted: &[&str], aside: &[&str]) -> Result<Vec<String>, String> {
        let offers = offers(lines);
        let rank = |offer: &Offer| {
            ["now", "next"]
                .iter()
                .position(|suite| *suite == offer.archive.suite)
        };
        let shown = |offer: &Offer| format!("{} {}", offer.archive.package, offer.archive.version);
        let chosen = closure(
            &offers,
            wanted,
            &|offer| !aside.contains(&shown(offer).as_str()),
            &|left, right| {
                rank(left)
                    .cmp(&rank(right))
                    .then(compare(&right.archive.version, &left.archive.version))
            },
        )?;
        let mut chosen: Vec<String> = chosen
            .into_iter()
            .map(|number| shown(&offers.all()[number]))
            .collect();
        chosen.sort();
        Ok(chosen)
    }

    const TOOL: &str = "
        now tool 2; liba (>= 1), libb
        now tool 1; liba
        now liba 1
        now libb 1
        next tool 3; liba (>= 2), libc6
        next liba 2; libb (>= 2)
        next libb 2
        next libc6 5
    ";

    #[test]
    fn the_newest_of_the_release_is_taken_with_what_it_needs_and_nothing_else() {
        assert_eq!(
            set(TOOL, &["tool"], &[]).unwrap(),
            ["liba 1", "libb 1", "tool 2"]
        );
    }

    #[test]
    fn an_older_version_of_the_release_comes_before_the_next_release() {
        assert_eq!(
            set(TOOL, &["tool"], &["tool 2"]).unwrap(),
            ["liba 1", "tool 1"]
        );
    }

    #[test]
    fn what_must_come_from_the_next_release_brings_what_it_needs_from_there() {
        // apt would keep libb 1, which liba 2 cannot use, and give up.
        assert_eq!(
            set(TOOL, &["tool"], &["liba 1"]).unwrap(),
            ["liba 2", "libb 2", "tool 2"]
        );
    }

    #[test]
    fn alternatives_and_provided_names_are_taken_and_broken_versions_avoided() {
        let lines = "
            now tool 1; mail | cat, editor, libx
            now cat 1
            now ed 1; cat; Provides: editor
            now libx 2;; Breaks: ed (<< 2)
            now libx 1
        ";
        let lines = lines.replace(";;", "; cat;");
        assert_eq!(
            set(&lines, &["tool"], &[]).unwrap(),
            ["cat 1", "ed 1", "libx 1", "tool 1"]
        );
    }

    #[test]
    fn when_nothing_is_left_the_reason_names_it() {
        let reason = set(TOOL, &["tool"], &["liba 1", "liba 2"]).unwrap_err();
        assert!(reason.contains("liba"), "{reason}");
    }
}
