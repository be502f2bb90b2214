//! apt with everything of its own: sources, lists, state, cache and architecture.
//!
//! Of this machine it takes the mirror, the proxy and other transport settings, and the Debian
//! keyring. apt verifies all it fetches against that keyring.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::command::{self, CommandError};
use crate::progress::Step;

/// Why the private apt did not deliver.
#[derive(Debug, Error)]
pub(crate) enum AptError {
    #[error("cannot write apt's private folder {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "this machine's package sources name no Debian mirror; `apt-get update --print-uris` shows what they name"
    )]
    NoMirror,
    #[error("/etc/os-release does not name this machine's Debian release (VERSION_CODENAME)")]
    NoCodename,
    #[error(
        "this machine's package sources offer no Debian {release}; if its keyring is too old for it, run: apt-get install debian-archive-keyring"
    )]
    NoRelease {
        release: &'static str,
        #[source]
        source: CommandError,
    },
    #[error("apt did not do its work")]
    Command(#[from] CommandError),
    #[error("the package {package} depends on nothing, but should point to a kernel")]
    PointsNowhere { package: String },
}

/// A private apt for one release and architecture, its package lists fetched.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    architecture: &'static str,
}

impl Apt {
    /// Sets up apt in a folder below `folder` and fetches the package lists.
    pub(crate) fn prepare(
        folder: &Path,
        release: &'static str,
        architecture: &'static str,
    ) -> Result<Self, AptError> {
        let apt = Self {
            folder: folder.join(format!("{release}-{architecture}")),
            architecture,
        };
        apt.write_settings()?;
        let step = Step::start(format!(
            "fetching Debian {release}'s package lists ({architecture})"
        ));
        let mut outcome = Err(AptError::NoMirror);
        for mirror in mirrors()? {
            apt.write("sources.list", &source_line(&mirror, release))?;
            let mut update = apt.command("apt-get");
            update.args(["update", "--error-on=any"]);
            outcome = match command::output(&mut update) {
                Ok(_) => Ok(()),
                Err(source) => Err(AptError::NoRelease { release, source }),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
        step.done();
        Ok(apt)
    }

    /// The packages that `package` depends on directly.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>, AptError> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--important", package]);
        let packages: Vec<String> = command::output(&mut depends)?
            .lines()
            .filter_map(|line| Some(line.trim().strip_prefix("Depends:")?.trim().to_owned()))
            .collect();
        if packages.is_empty() {
            return Err(AptError::PointsNowhere {
                package: package.to_owned(),
            });
        }
        Ok(packages)
    }

    /// Downloads the packages into `into`.
    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<(), AptError> {
        let mut download = self.command("apt-get");
        download.arg("download").args(packages).current_dir(into);
        let mut plan = self.command("apt-get");
        plan.args(["download", "--print-uris"])
            .args(packages)
            .current_dir(into);
        self.watch(&packages.join(", "), download, plan, into)
    }

    /// Downloads the package, or several with spaces between, and all they need to run into `into`.
    pub(crate) fn download_with_dependencies(
        &self,
        package: &str,
        into: &Path,
    ) -> Result<(), AptError> {
        let command = |extra: &str| {
            let mut command = self.command("apt-get");
            command.args(["install", "--yes", extra]);
            command.args(package.split_whitespace());
            command
                .arg("--option")
                .arg(format!("Dir::Cache::archives={}", into.display()));
            command
        };
        let partial = into.join("partial");
        fs::create_dir_all(&partial).map_err(|source| AptError::Write {
            path: partial,
            source,
        })?;
        self.watch(
            package,
            command("--download-only"),
            command("--print-uris"),
            into,
        )
    }

    /// Runs `download`, showing how much of what `plan` announces has arrived.
    fn watch(
        &self,
        what: &str,
        mut download: Command,
        mut plan: Command,
        into: &Path,
    ) -> Result<(), AptError> {
        let total = planned_bytes(&command::output(&mut plan)?);
        let title = format!(
            "downloading {what} ({}), {} MB",
            self.architecture,
            total / 1_000_000
        );
        let step = Step::start(title);
        step.expect_bytes(total);
        let log = into.join("apt.log");
        let write_error = |source| AptError::Write {
            path: log.clone(),
            source,
        };
        let output = fs::File::create(&log).map_err(write_error)?;
        let errors = output.try_clone().map_err(write_error)?;
        let start = |command: &Command, source| CommandError::Start {
            program: command::shown(command),
            source,
        };
        let mut child = download
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|source| start(&download, source))?;
        let status = loop {
            match child
                .try_wait()
                .map_err(|source| start(&download, source))?
            {
                Some(status) => break status,
                None => report(&step, into),
            }
        };
        if !status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let program = command::shown(&download);
            return Err(CommandError::Failed {
                program,
                status: status.to_string(),
                said,
            }
            .into());
        }
        step.done();
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }

    fn write(&self, name: &str, content: &str) -> Result<(), AptError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|source| AptError::Write { path, source })
    }

    /// APT_CONFIG is read before everything else, so it can keep apt away from the machine's
    /// own configuration files; what concerns transport is carried over.
    fn write_settings(&self) -> Result<(), AptError> {
        for folder in ["lists/partial", "archives/partial", "none"] {
            let path = self.folder.join(folder);
            fs::create_dir_all(&path).map_err(|source| AptError::Write { path, source })?;
        }
        self.write("status", "")?;
        let machine = command::output(Command::new("apt-config").arg("dump").env("LC_ALL", "C"))?;
        let transport: Vec<&str> = machine
            .lines()
            .filter(|line| line.starts_with("Acquire::"))
            .filter(|line| !line.starts_with("Acquire::IndexTargets"))
            .collect();
        let own = self.folder.display();
        let architecture = self.architecture;
        let settings = format!(
            r#"Dir::Etc "{own}";
Dir::Etc::main "none/none";
Dir::Etc::parts "none";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::Etc::preferencesparts "none";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::State "{own}";
Dir::State::lists "lists";
Dir::State::status "{own}/status";
Dir::Cache "{own}";
Dir::Cache::archives "archives";
Dir::Log "{own}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
{}
Acquire::Languages {{ "none"; }};
"#,
            transport.join("\n")
        );
        self.write("apt.conf", &settings)
    }
}

