//! An error and its causes in one line.

use std::error::Error;

/// `error`, its cause, that one's cause and so on, with colons between. No error of this program repeats
/// its cause; some of other crates do (vm-memory's, event-manager's), and such a cause is not added
/// again.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_with_colons() {
        let Err(cause) = "x".parse::<u8>() else {
            panic!("x is no number")
        };
        assert_eq!(chain(&Outer(cause)), "outer: invalid digit found in string");
    }

    /// As vm-memory and event-manager do it.
    #[derive(Debug, thiserror::Error)]
    #[error("mapping failed: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let cause = std::io::Error::from_raw_os_error(libc::ENOMEM);
        let text = chain(&Repeats(cause));
        assert_eq!(text, "mapping failed: Cannot allocate memory (os error 12)");
    }
}
