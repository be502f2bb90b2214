//! QEMU's values as text: what means what.
//!
//! Sizes are read by [`crate::byte_size`], addresses by those that they are addresses of.

/// A truth value (`qapi_bool_parse` in qapi/qapi-util.c).
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A number as `strtoull` reads one when the base is left to it: hexadecimal after 0x, octal after 0,
/// decimal otherwise, perhaps behind blanks and a plus. A negative one is none: QEMU wraps it.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    // `from_str_radix` takes a second sign.
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    plain
        .then(|| u64::from_str_radix(digits, radix).ok())
        .flatten()
}

/// A word without a value, as in `server,nowait`: what it names, and whether that is on
/// (`get_opt_name_value` in util/qemu-option.c).
pub(super) fn flag(word: &str) -> (&str, bool) {
    match word.strip_prefix("no") {
        Some(name) if !name.is_empty() => (name, false),
        _ => (word, true),
    }
}

/// Whether a value asks what there is (`is_help_option` in include/qemu/help_option.h).
pub(super) fn is_help(text: &str) -> bool {
    matches!(text, "help" | "?")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn booleans_are_the_words_that_qemu_takes() {
        for text in ["on", "yes", "true", "y"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["off", "no", "false", "n"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", "ON", "Yes", "1", "0", "t", "enabled", " on"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_have_their_base_from_their_beginning() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("0x10", 16),
            ("0XfF", 255),
            ("010", 8),
            (" +7", 7),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in [
            "",
            " ",
            "+",
            "-1",
            "08",
            "0x",
            "0x+1",
            "++1",
            "1 ",
            "1k",
            "1.0",
            "18446744073709551616",
            "é",
        ] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_word_alone_is_on_and_off_behind_no() {
        assert_eq!(flag("server"), ("server", true));
        assert_eq!(flag("nowait"), ("wait", false));
        assert_eq!(flag("no"), ("no", true));
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "[0-9xXno+ -]{0,8}|.*") {
            let _ = (boolean(&text), number(&text), flag(&text));
        }

        #[test]
        fn every_number_is_read_in_every_base(value: u64) {
            for text in [format!("{value}"), format!("{value:#x}"), format!("0{value:o}")] {
                prop_assert_eq!(number(&text), Some(value));
            }
        }
    }
}
