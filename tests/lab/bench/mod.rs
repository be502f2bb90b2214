//! `cargo lab bench`: spapr-vmm, QEMU and the floors below both, measured in one run on one host, and
//! a report of it.

mod agreement;
mod charts;
mod compare;
mod defences;
mod html;
mod markdown;
mod names;
mod sections;
mod targets;
mod terminal;
mod text;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use spapr_lab::benchmark::results::Results;
use thiserror::Error;

use agreement::Agreement;

use crate::cli::{BenchArgs, Copy, Extra, Fetch, HostArgs};
use crate::command::{self, CommandError, quoted};
use crate::cross_build::{self, BuildError};
use crate::host::{DeviceKind, HostKind};
use crate::images::system::System;
use crate::images::{self, BootFiles};
use crate::kernels::{KernelArgs, PageSize};
use crate::packages;
use crate::progress::{columns_of_stdout, report, say};
use crate::session::{self, Session, SessionError};
use crate::steps::Steps;
use crate::workspace::{Workspace, WorkspaceError, at};

/// The host whose kernels a machine of its own boots as guests.
const HOST: HostKind = HostKind::P9Pages64k;
/// The program in the host.
const PROGRAM_IN_HOST: &str = "/usr/bin/spapr-bench";
/// The bare-metal guest in the host.
const GUEST_IN_HOST: &str = "/usr/lib/spapr-lab/guests/bench-guest";
/// A Debian system in the host.
const SYSTEM_IN_HOST: &str = "/usr/lib/spapr-lab/system";
/// Where the program leaves its results in the host.
const RESULTS_IN_HOST: &str = "/run/bench.json";
/// The guest's name among the test guests.
const GUEST: &str = "bench-guest";
/// The results in the report's folder.
const RESULTS: &str = "bench.json";

/// The report's tables and its page, there, too.
const TABLE: &str = "benchmarks.md";
const ROWS: &str = "rows.md";
const PAGE: &str = "index.html";

/// Why there is no report.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
    #[error("the program that measures ended with status {status}; its messages are above")]
    Failed { status: u8 },
    #[error("cannot run the program that measures")]
    Run(#[from] CommandError),
    #[error("{} is no result of a benchmark", path.display())]
    Results {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "--native needs a POWER machine (ppc64le); this is {}",
        std::env::consts::ARCH
    )]
    NotPower,
}

/// Measures and reports; status 0 when all that was to be measured was, and it agrees with what it is to
/// agree with. A missed target does not fail: the report says it.
pub(crate) fn run(workspace: &Workspace, args: &BenchArgs) -> Result<u8, BenchError> {
    if args.native && !cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        return Err(BenchError::NotPower);
    }
    let folder = workspace.root().join(&args.output);
    fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
    // What is compared with, too, before what takes minutes.
    let earlier = args.against.as_deref().map(read).transpose()?;
    let results = results(workspace, args, &folder.join(RESULTS))?;
    for omission in &results.omitted {
        say(&format!(
            "not measured: {}: {}",
            omission.what, omission.why
        ));
    }
    let table = markdown::short(&results);
    let rows = markdown::full(&results);
    let page = html::of(&results).into_string();
    for (name, content) in [(TABLE, &table), (ROWS, &rows), (PAGE, &page)] {
        let path = folder.join(name);
        fs::write(&path, content).map_err(at("write", &path))?;
    }
    // A terminal is too narrow for the tables.
    let shown = columns_of_stdout().map(|columns| terminal::verdicts(&results, columns));
    let shown = shown.as_ref().unwrap_or(&table);
    // The files have it where nobody reads this.
    let _ = std::io::stdout().lock().write_all(shown.as_bytes());
    say(&format!("report: {}", folder.join(PAGE).display()));
    let is_whole = results.omitted.is_empty() && !results.measured.is_empty();
    if results.measured.is_empty() {
        say("nothing was measured");
    }
    let Some(earlier) = earlier else {
        return Ok(u8::from(!is_whole));
    };
    let agreement = Agreement::of(&results, &earlier);
    say(&agreement.report());
    Ok(u8::from(!is_whole || !agreement.holds()))
}

