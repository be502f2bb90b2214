//! `cargo lab order`: which functions spapr-vmm runs, and a linker script that has them one after the other.
//!
//! A page of the program that holds one function that runs is resident as a whole, and on POWER hosts pages have 64 KiB.
//! In the compiler's order nearly every page has something that runs; placed together, what runs fills a third of them.

mod program;
mod script;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::cli::HostArgs;
use crate::cross_build::{self, BuildError};
use crate::exec::Passed;
use crate::host::{CodeLog, HostKind};
use crate::progress::say;
use crate::session::{Session, SessionError};
use crate::workspace::{Workspace, WorkspaceError, at};

use program::{Program, ProgramError};
use script::{Libraries, LibrariesError};

/// Runs a guest until it has done what the scenario is about, and kills its VMM, so that code for shutting down is not
/// counted.
const SCRIPT: &str = include_str!("scenario.sh");

/// Where the linker script is, from the workspace's root.
const SCRIPT_PATH: &str = "vmm/text-order.ld";

/// What the programs are seen doing, each in a host of its own, for the emulator tells what runs once.
const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "device",
        runner: "device",
        program: "spapr-vmm",
    },
    // What it runs beside lies among what runs at the start of each guest with a device: in pages of its own, its first
    // mapping would wait for them.
    Scenario {
        name: "user",
        runner: "device",
        program: "spapr-vmm",
    },
    Scenario {
        name: "virtio",
        runner: "virtio",
        program: "spapr-vmm",
    },
    Scenario {
        name: "front-end",
        runner: "front-end",
        program: "spapr-vmm-qemu",
    },
];

/// Something that a program does.
struct Scenario {
    /// What the script calls it.
    name: &'static str,
    /// Whose functions it shows, together with other scenarios.
    runner: &'static str,
    /// Which of the programs does it.
    program: &'static str,
}

/// Why there is no linker script.
#[derive(Debug, Error)]
pub(crate) enum OrderError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
    #[error("no program {0} was built")]
    NotBuilt(&'static str),
    #[error(
        "the guest of scenario {scenario:?} did not do its work (status {status}); its console is above"
    )]
    Scenario { scenario: &'static str, status: u8 },
    #[error("cannot read the program {}", path.display())]
    Program {
        path: PathBuf,
        #[source]
        source: ProgramError,
    },
    #[error("the emulator's log {} names no function of the program", path.display())]
    NothingRan { path: PathBuf },
    #[error(transparent)]
    Libraries(#[from] LibrariesError),
}

/// Runs every scenario and writes the script.
pub(crate) fn run(workspace: &Workspace) -> Result<u8, OrderError> {
    let built = cross_build::vmm_and_front_end(workspace)?;
    let libraries = Libraries::of_target()?;
    let folder = tempfile::tempdir().map_err(at("write in", &std::env::temp_dir()))?;
    // Who runs something of a section.
    let mut sections: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for scenario in &SCENARIOS {
        let path = built
            .iter()
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name == scenario.program)
            })
            .ok_or(OrderError::NotBuilt(scenario.program))?;
        let program = Program::read(path).map_err(at_program(path))?;
        let log = folder.path().join(scenario.name);
        watch(workspace, scenario, &program, &log)?;
        let reader = BufReader::new(File::open(&log).map_err(at("read", &log))?);
        let ran = program.ran(reader).map_err(at("read", &log))?;
        if ran.names.is_empty() {
            return Err(OrderError::NothingRan { path: log });
        }
        say(&format!(
            "{}: functions of {} KiB run, of {} KiB",
            scenario.name,
            ran.bytes >> 10,
            program.function_bytes() >> 10
        ));
        for section in libraries.sections(&ran.names) {
            let runners = sections.entry(section).or_default();
            if !runners.contains(&scenario.runner) {
                runners.push(scenario.runner);
            }
        }
    }
    let path = workspace.root().join(SCRIPT_PATH);
    fs::write(&path, script::text(&sections)).map_err(at("write", &path))?;
    say(&format!("{SCRIPT_PATH} names {} sections", sections.len()));
    Ok(0)
}

/// Has a program do something in a host whose emulator logs what runs.
fn watch(
    workspace: &Workspace,
    scenario: &Scenario,
    program: &Program,
    log: &Path,
) -> Result<(), OrderError> {
    let mut host = HostArgs::plain(HostKind::P9Pages64k);
    host.code_log = Some(CodeLog {
        addresses: program.addresses(),
        path: log.to_owned(),
    });
    let session = Session {
        host: &host,
        script: Some(SCRIPT.to_owned()),
        environment: format!("export LAB_SCENARIO={}\n", scenario.name),
        timeout: None,
    };
    let ended = session
        .run(workspace, &mut Passed, None)
        .map_err(Box::new)?;
    match ended.status {
        0 => Ok(()),
        status => Err(OrderError::Scenario {
            scenario: scenario.name,
            status,
        }),
    }
}

fn at_program(path: &Path) -> impl FnOnce(ProgramError) -> OrderError {
    let path = path.to_owned();
    move |source| OrderError::Program { path, source }
}
