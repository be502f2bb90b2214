//! `cargo lab shell`: a shell in a host, on the user's terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use thiserror::Error;

use crate::cli::HostArgs;
use crate::exec::Passed;
use crate::progress::say;
use crate::session::{Session, SessionError};
use crate::workspace::Workspace;

/// The key that leaves the shell at once: Ctrl-].
const LEAVE: u8 = 0x1d;

/// Why there is no shell.
#[derive(Debug, Error)]
pub(crate) enum ShellError {
    #[error("standard input is no terminal; `cargo lab exec` runs scripts")]
    NoTerminal(#[source] io::Error),
    #[error(transparent)]
    Session(#[from] Box<SessionError>),
}

/// Opens the shell and returns its exit status.
pub(crate) fn run(workspace: &Workspace, args: &HostArgs) -> Result<u8, ShellError> {
    let terminal = rustix::stdio::stdin()
        .try_clone_to_owned()
        .map_err(ShellError::NoTerminal)?;
    let cooked = tcgetattr(&terminal).map_err(|error| ShellError::NoTerminal(error.into()))?;
    let size = tcgetwinsize(&terminal).map_err(|error| ShellError::NoTerminal(error.into()))?;
    let session = Session {
        host: args,
        script: None,
        environment: format!(
            "export LAB_TERMINAL='rows {} cols {}' TERM={} PS1='{} # '",
            if size.ws_row == 0 { 24 } else { size.ws_row },
            if size.ws_col == 0 { 80 } else { size.ws_col },
            terminal_type(),
            args.host.name(),
        ),
        timeout: None,
    };
    let mut restore = None;
    let mut connect = |host: UnixStream| {
        say("`exit` powers the host off; Ctrl-] does it at once");
        restore = raw(&terminal, &cooked);
        thread::spawn(move || type_into(host));
    };
    let ended = session.run(workspace, &mut Passed, Some(&mut connect));
    drop(restore);
    let ended = ended.map_err(Box::new)?;
    say(&format!("logs: {}", ended.logs.display()));
    Ok(ended.status)
}

/// The user's kind of terminal, if its name is safe to write into a script.
fn terminal_type() -> String {
    std::env::var("TERM")
        .ok()
        .filter(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
        .unwrap_or_else(|| "vt100".to_owned())
}

/// The terminal as it was; put back when dropped.
struct Restore {
    terminal: OwnedFd,
    cooked: Termios,
}

impl Drop for Restore {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.cooked);
    }
}

fn raw(terminal: &OwnedFd, cooked: &Termios) -> Option<Restore> {
    let mut raw = cooked.clone();
    raw.make_raw();
    tcsetattr(terminal, OptionalActions::Drain, &raw).ok()?;
    Some(Restore {
        terminal: terminal.try_clone().ok()?,
        cooked: cooked.clone(),
    })
}

/// Passes on what the user types until the user leaves or the host is gone.
fn type_into(mut host: UnixStream) {
    let Ok(stdin) = rustix::stdio::stdin().try_clone_to_owned() else {
        return;
    };
    let mut keyboard = File::from(stdin);
    let mut keys = [0; 256];
    while let Ok(length @ 1..) = keyboard.read(&mut keys) {
        if keys[..length].contains(&LEAVE) {
            // As Ctrl-C would, were the terminal not raw.
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGINT);
            return;
        }
        if host.write_all(&keys[..length]).is_err() {
            return;
        }
    }
    // The terminal is gone: nobody is left to type `exit`, also where SIGHUP is ignored (nohup).
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGINT);
}
