//! `cargo lab fuzz`: the targets of tests/fuzz under libFuzzer, on this machine.
//!
//! libFuzzer finds its way by counters in the code, which the compiler puts there by options that need no
//! nightly toolchain. Inputs that reach something new stay in `target/fuzz/corpus/TARGET`, and those that have a
//! target panic, hang or take too much memory in `target/fuzz/found/TARGET`.

mod build;
mod said;
mod table;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::cli::FuzzArgs;
use crate::command::{self, CommandError};
use crate::progress::{report, say};
use crate::tools::ToolError;
use crate::workspace::{Workspace, WorkspaceError, at};
use build::BuildError;
use said::Said;

/// One input may take so long, in seconds, before it counts as a hang: some start threads, on a machine that may
/// have other things to do.
const INPUT_MOST_SECONDS: u32 = 20;
/// And the process so much memory, in MiB.
const MOST_MEBIBYTES: u32 = 2048;
/// Inputs may be long from the start: libFuzzer would rather stay with short ones, which do little here.
const LENGTH_CONTROL: u32 = 0;

/// Why nothing was fuzzed.
#[derive(Debug, Error)]
pub(crate) enum FuzzError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot run a fuzz target")]
    Command(#[from] CommandError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("there is no fuzz target {name}; there are {known}")]
    NoSuchTarget { name: String, known: String },
}

/// A target, as the program lists it.
#[derive(Clone)]
struct Target {
    name: String,
    most_bytes: String,
    what: String,
}

/// What came of a target.
struct Outcome {
    name: String,
    said: Said,
    took: Duration,
    result: Result<(), String>,
}

/// Fuzzes, and returns 0 when nothing was found.
pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<u8, FuzzError> {
    let program = build::program(workspace)?;
    let all = targets(&program)?;
    if args.list {
        table::list(&all);
        return Ok(0);
    }
    let chosen = choose(&all, &args.target)?;
    let fuzzer = Fuzzer {
        program,
        kept: workspace.root().join("tests/fuzz/corpus"),
        folder: workspace.root().join("target/fuzz"),
        seconds: args.seconds,
    };
    let outcomes = fuzzer.run_all(&chosen, args.jobs)?;
    if args.keep {
        for target in &chosen {
            fuzzer.keep(target)?;
        }
    }
    let found = outcomes.iter().filter(|outcome| outcome.result.is_err());
    Ok(u8::from(found.count() > 0))
}

fn targets(program: &Path) -> Result<Vec<Target>, FuzzError> {
    let mut command = Command::new(program);
    command.env_remove(TARGET_VARIABLE);
    let listed = command::output(&mut command)?;
    let lines = listed.lines().filter_map(|line| {
        let mut columns = line.splitn(3, '\t').map(str::to_owned);
        Some(Target {
            name: columns.next()?,
            most_bytes: columns.next()?,
            what: columns.next()?,
        })
    });
    Ok(lines.collect())
}

/// By this the program knows which target it is.
const TARGET_VARIABLE: &str = "SPAPR_FUZZ_TARGET";

/// The targets that were named, or all of them.
fn choose(all: &[Target], names: &[String]) -> Result<Vec<Target>, FuzzError> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: &String| {
        let found = all.iter().find(|target| target.name == *name);
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|target| target.name.as_str()).collect();
            FuzzError::NoSuchTarget {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    };
    names.iter().map(find).collect()
}

struct Fuzzer {
    program: PathBuf,
    /// Where the inputs are that are in the tree, a folder for each target.
    kept: PathBuf,
    /// Where everything else goes.
    folder: PathBuf,
    seconds: u32,
}

