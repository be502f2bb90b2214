//! Sizes in bytes, as people write them.
//!
//! The one reader of sizes, for both programs' command lines. Units are powers of 1024, as QEMU has
//! them (`do_strtosz` in util/cutils.c); beside its single letters, KB and KiB are taken for K and so on.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// ```
/// use spapr_vmm::spec::byte_size::ByteSize;
/// assert_eq!("1.5G".parse(), Ok(ByteSize(1536 << 20)));
/// assert_eq!("2GiB".parse(), Ok(ByteSize(2 << 30)));
/// assert_eq!(ByteSize::parse("512", 1 << 20), Ok(ByteSize(512 << 20)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is something else.
    #[error("expected a size such as 512M, 1.5G or 2GiB")]
    NoSize,
    /// It has no unit, and as a number of bytes it is too small for anything here.
    #[error(
        "{0} without a unit is a number of bytes; write {0}M for as many MiB, {0}G for as many GiB"
    )]
    Bytes(u64),
    /// A fraction of a byte.
    #[error("a number with a fraction needs a unit, such as 1.5G")]
    Fraction,
    /// More bytes than 64 bits can count.
    #[error("more bytes than 64 bits can count")]
    TooLarge,
}

impl ByteSize {
    /// Below this a number without a unit is taken for a forgotten unit: no size that anyone gives here
    /// is so small.
    const LEAST_WITHOUT_UNIT: u64 = 1 << 20;

