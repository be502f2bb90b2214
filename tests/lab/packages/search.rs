//! The search for the best set of packages in the indexes, and for words on how it differs from what was
//! wished.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::apt::{Apt, AptError, first_error, is_silence};
use super::archive::Archive;
use super::fetch::{Depot, FetchError, Refused, Wanted};
use super::index::{self, Offer, Offers, compare};
use super::resolve;
use super::sources::{Release, area_of};
use crate::command::CommandError;
use crate::progress::{Step, say};

/// A search; indexes are fetched group by group as they are needed.
pub(super) struct Search<'a> {
    depot: &'a Depot<'a>,
    release: Release,
    wanted: Wanted,
    locked: &'a [Archive],
    offers: Offers,
    /// How many of the release's groups of suites are in `offers`.
    groups: usize,
}

impl<'a> Search<'a> {
    /// A search for what is wanted of a release, in the versions of `locked` if they are on offer.
    pub(super) fn new(
        depot: &'a Depot<'a>,
        release: Release,
        wanted: Wanted,
        locked: &'a [Archive],
    ) -> Self {
        Self {
            depot,
            release,
            wanted,
            locked,
            offers: Offers::default(),
            groups: 0,
        }
    }

    /// The best set without what was refused.
    pub(super) fn best(&mut self) -> Result<Vec<Archive>, FetchError> {
        // As far as what was last tested can be had: a better group would hide it.
        let tested = self.locked.iter();
        let tested = tested.filter(|archive| self.depot.learnt.answer(archive).is_none());
        let groups = tested.map(|archive| self.group(archive) + 1).max();
        let most = self.release.suites().len();
        while self.groups < groups.unwrap_or(1).min(most) {
            self.widen()?;
        }
        loop {
            match self.among_offers() {
                Ok(archives) => return Ok(archives),
                Err(missing) if self.groups == most => return Err(self.nothing_left(missing)),
                Err(_) => self.widen()?,
            }
        }
    }

    /// Adds the next group's offers.
    fn widen(&mut self) -> Result<(), FetchError> {
        let mut all = std::mem::take(&mut self.offers).into_all();
        for suite in self.release.suites()[self.groups] {
            let key = (self.depot.architecture, *suite);
            if self.depot.learnt.left_out().contains_key(&key) {
                continue;
            }
            match self.offers_of(suite)? {
                Ok(offers) => all.extend(offers),
                Err(answer) if all.is_empty() && is_silence(&answer) => {
                    return Err(FetchError::Unreachable { answer });
                }
                Err(reason) => {
                    let architecture = self.depot.architecture;
                    say(&format!(
                        "Debian {suite} ({architecture}) is left out: {reason}"
                    ));
                    self.depot.learnt.left_out().insert(key, reason);
                }
            }
        }
        self.offers = Offers::new(all);
        self.groups += 1;
        Ok(())
    }

