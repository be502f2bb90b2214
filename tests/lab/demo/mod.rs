//! `cargo lab demo`: one guest with a passed-through NVMe, run once for each way to serve its TCE
//! hypercalls, and a table of what happened.

mod evidence;
mod stats;
mod table;

use std::io::Write;
use std::path::Path;

use thiserror::Error;

use crate::cli::{DemoArgs, Fetch, HostArgs};
use crate::images::nvme;
use crate::packages;
use crate::progress::{columns_of_stdout, say};
use crate::session::{self, Session, SessionError};
use crate::steps::Steps;
use crate::workspace::{Workspace, WorkspaceError, at};

use evidence::{Evidence, EvidenceError, Expected};

/// What runs in the host; it leaves its findings in [`FINDINGS`].
const SCRIPT: &str = include_str!("demo.sh");
/// The folder in the host where the script leaves files.
const FINDINGS: &str = "/run/demo";
/// What is shown: the ways to serve TCE hypercalls, with the default window alone, so that the guest makes
/// them, and what a guest has by default.
const SHOWN: [Shown; 3] = [
    Shown {
        name: "auto",
        options: "--tce auto --ddw off",
        way: Way::InKernel,
    },
    Shown {
        name: "user",
        options: "--tce user --ddw off",
        way: Way::InVmm,
    },
    Shown {
        name: "default",
        options: "--tce auto --ddw auto",
        way: Way::DynamicWindow,
    },
];

/// A run of the guest.
#[derive(Debug, Clone, Copy)]
struct Shown {
    /// What its folder is called.
    name: &'static str,
    /// The options of `spapr-vmm run` that it differs in.
    options: &'static str,
    /// What is to be seen of it.
    way: Way,
}

/// The way of single mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel serves them, but the first ones.
    InKernel,
    /// The VMM serves all.
    InVmm,
    /// There are hardly any: the guest has mapped all its memory.
    DynamicWindow,
}

/// The bytes that the guest reads in small pieces.
const SMALL_READ_BYTES: u64 = 1 << 20;

/// Why the demo could not be shown.
#[derive(Debug, Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
    #[error("the run left incomplete findings; the host's log is in {logs}")]
    Evidence {
        logs: String,
        #[source]
        source: EvidenceError,
    },
}

/// Runs the demo; status 0 only when everything was as it should be.
pub(crate) fn run(workspace: &Workspace, args: &DemoArgs) -> Result<u8, DemoError> {
    let folder = tempfile::tempdir().map_err(at("write in", &std::env::temp_dir()))?;
    let findings = folder.path().join("findings");
    let mut host = HostArgs::plain(args.host);
    host.kernels = args.kernels;
    host.lpar.clone_from(&args.lpar);
    host.fetch.push(Fetch {
        source: FINDINGS.to_owned(),
        destination: findings.clone(),
    });
    let session = Session {
        host: &host,
        script: Some(SCRIPT.to_owned()),
        environment: environment(),
        timeout: None,
    };
    let packages = session::differences(workspace, &host).map_err(Box::new)?;
    let mut steps = Steps::default();
    let ended = session.run(workspace, &mut steps, None).map_err(Box::new)?;
    drop(steps);
    let stock = nvme::stock(workspace)?;
    let expected = Expected {
        sha256: stock.data_sha256.clone(),
        small_sha256: nvme::digest_of(&stock.disk, 0, SMALL_READ_BYTES)?,
    };
    let mut runs = Vec::new();
    for shown in SHOWN {
        let evidence = Evidence::read(&findings, shown).map_err(|source| DemoError::Evidence {
            logs: ended.logs.display().to_string(),
            source,
        })?;
        keep(&findings, shown.name, &ended.logs)?;
        runs.push((evidence.verdict(&expected), evidence));
    }
    let passed = ended.status == 0 && runs.iter().all(|(verdict, _)| verdict.is_empty());
    let standing = packages::standing(&packages);
    let table = table::of(&runs, &expected, &standing, columns_of_stdout());
    // The exit status says the result even where nobody reads the table.
    let _ = writeln!(std::io::stdout().lock(), "{table}");
    if !packages.is_empty() {
        packages::tell(&packages);
    }
    for (verdict, evidence) in &runs {
        for failure in verdict {
            say(&format!("{}: {failure}", evidence.shown.options));
        }
    }
    say(&format!("logs: {}", ended.logs.display()));
    Ok(u8::from(!passed))
}

/// Tells the script what to run, a line each.
fn environment() -> String {
    let runs = SHOWN.map(|shown| format!("{} {}", shown.name, shown.options));
    format!("export LAB_DEMO_RUNS='{}'", runs.join("\n"))
}

/// Puts the guest's console and the VMM's messages beside the host's log.
fn keep(findings: &Path, name: &str, logs: &Path) -> Result<(), WorkspaceError> {
    for file in ["console", "errors", "stats.json"] {
        let from = findings.join(name).join(file);
        let to = logs.join(format!("{name}-{file}"));
        if from.exists() {
            std::fs::copy(&from, &to).map_err(at("write", &to))?;
        }
    }
    Ok(())
}
