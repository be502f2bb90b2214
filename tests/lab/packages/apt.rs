//! apt with everything of its own: sources, lists, state, cache and architecture.
//!
//! Of this machine it takes the proxy and other transport settings. apt verifies indexes against the
//! Debian keyring; files of packages are checked against what an index or the lock file says of them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::sources::Mirrors;
use crate::command::{self, CommandError};
use crate::progress::Step;

/// apt's helper for single tasks: it fetches files as apt does, and reads compressed ones.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// What the C library calls a full disk.
const NO_ROOM: &str = "No space left on device";

/// Why the private apt did not deliver.
#[derive(Debug, Error)]
pub(crate) enum AptError {
    #[error("cannot write apt's private folder {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("apt did not do its work")]
    Command(#[from] CommandError),
    #[error("no room on the disk for {}: {answer}", path.display())]
    DiskFull { path: PathBuf, answer: String },
    #[error(
        "{} cannot be written: {answer}; if another user has filled the cache, give it back or remove it",
        path.display()
    )]
    Unwritable { path: PathBuf, answer: String },
}

/// A private apt for one architecture.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    architecture: &'static str,
}

/// A file to fetch, whole or not at all.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) uri: String,
    /// In hex.
    pub(super) sha256: String,
    pub(super) path: PathBuf,
}

impl Apt {
    /// Sets up apt in a folder below `folder`.
    pub(super) fn set_up(
        folder: &Path,
        name: &str,
        architecture: &'static str,
    ) -> Result<Self, AptError> {
        let apt = Self {
            folder: folder.join(format!("{name}-{architecture}")),
            architecture,
        };
        apt.write_settings()?;
        Ok(apt)
    }

    /// Names the mirrors that files are fetched from: some of apt's transports look up there how
    /// (`mirror+file:`).
    pub(super) fn name_mirrors(&self, mirrors: &Mirrors) -> Result<(), AptError> {
        let mut lines = String::new();
        for (mirrors_of, suite) in [
            (&mirrors.main, "trixie"),
            (&mirrors.security, "trixie-security"),
        ] {
            for mirror in mirrors_of {
                lines.push_str(&source_line(mirror, &mirrors.signatures, suite));
            }
        }
        self.write("sources.list", &lines)
    }

    /// Fetches a suite's index of packages from the mirror, if what is there is not the newest, and returns
    /// its text.
    pub(super) fn index(
        &self,
        mirror: &str,
        signatures: &str,
        suite: &str,
    ) -> Result<String, AptError> {
        self.write("sources.list", &source_line(mirror, signatures, suite))?;
        let mut update = self.command("apt-get");
        update.args(["update", "--error-on=any"]);
        self.output(update)?;
        let mut files = self.command("apt-get");
        files.args(["indextargets", "--format", "$(FILENAME)"]);
        files.arg("Created-By: Packages");
        let files = self.output(files)?;
        let mut read = self.command(HELPER);
        read.arg("cat-file").args(files.lines());
        self.output(read)
    }

    /// Runs a command of apt's and returns what it writes.
    fn output(&self, mut command: Command) -> Result<String, AptError> {
        command::output(&mut command).map_err(|error| match &error {
            CommandError::Failed { said, .. } if said.contains(NO_ROOM) => AptError::DiskFull {
                path: self.folder.clone(),
                answer: first_error(said),
            },
            _ => error.into(),
        })
    }

    /// Fetches the files, as many as can be had, while `step` shows how far it is. Returns the answer to
    /// each request for a file that did not arrive, by URI.
    pub(super) fn download(
        &self,
        files: &[Download],
        step: &Step,
    ) -> Result<HashMap<String, String>, AptError> {
        let mut helper = self.command(HELPER);
        helper.arg("download-file");
        for file in files {
            helper.arg(&file.uri).arg(&file.path);
            helper.arg(format!("SHA256:{}", file.sha256));
        }
        let start = |source| CommandError::Start {
            program: HELPER.to_owned(),
            source,
        };
        let (mut output, writer) = io::pipe().map_err(start)?;
        let errors = writer.try_clone().map_err(start)?;
        let mut child = helper
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .map_err(start)?;
        // It holds this process's copies of the pipe's end.
        drop(helper);
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            output.read_to_end(&mut said).map(|_| said)
        });
        let status = loop {
            if let Some(status) = child.try_wait().map_err(start)? {
                break status;
            }
            step.at_bytes(files.iter().map(|file| length(&file.path)).sum());
            thread::sleep(Duration::from_millis(100));
        };
        let said = said.join().unwrap_or_else(|_| Ok(Vec::new()));
        let said = said.map_err(start)?;
        let said = String::from_utf8_lossy(&said);
        let answers = answers(&said);
        if answers.is_empty() && !status.success() {
            return Err(AptError::Command(CommandError::Failed {
                program: HELPER.to_owned(),
                status: status.to_string(),
                said: said.into_owned(),
            }));
        }
        let Some(answer) = local_fault(&answers).cloned() else {
            return Ok(answers);
        };
        let path = files.first().map(|file| file.path.clone());
        let path = path.unwrap_or_default();
        Err(match answer.contains(NO_ROOM) {
            true => AptError::DiskFull { path, answer },
            false => AptError::Unwritable { path, answer },
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        // It would be in the way of the next lab.
        command::ends_with_its_starter(&mut command);
        command
    }

    fn write(&self, name: &str, content: &str) -> Result<(), AptError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|source| AptError::Write { path, source })
    }

    /// APT_CONFIG is read before everything else, so it can keep apt away from the machine's
    /// own configuration files; what concerns transport is carried over. A proxy cannot reach this
    /// machine's loopback. Caches of indexes' entries serve the installing of packages alone: none.
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
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{own}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
{}
Acquire::http::Proxy::127.0.0.1 "DIRECT";
Acquire::Languages {{ "none"; }};
Acquire::Retries "2";
"#,
            transport.join("\n")
        );
        self.write("apt.conf", &settings)
    }
}