/// Says how far the download is, then waits a moment.
fn report(step: &Step, into: &Path) {
    step.at_bytes(bytes_in(into) + bytes_in(&into.join("partial")));
    thread::sleep(Duration::from_millis(100));
}

fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

/// The sizes in the output of `--print-uris`: 'URI' file size hash.
fn planned_bytes(plan: &str) -> u64 {
    plan.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

fn source_line(mirror: &str, release: &str) -> String {
    let keyring = ["gpg", "pgp"]
        .map(|kind| format!("/usr/share/keyrings/debian-archive-keyring.{kind}"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let signed_by = keyring
        .map(|path| format!("[signed-by={path}] "))
        .unwrap_or_default();
    format!("deb {signed_by}{mirror} {release} main\n")
}

/// The mirrors from which this machine's own sources take its own release.
fn mirrors() -> Result<Vec<String>, AptError> {
    let release = fs::read_to_string("/etc/os-release").map_err(|_| AptError::NoCodename)?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"').to_owned())
        .ok_or(AptError::NoCodename)?;
    let mut print = Command::new("apt-get");
    print.args(["update", "--print-uris"]).env("LC_ALL", "C");
    let mirrors = mirrors_of(&command::output(&mut print)?, &codename);
    if mirrors.is_empty() {
        Err(AptError::NoMirror)
    } else {
        Ok(mirrors)
    }
}

fn mirrors_of(uris: &str, codename: &str) -> Vec<String> {
    let ending = format!("/dists/{codename}/InRelease");
    let mut mirrors: Vec<String> = uris
        .lines()
        .filter_map(|line| {
            line.strip_prefix('\'')?
                .split('\'')
                .next()?
                .strip_suffix(&ending)
        })
        .map(str::to_owned)
        .collect();
    // Other projects name their releases after Debian's; Debian's own mirrors first.
    mirrors.sort_by_key(|mirror| !mirror.ends_with("/debian"));
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_the_machines_own_release_comes_first() {
        let uris = "\
            'http://other.example/tool/dists/bookworm/InRelease' a 0 \n\
            'http://mirror.example/debian/dists/bookworm/InRelease' b 0 \n\
            'http://mirror.example/debian/dists/bookworm-updates/InRelease' c 0 \n";
        assert_eq!(
            mirrors_of(uris, "bookworm"),
            ["http://mirror.example/debian", "http://other.example/tool"]
        );
    }

    #[test]
    fn planned_bytes_are_summed() {
        let plan =
            "Reading lists\n'http://m/a.deb' a.deb 10 SHA256:0\n'http://m/b.deb' b.deb 32 X\n";
        assert_eq!(planned_bytes(plan), 42);
    }
}