impl Fuzzer {
    /// Runs the targets, so many at a time, and tells of each as it ends.
    fn run_all(&self, targets: &[Target], jobs: usize) -> Result<Vec<Outcome>, FuzzError> {
        let count = targets.len();
        let seconds = self.seconds;
        say(&format!(
            "{count} fuzz targets, {jobs} at a time, {seconds} s each"
        ));
        table::heading();
        let waiting = Mutex::new(targets.iter());
        let next = || waiting.lock().ok()?.next();
        let work = || -> Result<Vec<Outcome>, FuzzError> {
            let mut outcomes = Vec::new();
            while let Some(target) = next() {
                let outcome = self.run(target)?;
                table::row(&outcome);
                outcomes.push(outcome);
            }
            Ok(outcomes)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let mut all = Vec::new();
            for worker in workers {
                let outcomes = worker.join();
                all.extend(outcomes.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    fn run(&self, target: &Target) -> Result<Outcome, FuzzError> {
        let grown = self.made("corpus", target)?;
        let found = self.made("found", target)?;
        let log = self.log(target);
        let before = entries(&found);
        let mut command = self.command(target)?;
        command
            .arg(&grown)
            .args(Some(self.kept.join(&target.name)).filter(|kept| kept.is_dir()))
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-max_len={}", target.most_bytes))
            .arg(format!("-len_control={LENGTH_CONTROL}"))
            .arg(format!("-artifact_prefix={}/", found.display()));
        let started = Instant::now();
        let status = run_to_its_end(&mut command)?;
        let took = started.elapsed();
        let text = fs::read_to_string(&log).map_err(at("read", &log))?;
        let said = Said::read(&text);
        let new: Vec<PathBuf> = entries(&found)
            .into_iter()
            .filter(|path| !before.contains(path))
            .collect();
        let result = match (status.success(), new.first()) {
            (true, _) => Ok(()),
            (false, Some(input)) => Err(format!("{} ({})", said.why(), input.display())),
            (false, None) => Err(format!("{status}; see {}", log.display())),
        };
        Ok(Outcome {
            name: target.name.clone(),
            said,
            took,
            result,
        })
    }

    /// Adds to the inputs in the tree those that reach what none of them does, as few as will do.
    fn keep(&self, target: &Target) -> Result<(), FuzzError> {
        let kept = self.kept.join(&target.name);
        fs::create_dir_all(&kept).map_err(at("make the folder", &kept))?;
        let before = entries(&kept).len();
        let mut command = self.command(target)?;
        // By edges alone: how often each is passed would have ten times as many inputs be kept.
        command.args(["-set_cover_merge=1", "-use_counters=0", "-use_cmp=0"]);
        command.arg(&kept);
        command.arg(self.made("corpus", target)?);
        let status = run_to_its_end(&mut command)?;
        let after = entries(&kept).len();
        let name = &target.name;
        match status.success() {
            true => say(&format!("{name}: {after} inputs are kept, {before} before")),
            false => report(&io::Error::other(format!(
                "{name}: {status}; see {}",
                self.log(target).display()
            ))),
        }
        Ok(())
    }

    /// The target's program, whose words go to its log.
    fn command(&self, target: &Target) -> Result<Command, FuzzError> {
        let log = self.log(target);
        let file = File::create(&log).map_err(at("write", &log))?;
        let other = file.try_clone().map_err(at("write", &log))?;
        let mut command = Command::new(&self.program);
        command
            .env(TARGET_VARIABLE, &target.name)
            .arg(format!("-timeout={INPUT_MOST_SECONDS}"))
            .arg(format!("-rss_limit_mb={MOST_MEBIBYTES}"))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other);
        command::ends_with_its_starter(&mut command);
        Ok(command)
    }

    fn log(&self, target: &Target) -> PathBuf {
        self.folder.join(format!("{}.log", target.name))
    }

    fn made(&self, kind: &str, target: &Target) -> Result<PathBuf, WorkspaceError> {
        let folder = self.folder.join(kind).join(&target.name);
        fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
        Ok(folder)
    }
}

fn run_to_its_end(command: &mut Command) -> Result<ExitStatus, CommandError> {
    command.status().map_err(|source| CommandError::Start {
        program: command::shown(command),
        source,
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