    /// Reads a size; a number without a unit counts `without_unit` bytes.
    ///
    /// # Errors
    /// Why the text is no size.
    pub fn parse(text: &str, without_unit: u64) -> Result<Self, SizeError> {
        Ok(Written::parse(text)?.size(without_unit)?.into())
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Reads a size; a number without a unit is in bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let written = Written::parse(text)?;
        let bytes = written.size(1)?;
        if written.unit.is_none() && (1..Self::LEAST_WITHOUT_UNIT).contains(&bytes) {
            return Err(SizeError::Bytes(bytes));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A size in its parts.
struct Written<'a> {
    whole: u64,
    /// Digits after the point.
    fraction: &'a str,
    /// Bytes of the unit, if one is given.
    unit: Option<u64>,
}

impl<'a> Written<'a> {
    fn parse(text: &'a str) -> Result<Self, SizeError> {
        // As `strtoull` reads it.
        let text = text.trim_ascii_start();
        let text = text.strip_prefix('+').unwrap_or(text);
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            // B and E would be digits: there are no units.
            return Ok(Self {
                whole: whole(digits, 16)?,
                fraction: "",
                unit: None,
            });
        }
        let (digits, rest) = split_digits(text);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        if digits.is_empty() && fraction.is_empty() {
            return Err(SizeError::NoSize);
        }
        Ok(Self {
            whole: if digits.is_empty() {
                0
            } else {
                whole(digits, 10)?
            },
            fraction,
            unit: unit(suffix)?,
        })
    }

    /// Its bytes; halves of a byte are rounded up.
    fn size(&self, without_unit: u64) -> Result<u64, SizeError> {
        let unit = u128::from(self.unit.unwrap_or(without_unit));
        // More digits change no byte of a unit that anyone uses.
        let digits = &self.fraction[..self.fraction.len().min(15)];
        let numerator: u128 = if digits.is_empty() {
            0
        } else {
            digits.parse().map_err(|_| SizeError::NoSize)?
        };
        let denominator = 10u128.pow(u32::try_from(digits.len()).unwrap_or(0));
        if numerator != 0 && unit == 1 {
            return Err(SizeError::Fraction);
        }
        let part = (2 * numerator * unit + denominator) / (2 * denominator);
        u64::try_from(u128::from(self.whole) * unit + part).map_err(|_| SizeError::TooLarge)
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|digit: char| !digit.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

fn whole(digits: &str, radix: u32) -> Result<u64, SizeError> {
    // `from_str_radix` takes a sign.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(SizeError::NoSize);
    }
    u64::from_str_radix(digits, radix).map_err(|_| SizeError::TooLarge)
}

/// `None` for no unit at all.
fn unit(suffix: &str) -> Result<Option<u64>, SizeError> {
    let mut letters = suffix.chars();
    let Some(letter) = letters.next() else {
        return Ok(None);
    };
    let rest = letters.as_str();
    let has_byte = rest.is_empty() || ["b", "ib"].iter().any(|it| rest.eq_ignore_ascii_case(it));
    let shift = match letter.to_ascii_uppercase() {
        'B' if rest.is_empty() => 0,
        'K' if has_byte => 10,
        'M' if has_byte => 20,
        'G' if has_byte => 30,
        'T' if has_byte => 40,
        'P' if has_byte => 50,
        'E' if has_byte => 60,
        _ => return Err(SizeError::NoSize),
    };
    Ok(Some(1 << shift))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_the_meaning_that_qemu_gives_them() {
        for (text, bytes) in [
            ("524288k", 512 << 20),
            ("1G", 1 << 30),
            ("512m", 512 << 20),
            ("1.5G", 1536 << 20),
            ("0.5T", 512 << 30),
            (".5k", 512),
            ("1.k", 1024),
            ("12.345M", 12_944_671),
            ("0x20000000", 512 << 20),
            ("0XFFFFF0", 0xff_fff0),
            ("+1G", 1 << 30),
            (" 1G", 1 << 30),
            ("010M", 10 << 20),
            ("1073741824", 1 << 30),
            ("1073741824B", 1 << 30),
            ("4096b", 4096),
            ("7E", 7 << 60),
            ("1P", 1 << 50),
            ("18446744073709551615", u64::MAX),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text:?}");
        }
    }

    #[test]
    fn units_may_be_written_out() {
        for text in [
            "1024M", "1024MB", "1024MiB", "1024mib", "1GB", "1GiB", "1gb",
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(1 << 30)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "k", ".", ".G", "1x", "-1", "-1G", "--1", "1 G", "1G ", "1Gi", "1BB", "1iB", "0x",
            "0x10M", "0x1.8", "1e3", "1.5.5G", "é", "1é", "G1", "++1", "0x+1", "１G",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::NoSize), "{text:?}");
        }
        assert_eq!("1.5".parse::<ByteSize>(), Err(SizeError::Fraction));
        for text in [
            "16E",
            "16777216T",
            "18446744073709551616",
            "99999999999999999999G",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_says_what_it_was_taken_for() {
        let refused = "1024".parse::<ByteSize>().unwrap_err().to_string();
        assert_eq!(
            refused,
            "1024 without a unit is a number of bytes; write 1024M for as many MiB, 1024G for as many GiB"
        );
        assert_eq!(ByteSize::parse("1024", 1 << 20), Ok(ByteSize(1 << 30)));
        assert_eq!(ByteSize::parse("1.5", 1 << 20), Ok(ByteSize(1536 << 10)));
        assert_eq!(ByteSize::parse("1024B", 1 << 20), Ok(ByteSize(1024)));
        assert_eq!("1048576".parse(), Ok(ByteSize(1 << 20)));
    }

    #[test]
    fn sizes_print_with_their_largest_unit() {
        assert_eq!(ByteSize(3 << 30).to_string(), "3G");
        assert_eq!(ByteSize(1536 << 20).to_string(), "1536M");
        assert_eq!(ByteSize(0).to_string(), "0");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9.xX+ kKMGTPEiBb-]{0,12}|.*", unit: u64) {
            let _ = text.parse::<ByteSize>();
            let _ = ByteSize::parse(&text, unit);
        }

        #[test]
        fn what_is_printed_is_read_back(bytes: u64, zeros in 0u32..50) {
            let size = ByteSize(bytes >> zeros << zeros);
            prop_assert_eq!(ByteSize::parse(&size.to_string(), 1), Ok(size));
        }

        /// In the arithmetic that QEMU uses, a `double` with the halves rounded up.
        #[test]
        fn fractions_are_those_of_qemu(whole in 0u32..9999, fraction in "[0-9]{1,9}", letter in 0usize..4) {
            let unit = 1u64 << (10 * (letter + 1));
            let text = format!("{whole}.{fraction}{}", ["K", "M", "G", "T"][letter]);
            let part: f64 = format!("0.{fraction}").parse().expect("a number");
            // Exact but for the last bit of a double, which is far below a byte here.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a part of a unit, not negative"
            )]
            let expected = u64::from(whole) * unit + (part * unit as f64 + 0.5) as u64;
            let ByteSize(bytes) = text.parse().expect("a size");
            prop_assert!(bytes.abs_diff(expected) <= 1, "{} is {}, not {}", text, bytes, expected);
        }
    }
}
