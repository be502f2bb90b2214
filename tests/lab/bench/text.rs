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

/// The rows' names, and what they mean.
const TITLES: &[(&str, &str)] = &[
    ("exit", "exit round trip (a hypercall nobody knows)"),
    ("put-map", "H_PUT_TCE, map"),
    ("put-remap", "H_PUT_TCE, map over a live entry"),
    ("put-unmap", "H_PUT_TCE, unmap"),
    ("put-clear", "H_PUT_TCE, clear a clear entry"),
    ("get", "H_GET_TCE"),
    ("rtas-config-read", "RTAS read of configuration space"),
    ("first-map", "first mapping of all"),
    ("first-map-in-region", "first mapping in a further region"),
    (
        "indirect-live-contiguous",
        "H_PUT_TCE_INDIRECT, contiguous, over live entries",
    ),
    (
        "indirect-empty-contiguous",
        "H_PUT_TCE_INDIRECT, contiguous, onto clear entries",
    ),
    (
        "indirect-live-scattered",
        "H_PUT_TCE_INDIRECT, scattered, over live entries",
    ),
    (
        "indirect-empty-scattered",
        "H_PUT_TCE_INDIRECT, scattered, onto clear entries",
    ),
    ("stuff-mapped", "H_STUFF_TCE of mapped entries"),
    ("stuff-clear", "H_STUFF_TCE of clear entries"),
    (
        "start-first-instruction",
        "exec to the guest's first instruction",
    ),
    ("start-init", "exec to the Linux guest's init"),
    (
        "resident-above-guest-ram",
        "resident memory above guest RAM",
    ),
    ("locked", "locked memory after the reads"),
    (
        "resident-with-device",
        "resident memory above guest RAM, with a device",
    ),
    (
        "locked-before-dma",
        "locked memory with a device, before its first mapping",
    ),
    (
        "engine-get-liobns",
        "H_GET_TCE in the engine alone, n LIOBNs",
    ),
    (
        "engine-put-liobns",
        "H_PUT_TCE in the engine alone, n LIOBNs",
    ),
    (
        "window-create",
        "ibm,create-pe-dma-window, n = log2 of its bytes",
    ),
    (
        "window-remove",
        "ibm,remove-pe-dma-window, n = log2 of its bytes",
    ),
    (
        "window-map-last",
        "H_PUT_TCE at the end of a window, n = log2 of its bytes",
    ),
    ("exit-processors", "exit round trip, n processors at once"),
    (
        "put-remap-processors-apart",
        "H_PUT_TCE, n processors, a window each",
    ),
    (
        "put-remap-processors-together",
        "H_PUT_TCE, n processors, one window",
    ),
    (
        "indirect-16-processors-apart",
        "H_PUT_TCE_INDIRECT of 16, n processors, a window each",
    ),
    (
        "indirect-16-processors-together",
        "H_PUT_TCE_INDIRECT of 16, n processors, one window",
    ),
    ("put-remap-regions", "H_PUT_TCE, n registered regions"),
    ("get-regions", "H_GET_TCE, n registered regions"),
    ("put-remap-liobns", "H_PUT_TCE in kernel, n LIOBNs"),
    ("get-liobns", "H_GET_TCE in kernel, n LIOBNs"),
    (
        "nvme-random-4k-busy",
        "NVMe, read of 4 KiB, random, by a busy processor",
    ),
    ("nvme-random-4k-latency", "NVMe, read of 4 KiB, random"),
    (
        "nvme-random-4k-processor-time",
        "NVMe, read of 4 KiB, random: processor time",
    ),
    (
        "nvme-random-4k-tce-calls",
        "NVMe, 400 reads of 4 KiB: TCE calls",
    ),
    (
        "nvme-sequential-1m-busy",
        "NVMe, read of 1 MiB, sequential, by a busy processor",
    ),
    (
        "nvme-sequential-1m-latency",
        "NVMe, read of 1 MiB, sequential",
    ),
    (
        "nvme-sequential-1m-processor-time",
        "NVMe, read of 1 MiB, sequential: processor time",
    ),
    (
        "nvme-sequential-1m-tce-calls",
        "NVMe, 40 reads of 1 MiB: TCE calls",
    ),
];

/// What a row's name means, in words.
pub(super) fn title(name: &str) -> String {
    let variants = [
        ("windows-on-", " (dynamic window as large as memory)"),
        ("xics-", " (XICS for interrupt controller)"),
        ("windows-512m-", " (dynamic window of at most 512 MiB)"),
        ("", ""),
    ];
    for (prefix, addition) in variants {
        if let Some(rest) = name.strip_prefix(prefix)
            && let Some((_, title)) = TITLES.iter().find(|(known, _)| *known == rest)
        {
            return format!("{title}{addition}");
        }
    }
    name.to_owned()
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
    fn rows_have_titles_with_and_without_windows() {
        assert_eq!(title("get"), "H_GET_TCE");
        assert!(title("windows-on-locked").ends_with("as large as memory)"));
        assert_eq!(title("new-row"), "new-row");
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