/// The results that are reported on; they are in `file` then. What is there is overwritten by whole
/// results alone.
fn results(workspace: &Workspace, args: &BenchArgs, file: &Path) -> Result<Results, BenchError> {
    let Some(from) = &args.from else {
        match args.native {
            true => native(workspace, args, file)?,
            false => emulated(workspace, args, file)?,
        }
        return read(file);
    };
    let results = read(from)?;
    if from.canonicalize().ok() != file.canonicalize().ok() {
        fs::copy(from, file).map_err(at("write", file))?;
    }
    Ok(results)
}

/// Measures in an emulated host whose clock counts instructions.
fn emulated(workspace: &Workspace, args: &BenchArgs, results: &Path) -> Result<(), BenchError> {
    let program = cross_build::bench_program(workspace)?;
    let guest = guest(workspace)?;
    let mut host = HostArgs::plain(args.host);
    host.kernels = args.kernels;
    host.lpar.clone_from(&args.lpar);
    host.icount = true;
    host.hugepages = true;
    // The emulator keeps no count of the other's line.
    host.device = vec![DeviceKind::NvmeNoDbcs];
    host.with = vec![Extra::Qemu, Extra::NextQemu];
    let mut copies = vec![
        (program, PROGRAM_IN_HOST.to_owned()),
        (guest, GUEST_IN_HOST.to_owned()),
    ];
    let system = system(workspace, args.kernels, args.host.page_size()).map_err(Box::new)?;
    copies.extend([
        (system.disk, format!("{SYSTEM_IN_HOST}/disk.qcow2")),
        (system.initrd, format!("{SYSTEM_IN_HOST}/initrd")),
    ]);
    for (source, destination) in copies {
        host.copy.push(Copy {
            source,
            destination,
        });
    }
    host.fetch.push(Fetch {
        source: RESULTS_IN_HOST.to_owned(),
        destination: results.to_owned(),
    });
    let session = Session {
        host: &host,
        script: Some(script(workspace, args, &host)?),
        environment: String::new(),
        timeout: None,
    };
    let mut steps = Steps::default();
    let ended = session.run(workspace, &mut steps, None).map_err(Box::new)?;
    match ended.status {
        0 => Ok(()),
        status => Err(BenchError::Failed { status }),
    }
}

