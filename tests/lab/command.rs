//! Running programs of this machine, with errors that show what they said.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use thiserror::Error;

/// How many of a failed program's last lines the message shows.
const LINES_SHOWN: usize = 12;

/// Why a program's work was not done.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} ended with {status}; it said:\n{said}")]
    Failed {
        program: String,
        status: String,
        said: String,
    },
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Asks the kernel to kill the program when the thread that starts it ends, however it ends.
pub(crate) fn ends_with_its_starter(command: &mut Command) {
    let arrange = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec only async-signal-safe work is allowed; the closure makes one
    // system call and touches no memory of the parent's.
    unsafe {
        command.pre_exec(arrange);
    }
}

/// Runs the command to its end and returns its standard output; failure shows what it said last.
pub(crate) fn output(command: &mut Command) -> Result<String, CommandError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| CommandError::Start {
            program: shown(command),
            source,
        })?;
    checked(command, &output)
}

/// Checks how a command ended.
pub(crate) fn checked(command: &Command, output: &Output) -> Result<String, CommandError> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().chain(errors.lines()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    Err(CommandError::Failed {
        program: shown(command),
        status: output.status.to_string(),
        said: last.join("\n"),
    })
}

/// The word as the shell takes it literally.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        use std::os::unix::process::ExitStatusExt;
        let start = || {
            let mut sleep = Command::new("sleep");
            ends_with_its_starter(sleep.arg("60"));
            sleep.spawn().unwrap()
        };
        let mut sleeping = std::thread::spawn(start).join().unwrap();
        assert_eq!(sleeping.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_quoted_text_is_one_word_to_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
