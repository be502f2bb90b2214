//! `cargo lab exec`: a script in a host.

use std::io::Write;

use crate::cli::ExecArgs;
use crate::host::Output;
use crate::session::{Session, SessionError};
use crate::workspace::Workspace;

/// Runs the script and returns its exit status.
pub(crate) fn run(workspace: &Workspace, args: &ExecArgs) -> Result<u8, SessionError> {
    let session = Session {
        host: &args.host,
        script: Some(args.script.join(" ")),
        environment: String::new(),
        timeout: args.timeout,
    };
    let ended = session.run(workspace, &mut Passed, None)?;
    Ok(ended.status)
}

/// Passes on what the script prints, as it comes.
pub(crate) struct Passed;

impl Output for Passed {
    fn stdout(&mut self, bytes: &[u8]) {
        pass(&mut std::io::stdout().lock(), bytes);
    }

    fn stderr(&mut self, bytes: &[u8]) {
        pass(&mut std::io::stderr().lock(), bytes);
    }

    fn terminal(&mut self, bytes: &[u8]) {
        pass(&mut std::io::stdout().lock(), bytes);
    }
}

/// A reader that has gone away is no reason to stop the host in the middle of its work.
fn pass(stream: &mut dyn Write, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    let _ = stream.flush();
}