fn source_line(mirror: &str, signatures: &str, suite: &str) -> String {
    format!("deb {signatures}{mirror} {suite} main\n")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// What apt said of files that did not arrive: a line `Err:NUMBER URI`, and the answer indented on the next
/// one. apt 3 puts the answers of earlier attempts before it; a mirror's answer says more than silence.
fn answers(log: &str) -> HashMap<String, String> {
    let mut answers = HashMap::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let uri = line
            .strip_prefix("Err:")
            .and_then(|rest| rest.split_once(' '))
            .map(|(_, uri)| uri.trim());
        let Some(uri) = uri else { continue };
        let mut all = Vec::new();
        while let Some(answer) = lines.next_if(|line| line.starts_with("  ")) {
            all.push(without_address(answer.trim()));
        }
        let is_answer = |answer: &&String| {
            answer.starts_with(['4', '5'])
                || answer.contains("mismatch")
                || answer.contains("unexpected size")
        };
        if let Some(answer) = all.iter().find(is_answer).or(all.first()) {
            answers.insert(unescaped(uri), answer.clone());
        }
    }
    answers
}

/// The line without the address of the server that sent it.
fn without_address(answer: &str) -> String {
    let end = answer.find(" [IP:").unwrap_or(answer.len());
    answer[..end]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// A URI without escapes: apt writes some characters so that it was given plain.
pub(super) fn unescaped(uri: &str) -> String {
    let mut parts = uri.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..2)
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[2..]);
            }
            None => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The answer that says that a file cannot be written, if one does: neither could another version's.
fn local_fault(answers: &HashMap<String, String>) -> Option<&String> {
    const FAULTS: [&str; 4] = [
        NO_ROOM,
        "Disk quota exceeded",
        "Permission denied",
        "Read-only file system",
    ];
    let is_fault = |answer: &&String| FAULTS.iter().any(|fault| answer.contains(fault));
    answers.values().find(is_fault)
}

/// Whether this is not a mirror's answer, but that there was none.
pub(super) fn is_silence(answer: &str) -> bool {
    [
        "Could not connect to",
        "Unable to connect to",
        "Cannot initiate the connection to",
        "Could not resolve",
        "failure resolving",
        "error resolving",
        "happened resolving",
        "Connection timed out",
        "connection timed out",
        "Connection failed",
    ]
    .iter()
    .any(|silence| answer.contains(silence))
}

/// The first error in what a failed apt said, without the server's address.
pub(super) fn first_error(said: &str) -> String {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("E: "))
        .or(said.lines().last())
        .unwrap_or_default();
    without_address(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_each_request_is_read_from_what_apt_says() {
        let log = "\
Ign:1 http://m.example/pool/c
Get:2 http://m.example/pool/a+b.deb [12 kB]
Err:3 http://m.example/pool/x%2b1.deb
  404  Not Found [IP: 192.0.2.1 80]
Err:1 http://m.example/pool/c
  Could not connect to m.example:80
Err:4 http://m.example/pool/d
  Connection timed out [IP: 192.0.2.1 80]
  404  Not Found [IP: 192.0.2.1 80]
E: Failed to fetch http://m.example/pool/x%2b1.deb  404  Not Found
";
        let answers = answers(log);
        assert_eq!(answers.len(), 3);
        // As apt 3 has it, with the answer to an earlier attempt.
        assert_eq!(answers["http://m.example/pool/d"], "404 Not Found");
        assert_eq!(answers["http://m.example/pool/x+1.deb"], "404 Not Found");
        assert_eq!(
            answers["http://m.example/pool/c"],
            "Could not connect to m.example:80"
        );
        assert_eq!(local_fault(&answers), None);
    }

    #[test]
    fn escapes_are_undone_where_they_are_whole() {
        assert_eq!(unescaped("a%7eb%2Bc%"), "a~b+c%");
        assert_eq!(unescaped("a%zzb%e9"), "a%zzb%e9");
    }
}