    /// What a suite offers, or why its index cannot be used.
    fn offers_of(&self, suite: &'static str) -> Result<Result<Vec<Offer>, String>, FetchError> {
        let depot = self.depot;
        let mut reason = match suite.ends_with("-security") {
            true => "this machine's package sources name no mirror of it".to_owned(),
            false => "no mirror".to_owned(),
        };
        let step = Step::start(format!(
            "fetching the package list of Debian {suite} ({})",
            depot.architecture
        ));
        let apt = Apt::set_up(depot.apt, suite, depot.architecture)?;
        for mirror in depot.mirrors.of(area_of(suite)) {
            match apt.index(mirror, &depot.mirrors.signatures, suite) {
                Ok(text) => {
                    let offers = index::parse(&text, suite);
                    step.done();
                    return Ok(Ok(offers));
                }
                Err(AptError::Command(CommandError::Failed { said, .. })) => {
                    reason = first_error(&said);
                }
                // No mirror's fault.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Err(reason))
    }

    /// The best set among what is on offer, or what is missing.
    fn among_offers(&self) -> Result<Vec<Archive>, String> {
        let refused = self.depot.learnt.refused().clone();
        let usable = |offer: &Offer| {
            !refused
                .iter()
                .any(|refused| refused.archive.place() == offer.archive.place())
        };
        let preference =
            |left: &Offer, right: &Offer| self.preference(&left.archive, &right.archive);
        let chosen = match self.wanted {
            Wanted::WithDependencies(packages) => {
                resolve::closure(&self.offers, packages, &usable, &preference)?
            }
            Wanted::Alone(package) => {
                let mut numbers = self.offers.named(package).to_vec();
                numbers.retain(|number| usable(&self.offers.all()[*number]));
                let all = self.offers.all();
                numbers.sort_by(|left, right| preference(&all[*left], &all[*right]));
                numbers.truncate(1);
                numbers
            }
            Wanted::Kernel { flavour, series } => self.kernel(flavour, series, &usable),
        };
        if chosen.is_empty() {
            return Err(self.wanted.title());
        }
        let archive = |number: usize| self.offers.all()[number].archive.clone();
        Ok(chosen.into_iter().map(archive).collect())
    }

    /// As last tested before all others, then by the order of suites, then the newest.
    fn preference(&self, left: &Archive, right: &Archive) -> Ordering {
        let rank = |archive: &Archive| {
            let tested = self.locked.iter().any(|locked| {
                locked.package == archive.package && locked.version == archive.version
            });
            (!tested, self.group(archive))
        };
        rank(left)
            .cmp(&rank(right))
            .then_with(|| compare(&right.version, &left.version))
            .then_with(|| left.suite.cmp(&right.suite))
    }

    /// The number of the group that the archive's suite is in.
    fn group(&self, archive: &Archive) -> usize {
        let groups = self.release.suites();
        let holds = |suites: &&[&str]| suites.contains(&archive.suite.as_str());
        groups.iter().position(holds).unwrap_or(groups.len())
    }

    /// The best kernel: its files as numbers for the offers.
    ///
    /// Until 6.x Debian's `linux-image-VERSION-FLAVOUR` holds kernel and modules; since 7.x it is empty and
    /// points to `linux-binary-…` and `linux-modules-…`.
    fn kernel(&self, flavour: &str, series: &str, usable: &dyn Fn(&Offer) -> bool) -> Vec<usize> {
        /// Packages smaller than this hold no kernel: they only point to another one.
        const LEAST_BYTES: u64 = 1 << 20;
        let all = self.offers.all();
        let version_of = |offer: &Offer, prefix: &str| -> Option<String> {
            let name = offer.archive.package.strip_prefix(prefix)?;
            let version = name.strip_suffix(flavour)?.strip_suffix('-')?;
            let is_version = version.starts_with(|c: char| c.is_ascii_digit());
            is_version.then(|| version.to_owned())
        };
        let mut kernels: Vec<(String, Vec<usize>)> = Vec::new();
        for (number, offer) in all.iter().enumerate() {
            if let Some(version) = version_of(offer, "linux-image-")
                && offer.archive.bytes >= LEAST_BYTES
            {
                kernels.push((version, vec![number]));
            }
            if let Some(version) = version_of(offer, "linux-binary-") {
                let modules = self
                    .offers
                    .named(&format!("linux-modules-{version}-{flavour}"))
                    .iter()
                    .filter(|modules| {
                        let modules = &all[**modules].archive;
                        modules.suite == offer.archive.suite
                            && modules.version == offer.archive.version
                    });
                kernels.extend(modules.map(|modules| (version.clone(), vec![number, *modules])));
            }
        }
        kernels.retain(|(_, files)| files.iter().all(|number| usable(&all[*number])));
        if self.release == Release::Bookworm {
            // Packages of these names have pages of another size in later releases.
            kernels.retain(|(version, _)| version.starts_with(series));
        }
        kernels.sort_by(|(left, left_files), (right, right_files)| {
            let of_series = |version: &str| !version.starts_with(series);
            let [left_offer, right_offer] =
                [left_files, right_files].map(|files| &all[files[0]].archive);
            of_series(left)
                .cmp(&of_series(right))
                .then_with(|| self.preference(left_offer, right_offer))
        });
        let best = kernels.into_iter().next();
        best.map(|(_, files)| files).unwrap_or_default()
    }

    fn nothing_left(&self, missing: String) -> FetchError {
        let depot = self.depot;
        let mut tried = String::new();
        let groups = self.release.suites();
        for Refused { archive, answer } in depot.learnt.refused().iter() {
            let fits = [depot.architecture, "all"].contains(&archive.architecture.as_str());
            if self.group(archive) == groups.len() || !fits {
                continue;
            }
            let _ = write!(tried, "\n  {}: {answer}", archive.title());
        }
        let mut left_out = String::new();
        for ((architecture, suite), reason) in depot.learnt.left_out().iter() {
            if *architecture == depot.architecture {
                let _ = write!(left_out, "\n  all of Debian {suite}: {reason}");
            }
        }
        FetchError::NothingLeft {
            tried,
            left_out,
            missing,
        }
    }

    /// What is taken in place of what was wished, and why.
    pub(super) fn differences(&self, wished: &[Archive], taken: &[Archive]) -> Vec<String> {
        let same = |left: &Archive, right: &Archive| left.package == right.package;
        let mut gone: Vec<&Archive> = wished
            .iter()
            .filter(|old| !taken.iter().any(|new| same(old, new)))
            .collect();
        let mut lines = Vec::new();
        for new in taken {
            let old = wished.iter().find(|old| same(old, new));
            let old = match self.wanted {
                // Another kernel is another package.
                Wanted::Kernel { .. } if old.is_none() => {
                    let kind = |archive: &Archive| {
                        let end = archive.package.find(|c: char| c.is_ascii_digit());
                        archive.package[..end.unwrap_or(0)].to_owned()
                    };
                    let twin = gone.iter().position(|old| kind(old) == kind(new));
                    (!gone.is_empty()).then(|| gone.remove(twin.unwrap_or(0)))
                }
                _ => old,
            };
            match old {
                Some(old) if old.version == new.version && same(old, new) => {}
                Some(old) => {
                    let why = self.why_not(old, taken);
                    let (new, old) = (new.title(), old.title());
                    lines.push(format!("{new} in place of {old}: {why}"));
                }
                None => lines.push(match self.needed_by(new, taken, |_| false) {
                    Some(user) => format!("{} as well: {user} needs it", new.title()),
                    None => format!("{} as well", new.title()),
                }),
            }
        }
        for old in gone {
            lines.push(format!("{} no longer: nothing needs it", old.title()));
        }
        lines
    }

    /// Why `old` is not among those taken.
    fn why_not(&self, old: &Archive, taken: &[Archive]) -> String {
        if let Some(answer) = self.depot.learnt.answer(old) {
            return answer;
        }
        let offered = self.offers.named(&old.package);
        let offered = offered
            .iter()
            .map(|number| &self.offers.all()[*number])
            .find(|offer| offer.archive.version == old.version);
        let Some(offered) = offered else {
            let left_out = self.depot.learnt.left_out();
            let mut suites = left_out
                .iter()
                .filter(|((architecture, _), _)| *architecture == self.depot.architecture);
            return match suites.find(|((_, suite), _)| *suite == old.suite) {
                Some((_, reason)) => format!("all of Debian {} is left out: {reason}", old.suite),
                None => "no longer offered".to_owned(),
            };
        };
        match self.needed_by(old, taken, |group| {
            group.iter().any(|needed| offered.answers(needed))
        }) {
            Some(user) => format!("{user} needs it"),
            None => "it does not go with the others".to_owned(),
        }
    }

    /// The one among those taken that needs a package of this name and is not content with less.
    fn needed_by(
        &self,
        package: &Archive,
        taken: &[Archive],
        content: impl Fn(&[index::Relation<'_>]) -> bool,
    ) -> Option<String> {
        let takes = |offer: &&Offer| taken.contains(&offer.archive);
        let user = self.offers.all().iter().filter(takes).find(|offer| {
            offer.needs().any(|group| {
                let named = group.iter().any(|needed| needed.package == package.package);
                named && !content(&group)
            })
        })?;
        Some(user.archive.title())
    }
}
