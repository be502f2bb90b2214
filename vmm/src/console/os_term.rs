//! What is said of a guest whose operating system gave up.

use std::fmt;

/// The most characters of a line that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// What Linux begins its last message with (panic in kernel/panic.c). What it prints after it, a trace
/// for instance, tells less.
const PANIC: &str = "Kernel panic - not syncing";

/// That a guest's operating system gave up: why, as far as it said, and where to look.
#[derive(Debug)]
pub struct OsTermReport {
    reason: Option<String>,
    console: String,
    line: Option<String>,
}

impl OsTermReport {
    /// Of a guest that gave `reason`, whose console is called `console`, and ends with `output`.
    pub(super) fn new(reason: Option<String>, console: &str, output: &[u8]) -> Self {
        Self {
            reason,
            console: console.to_owned(),
            line: telling_line(output),
        }
    }
}

impl fmt::Display for OsTermReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest's operating system stopped")?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}")?,
            None => f.write_str(" and gave no reason")?,
        }
        write!(f, "; its console ({}) ", self.console)?;
        match &self.line {
            Some(line) => write!(f, "says \"{line}\""),
            None => f.write_str("says nothing"),
        }
    }
}

/// The last line of `output` that tells of a panic, or the last one that is not blank: printable, and
/// not too long.
fn telling_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let lines = || text.split(['\n', '\r']).map(str::trim);
    let panic = |line: &&str| line.contains(PANIC) && !line.contains("end Kernel panic");
    let line = lines()
        .rfind(panic)
        .or_else(|| lines().rfind(|line| !line.is_empty()))?;
    let mut shown: String = line
        .chars()
        .take(SHOWN_CHARACTERS)
        .flat_map(char::escape_debug)
        .collect();
    if line.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push('…');
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(reason: Option<&str>, output: &str) -> String {
        let reason = reason.map(str::to_owned);
        OsTermReport::new(reason, "the file /tmp/c", output.as_bytes()).to_string()
    }

    #[test]
    fn a_panic_without_a_reason_is_told_with_the_console_and_its_line() {
        let console = "[ 1.0] sysrq: Trigger a crash\r\n\
            [ 1.1] Kernel panic - not syncing: sysrq triggered crash\r\n\
            [ 1.1] Call Trace:\r\n[ 1.2] dump_stack\r\n\
            [ 1.3] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n\r\n";
        assert_eq!(
            report(None, console),
            "the guest's operating system stopped and gave no reason; its console (the file /tmp/c) \
             says \"[ 1.1] Kernel panic - not syncing: sysrq triggered crash\""
        );
    }

    #[test]
    fn without_a_panic_it_is_the_last_line_and_without_a_line_that_is_said() {
        assert!(report(None, "one\ntwo\n \n").ends_with("/tmp/c) says \"two\""));
        assert!(report(None, "").ends_with("/tmp/c) says nothing"));
        assert_eq!(
            report(Some("no init"), "\n"),
            "the guest's operating system stopped: no init; its console (the file /tmp/c) says nothing"
        );
    }

    #[test]
    fn a_line_cannot_change_the_terminal_that_shows_it() {
        let text = report(None, "\x1b[2J\u{202e}\x07\"x\"");
        assert!(
            text.ends_with(r#"says "\u{1b}[2J\u{202e}\u{7}\"x\"""#),
            "{text}"
        );
        let text = report(None, &"y".repeat(5000));
        assert!(
            text.ends_with(&format!("\"{}…\"", "y".repeat(200))),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_is_printed_in_one_short_line(
            output in prop::collection::vec(0u8.., 0..3000)
        ) {
            let text = OsTermReport::new(None, "discarded", &output).to_string();
            prop_assert!(!text.chars().any(char::is_control), "{text}");
            prop_assert!(text.chars().count() < 200 + SHOWN_CHARACTERS * 10);
        }
    }
}
