//! Where a user wants the guest's terminal.

use std::path::PathBuf;
use std::str::FromStr;

/// Where the guest's terminal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// Standard input and output.
    Stdio,
    /// Output to a file; no input.
    File(PathBuf),
    /// A new pseudo-terminal, whose name is printed.
    Pty,
}

impl FromStr for ConsoleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "pty" => Ok(Self::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err("expected stdio, pty, or file=PATH".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_named_as_the_help_says() {
        assert_eq!("stdio".parse(), Ok(ConsoleKind::Stdio));
        assert_eq!("pty".parse(), Ok(ConsoleKind::Pty));
        assert_eq!(
            "file=/tmp/x".parse(),
            Ok(ConsoleKind::File(PathBuf::from("/tmp/x")))
        );
        assert!("file=".parse::<ConsoleKind>().is_err());
        assert!("socket".parse::<ConsoleKind>().is_err());
    }
}
