//! What a run of the guest left behind, and whether it is as it should be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spapr_lab::tce_returns::TceReturns;
use thiserror::Error;

use super::stats::Stats;
use super::{Shown, Way};

/// The TCE hypercalls, with the names of the kernel's handlers after `kvmppc_h_`
/// (arch/powerpc/kvm/book3s_64_vio.c).
pub(super) const HYPERCALLS: [(&str, &str); 4] = [
    ("H_PUT_TCE", "put_tce"),
    ("H_PUT_TCE_INDIRECT", "put_tce_indirect"),
    ("H_STUFF_TCE", "stuff_tce"),
    ("H_GET_TCE", "get_tce"),
];

/// A call for which memory was locked is made again, and counted once: three pieces at most in each of four regions.
const MOST_MADE_AGAIN: u64 = 12;
/// The least single mappings that the guest's 2,048 small reads make.
const SINGLES_AT_LEAST: u64 = 1_000;
/// Those of a guest with a window as large as its memory are fewer: none are for reads.
const SINGLES_WITH_WINDOW: u64 = SINGLES_AT_LEAST / 10;
/// Of so many single mappings, one may reach the VMM where the kernel serves them: first mappings
/// lock memory, which is the VMM's work.
const ONE_EXIT_PER: u64 = 20;

/// Why the findings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum EvidenceError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not as expected: {line:?}", path.display())]
    Malformed { path: PathBuf, line: String },
}

/// What must be read from the NVMe, in hex.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) sha256: String,
    pub(super) small_sha256: String,
}

/// One run's findings.
#[derive(Debug)]
pub(super) struct Evidence {
    /// What was run.
    pub(super) shown: Shown,
    /// `kernel`, `page`, `cpu`, `device`: what the host says of itself.
    host: String,
    /// All the guest printed.
    console: String,
    /// All the VMM printed on standard error.
    errors: String,
    status: String,
    /// The VMM's counters, if it wrote them.
    pub(super) stats: Option<Stats>,
    /// In the order of [`HYPERCALLS`].
    pub(super) kernel: [TceReturns; 4],
    /// TceReturns that the kernel's probes could not count.
    missed: u64,
}

/// What is not as it should be.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Adds `failure` unless that holds.
    fn unless(&mut self, holds: bool, failure: String) {
        if !holds {
            self.0.push(failure);
        }
    }
}

impl Evidence {
    /// Reads what the demo's script left in the folder of this run.
    pub(super) fn read(findings: &Path, shown: Shown) -> Result<Self, EvidenceError> {
        let folder = findings.join(shown.name);
        let mut kernel = [TceReturns::default(); 4];
        for (returns, (_, handler)) in kernel.iter_mut().zip(HYPERCALLS) {
            let path = folder.join(handler);
            *returns = TceReturns::of_histogram(&read(&path)?).map_err(|line| {
                EvidenceError::Malformed {
                    path: path.clone(),
                    line,
                }
            })?;
        }
        Ok(Self {
            shown,
            host: read(&findings.join("host"))?,
            console: read(&folder.join("console"))?,
            errors: read(&folder.join("errors"))?,
            status: read(&folder.join("status"))?.trim().to_owned(),
            // A VMM that failed early writes none; the verdict says so.
            stats: read(&folder.join("stats.json"))
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok()),
            kernel,
            missed: missed(&read(&folder.join("missed"))?),
        })
    }

    /// What the host says of itself.
    pub(super) fn host(&self, key: &str) -> &str {
        value(&self.host, key).unwrap_or("?")
    }

    /// What the guest's job printed after `LAB-GUEST-<key>`.
    pub(super) fn guest(&self, key: &str) -> Option<&str> {
        value(&self.console, &format!("LAB-GUEST-{key}"))
    }

    /// Everything that is not as it should be; empty when all is well.
    pub(super) fn verdict(&self, expected: &Expected) -> Vec<String> {
        let mut failures = Failures::default();
        self.check_end(&mut failures);
        self.check_guest(expected, &mut failures);
        failures.unless(
            self.missed == 0,
            format!("the kernel missed {} returns", self.missed),
        );
        if let Some(stats) = &self.stats {
            failures.unless(
                stats.outcome == "power-off",
                format!("the run's outcome is {:?}", stats.outcome),
            );
            self.check_single_calls(stats.calls("H_PUT_TCE"), &mut failures);
        } else {
            failures.0.push("spapr-vmm wrote no statistics".to_owned());
        }
        failures.0
    }

    /// That the VMM ended well; if not, what it said first.
    fn check_end(&self, failures: &mut Failures) {
        if self.status != "0" {
            let failure = format!("spapr-vmm ended with status {}", self.status);
            failures.0.push(failure);
            let first_error = self.errors.lines().find(|line| !line.trim().is_empty());
            failures.0.extend(first_error.map(str::to_owned));
        }
    }

    /// That the guest had its processors, and read what the disk holds.
    fn check_guest(&self, expected: &Expected, failures: &mut Failures) {
        let job = self.guest("STATUS");
        failures.unless(
            job == Some("0"),
            format!("the guest's job ended with {}", job.unwrap_or("nothing")),
        );
        failures.unless(
            self.guest("CPUS") == Some("2"),
            "the guest does not have 2 CPUs".to_owned(),
        );
        for (key, wanted) in [
            ("SHA256", &expected.sha256),
            ("SMALL-SHA256", &expected.small_sha256),
        ] {
            let read = self.guest(key).unwrap_or("nothing");
            failures.unless(
                read == wanted,
                format!("the guest read {read} ({key}), the disk holds {wanted}"),
            );
        }
    }

    /// That single mappings were made where this way has them made: of all, the VMM counts `in_vmm`.
    fn check_single_calls(&self, in_vmm: u64, failures: &mut Failures) {
        let TceReturns { answered, left } = self.kernel[0];
        let (holds, expected) = match self.shown.way {
            Way::InVmm => (
                answered == 0 && in_vmm >= SINGLES_AT_LEAST,
                "all in the VMM",
            ),
            Way::InKernel => (
                answered >= SINGLES_AT_LEAST && in_vmm * ONE_EXIT_PER <= answered,
                "nearly all in the kernel",
            ),
            Way::DynamicWindow => (
                answered + in_vmm < SINGLES_WITH_WINDOW,
                "nearly none, for the guest can map all its memory at once",
            ),
        };
        failures.unless(
            holds,
            format!("{answered} H_PUT_TCE in the kernel, {in_vmm} in the VMM, not {expected}"),
        );
        failures.unless(
            left >= in_vmm && left - in_vmm <= MOST_MADE_AGAIN,
            format!("the kernel left {left} H_PUT_TCE to the VMM, which counts {in_vmm}"),
        );
    }
}

