//! How numbers and names are written.

use spapr_lab::benchmark::results::Facts;
use spapr_lab::benchmark::row::Unit;

use super::compare::{Ratio, as_number};
use super::targets::{Target, TargetUnit};

/// A number with its thousands set apart.
pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value as it is read best.
pub(super) fn value(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds | Unit::Count => thousands(value),
        Unit::Bytes if value >= 1 << 30 => format!("{:.2} GiB", as_number(value) / 1_073_741_824.0),
        Unit::Bytes if value >= 1 << 20 => format!("{:.2} MiB", as_number(value) / 1_048_576.0),
        Unit::Bytes => format!("{} KiB", thousands(value >> 10)),
    }
}

/// What is said of the guests' kernel behind the host's, if it is another one.
pub(super) fn guest_kernel(facts: &Facts) -> String {
    let kernel = facts.guest_kernel.as_deref();
    kernel.map_or_else(String::new, |name| format!(", Linux guests with {name}"))
}

/// The versions of QEMU that were measured.
pub(super) fn peers(facts: &Facts) -> String {
    let next = facts.next_qemu.as_deref();
    let next = next.map_or_else(String::new, |name| format!("; next QEMU: {name}"));
    let qemu = facts.qemu.as_deref().unwrap_or("none");
    format!("QEMU: {qemu}{next}")
}

/// What is to be known of the calls that were made before those of a row.
pub(super) const WARM_UP: &str = "Rows of `auto` are measured after 50 ms of the same calls, in which it \
    chooses how to serve them; rows of the first calls of all are measured without any before.";

/// What is to be known of Linux guests that are compared.
pub(super) const DEFENCES: &str = "What the guests' files in /sys/devices/system/cpu/vulnerabilities said. \
    Where a guest's differ from another's, the two are not compared.";

/// A sentence on the packages, if the run knew about them.
pub(super) fn packages(facts: &Facts) -> String {
    let packages = facts.packages.as_deref();
    packages.map_or_else(String::new, |text| format!(" Debian packages: {text}."))
}

/// A value for the scale of a plot.
pub(super) fn short(value: f64) -> String {
    for (power, suffix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= power {
            let scaled = value / power;
            let digits = usize::from(scaled < 10.0 && scaled.fract() > 0.04);
            return format!("{scaled:.digits$}{suffix}");
        }
    }
    format!("{value:.0}")
}

/// What counts the values of a unit.
pub(super) const fn unit(unit: Unit, counts_instructions: bool) -> &'static str {
    match (unit, counts_instructions) {
        (Unit::Nanoseconds, true) => "instructions",
        (Unit::Nanoseconds, false) => "ns",
        (Unit::Bytes, _) => "memory",
        (Unit::Count, _) => "calls",
    }
}

/// A ratio, or why there is none.
pub(super) fn ratio(ratio: &Ratio) -> String {
    match ratio {
        Ratio::None => "–".to_owned(),
        Ratio::Of { ratio, .. } => format!("{ratio:.3}"),
        Ratio::Refused(why) => format!("refused: {why}"),
    }
}

/// What a target's value is and what it is to be at most.
pub(super) fn target(target: &Target) -> (String, String) {
    let put = |value: f64, digits| match target.unit {
        TargetUnit::Times(other) => format!("{value:.digits$} × {other}"),
        TargetUnit::Instructions => format!("{} instructions", rounded(value)),
        TargetUnit::Bytes => format!("{:.2} MiB", value / 1_048_576.0),
        TargetUnit::Exits => format!("{value:.0} exits"),
    };
    let is = match target.is {
        Ok(is) => put(is, 3),
        Err(why) => why.to_owned(),
    };
    (is, put(target.at_most, 2))
}

/// What became of a target.
pub(super) fn verdict(target: &Target) -> &'static str {
    match target.is {
        Ok(_) if target.holds() => "holds",
        Ok(_) if target.is_within_spread => "within the boots' spread",
        Ok(_) => "missed",
        Err(_) => "not judged",
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values were whole numbers and are not negative"
)]
fn rounded(value: f64) -> String {
    thousands(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_in_thousands() {
        let texts = [0, 999, 1000, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(value(5 << 20, Unit::Bytes), "5.00 MiB");
        assert_eq!(value(64 << 10, Unit::Bytes), "64 KiB");
        assert_eq!(value(3 << 29, Unit::Bytes), "1.50 GiB");
    }

    #[test]
    fn scales_are_short() {
        let texts = [1.0, 500.0, 1000.0, 2500.0, 10_000.0, 1e6, 3e9].map(short);
        assert_eq!(texts, ["1", "500", "1k", "2.5k", "10k", "1M", "3G"]);
    }

    #[test]
    fn a_refusal_says_why() {
        assert_eq!(
            ratio(&Ratio::Refused("calls failed")),
            "refused: calls failed"
        );
        let of = Ratio::Of {
            ratio: 0.5,
            other: 2,
        };
        assert_eq!(ratio(&of), "0.500");
    }
}