/// What runs in the host. It is given some seconds to settle: its own background work counts, too.
fn script(workspace: &Workspace, args: &BenchArgs, host: &HostArgs) -> Result<String, BenchError> {
    let differences = session::differences(workspace, host).map_err(Box::new)?;
    let mut packages = packages::standing(&differences);
    if !differences.is_empty() {
        let _ = write!(packages, ": {}", differences.join("; "));
    }
    let mut more = format!(" --packages {}", quoted(&packages));
    if args.kernels.guest_kernel.is_some() || args.kernels.guest_pages.is_some() {
        let kernel = args.kernels.of_guests(host.host.page_size());
        let kernel = kernel.map_err(|error| Box::new(SessionError::GuestKernel(error)))?;
        let _ = write!(more, " --guest-kernel {}", quoted(&kernel.name()));
    }
    for word in &args.only {
        let _ = write!(more, " --only {}", quoted(word));
    }
    Ok(format!(
        "sleep 5
         line=${{LAB_DEVICES##*nvme-no-dbcs=}}
         exec {PROGRAM_IN_HOST} run --output {RESULTS_IN_HOST} --guest {GUEST_IN_HOST} \
             --next-qemu qemu-system-ppc64-next \
             --kernel /boot/vmlinux --initrd /boot/initrd --system {SYSTEM_IN_HOST} \
             --counts-instructions \
             --vfio $LAB_NVME --second $LAB_NIC --by-line ${{line%% *}}{more}"
    ))
}

/// Measures on this machine.
fn native(workspace: &Workspace, args: &BenchArgs, results: &Path) -> Result<(), BenchError> {
    let vmm = cross_build::vmm(workspace)?;
    let program = cross_build::bench_program(workspace)?;
    let guest = guest(workspace)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--output").arg(results);
    command.arg("--guest").arg(guest).arg("--vmm").arg(vmm);
    match linux(workspace, args.kernels) {
        Ok(boot) => {
            command.arg("--kernel").arg(boot.kernel);
            command.arg("--initrd").arg(boot.initrd);
            command.arg("--guest-kernel").arg(boot.version);
            match system(workspace, args.kernels, HOST.page_size()) {
                Ok(system) => {
                    let folder = system.disk.parent();
                    command.args(
                        folder
                            .into_iter()
                            .flat_map(|it| [OsStr::new("--system"), it.as_os_str()]),
                    );
                }
                Err(error) => report(&error),
            }
        }
        Err(error) => {
            report(&error);
            say("so no Linux guest is measured");
        }
    }
    for (option, device) in ["--vfio", "--second"].into_iter().zip(&args.vfio) {
        command.arg(option).arg(device);
    }
    for word in &args.only {
        command.arg("--only").arg(word);
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|source| CommandError::Start {
            program: command::shown(&command),
            source,
        })?;
    if status.success() {
        return Ok(());
    }
    let status = status.code().and_then(|code| u8::try_from(code).ok());
    Err(BenchError::Failed {
        status: status.unwrap_or(u8::MAX),
    })
}

/// The Linux guest: Debian's kernel and the lab's initial RAM disk.
fn linux(workspace: &Workspace, kernels: KernelArgs) -> Result<BootFiles, SessionError> {
    let _locked = workspace.lock()?;
    let kernel = kernels.of_guests(HOST.page_size());
    let kernel = kernel.map_err(SessionError::GuestKernel)?;
    Ok(images::of_guest(workspace, kernel)?)
}

/// A Debian system for the Linux guest's kernel.
fn system(
    workspace: &Workspace,
    kernels: KernelArgs,
    host_pages: PageSize,
) -> Result<System, SessionError> {
    let _locked = workspace.lock()?;
    let kernel = kernels.of_guests(host_pages);
    let kernel = kernel.map_err(SessionError::GuestKernel)?;
    Ok(images::system::of_guest(workspace, kernel)?)
}

fn guest(workspace: &Workspace) -> Result<PathBuf, BenchError> {
    let guests = cross_build::test_guests(workspace)?;
    let guest = guests
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name == GUEST));
    Ok(guest.ok_or(BuildError::NoExecutable { what: GUEST })?)
}

fn read(path: &Path) -> Result<Results, BenchError> {
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    serde_json::from_str(&text).map_err(|source| BenchError::Results {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_from(from: &Path, output: &Path) -> Result<u8, BenchError> {
        let args = BenchArgs {
            host: HOST,
            lpar: Vec::new(),
            kernels: KernelArgs::default(),
            native: false,
            vfio: Vec::new(),
            output: output.to_owned(),
            only: Vec::new(),
            against: None,
            from: Some(from.to_owned()),
        };
        run(&Workspace::open("test").unwrap(), &args)
    }

    #[test]
    fn results_that_cannot_be_read_are_named_and_leave_the_earlier_ones_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (from, output) = (
            folder.path().join("from.json"),
            folder.path().join("report"),
        );
        fs::create_dir(&output).unwrap();
        let earlier = output.join(RESULTS);
        fs::write(&earlier, "earlier results").unwrap();
        let error = report_from(&from, &output).unwrap_err().to_string();
        assert!(error.contains("from.json"), "{error}");
        fs::write(&from, "no JSON").unwrap();
        let error = report_from(&from, &output).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{} is no result of a benchmark", from.display())
        );
        assert_eq!(fs::read_to_string(&earlier).unwrap(), "earlier results");
    }

    #[test]
    fn the_results_reported_on_are_put_beside_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let (from, output) = (
            folder.path().join("from.json"),
            folder.path().join("report"),
        );
        let text = serde_json::to_string(&Results::default()).unwrap();
        fs::write(&from, &text).unwrap();
        // Nothing was measured, which is no success.
        assert_eq!(report_from(&from, &output).unwrap(), 1);
        assert_eq!(fs::read_to_string(output.join(RESULTS)).unwrap(), text);
        assert!(output.join(PAGE).exists());
        // From there again.
        assert_eq!(report_from(&output.join(RESULTS), &output).unwrap(), 1);
    }
}