fn read(path: &Path) -> Result<String, EvidenceError> {
    let bytes = fs::read(path).map_err(|source| EvidenceError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The rest of the line that starts with the key and a blank; kernel messages may precede it.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let key = format!("{key} ");
    text.lines()
        .find_map(|line| Some(line[line.find(&key)?..][key.len()..].trim()))
}

/// The sum of the last column of `kprobe_profile`: name, hits, misses.
fn missed(profile: &str) -> u64 {
    profile
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::SHOWN;
    use super::*;

    #[test]
    fn a_value_is_found_behind_a_kernel_message() {
        let console = "[ 1.0] x LAB-GUEST-CPUS 2\r\nLAB-GUEST-STATUS 0\n";
        assert_eq!(value(console, "LAB-GUEST-CPUS"), Some("2"));
        assert_eq!(value(console, "LAB-GUEST-KERNEL"), None);
    }

    fn good(shown: Shown) -> Evidence {
        let (answered, left) = match shown.way {
            Way::InKernel => (2045, 3),
            Way::InVmm => (0, 2048),
            Way::DynamicWindow => (20, 3),
        };
        let stats =
            format!(r#"{{"outcome":"power-off","windows":[{{"calls":{{"H_PUT_TCE":{left}}}}}]}}"#);
        let mut kernel = [TceReturns::default(); 4];
        kernel[0] = TceReturns { answered, left };
        Evidence {
            shown,
            host: String::new(),
            console: "LAB-GUEST-CPUS 2\nLAB-GUEST-SHA256 aa\nLAB-GUEST-SMALL-SHA256 bb\n\
                      LAB-GUEST-STATUS 0\n"
                .to_owned(),
            errors: String::new(),
            status: "0".to_owned(),
            stats: serde_json::from_str(&stats).ok(),
            kernel,
            missed: 0,
        }
    }

    fn expected() -> Expected {
        Expected {
            sha256: "aa".to_owned(),
            small_sha256: "bb".to_owned(),
        }
    }

    #[test]
    fn good_runs_pass() {
        for shown in SHOWN {
            assert_eq!(good(shown).verdict(&expected()), Vec::<String>::new());
        }
    }

    #[test]
    fn a_wrong_digest_a_wrong_path_and_a_failed_vmm_do_not_pass() {
        let [auto, user, _] = SHOWN;
        let mut wrong = good(auto);
        wrong.console = wrong.console.replace("SHA256 aa", "SHA256 ab");
        assert_eq!(wrong.verdict(&expected()).len(), 1);

        for was in SHOWN {
            for other in SHOWN.into_iter().filter(|other| other.way != was.way) {
                let mut wrong = good(was);
                wrong.shown = other;
                assert_eq!(wrong.verdict(&expected()).len(), 1, "{was:?} as {other:?}");
            }
        }

        let mut wrong = good(user);
        wrong.status = "1".to_owned();
        wrong.stats = None;
        wrong.errors = "no /dev/kvm\n".to_owned();
        assert_eq!(wrong.verdict(&expected()).len(), 3);
    }
}
