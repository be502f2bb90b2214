//! One measurement: how long a kind of call took, and a digest of what it did.

use serde::{Deserialize, Serialize};

/// The quantiles that a row keeps, in per cent.
pub const PERCENTS: [u8; 22] = [
    0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 99, 100,
];

/// What a row's values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds; where the host's clock counts instructions, one for each.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// How often something happened.
    Count,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The number that its cost depends on: entries, processors, ….
    pub n: u64,
    /// What the values count.
    pub unit: Unit,
    /// How many samples there were.
    pub samples: u64,
    /// How many of them went wrong.
    pub failed: u64,
    /// Stands for what the calls returned and left: equal for rows that can be compared. None where
    /// there is nothing to compare.
    pub digest: Option<u64>,
    /// Of a Linux guest's: the number of what it said of its defences, in
    /// [`Results::defences`](super::results::Results::defences).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defences: Option<usize>,
    /// The samples' mean.
    pub mean: u64,
    /// The samples' quantiles, at [`PERCENTS`].
    pub quantiles: Vec<u64>,
}

/// Why a line is no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A field is missing.
    #[error("the guest's line has no {field}: {line}")]
    Missing {
        /// The field.
        field: &'static str,
        /// The line.
        line: String,
    },
    /// A field makes no sense.
    #[error("the guest's {field}={value} is no number: {line}")]
    Number {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// The line.
        line: String,
    },
    /// The quantiles are not as many as they should be.
    #[error("the guest's line has {count} quantiles, not {}: {line}", PERCENTS.len())]
    Quantiles {
        /// How many there are.
        count: usize,
        /// The line.
        line: String,
    },
}

impl Row {
    /// A row of `samples`, which need not be sorted; `None` when there are none.
    pub fn of_samples(name: &str, n: u64, unit: Unit, samples: &[u64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let count = last as u64 + 1;
        let sum: u128 = sorted.iter().copied().map(u128::from).sum();
        let quantile = |percent: &u8| sorted[(last * usize::from(*percent) + 50) / 100];
        Some(Self {
            name: name.to_owned(),
            n,
            unit,
            samples: count,
            failed: 0,
            digest: None,
            defences: None,
            mean: u64::try_from(sum / u128::from(count)).unwrap_or(u64::MAX),
            quantiles: PERCENTS.iter().map(quantile).collect(),
        })
    }

    /// Reads a guest's line `BENCH row=… n=… samples=… failed=… digest=… mean=… ticks=…`; times are
    /// in ticks of a time base of `hertz`.
    ///
    /// # Errors
    /// [`RowError`]; `None` for another line.
    pub fn parse(line: &str, hertz: u64) -> Option<Result<Self, RowError>> {
        let start = line.find("BENCH row=")?;
        Some(Self::parse_fields(line[start..].trim_end(), hertz))
    }

    fn parse_fields(line: &str, hertz: u64) -> Result<Self, RowError> {
        let field = |name: &'static str| {
            line.split_ascii_whitespace()
                .filter_map(|word| word.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
                .ok_or_else(|| RowError::Missing {
                    field: name,
                    line: line.to_owned(),
                })
        };
        let wrong = |field, value: &str| RowError::Number {
            field,
            value: value.to_owned(),
            line: line.to_owned(),
        };
        let number = |name: &'static str| {
            let value = field(name)?;
            value.parse::<u64>().map_err(|_| wrong(name, value))
        };
        let digest = field("digest")?;
        let digest = u64::from_str_radix(digest, 16).map_err(|_| wrong("digest", digest))?;
        let mut quantiles = Vec::new();
        for value in field("ticks")?.split(',') {
            let ticks = value.parse().map_err(|_| wrong("ticks", value))?;
            quantiles.push(nanoseconds(ticks, hertz));
        }
        if quantiles.len() != PERCENTS.len() {
            return Err(RowError::Quantiles {
                count: quantiles.len(),
                line: line.to_owned(),
            });
        }
        Ok(Self {
            name: field("row")?.to_owned(),
            n: number("n")?,
            unit: Unit::Nanoseconds,
            samples: number("samples")?,
            failed: number("failed")?,
            digest: Some(digest),
            defences: None,
            mean: nanoseconds(number("mean")?, hertz),
            quantiles,
        })
    }

    /// The value below which so many per cent of the samples are: one of [`PERCENTS`].
    pub fn quantile(&self, percent: u8) -> u64 {
        let at = PERCENTS.iter().position(|known| *known == percent);
        at.and_then(|at| self.quantiles.get(at))
            .copied()
            .unwrap_or(0)
    }

    /// The median.
    pub fn median(&self) -> u64 {
        self.quantile(50)
    }
}

/// What `ticks` of a time base of `hertz` are in nanoseconds.
pub fn nanoseconds(ticks: u64, hertz: u64) -> u64 {
    let value = u128::from(ticks) * 1_000_000_000 / u128::from(hertz.max(1));
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "BENCH row=put-map n=1 samples=64 failed=0 digest=00000000000000ff mean=512 \
        ticks=1,2,3,4,5,6,7,8,9,10,512,12,13,14,15,16,17,18,19,20,1024,5120\r\n";

    #[test]
    fn a_line_is_read_whole_with_ticks_as_nanoseconds() {
        let row = Row::parse(&format!("[  0.1] {LINE}"), 512_000_000)
            .unwrap()
            .unwrap();
        assert_eq!((row.name.as_str(), row.n, row.samples), ("put-map", 1, 64));
        assert_eq!((row.digest, row.mean), (Some(0xff), 1000));
        assert_eq!((row.median(), row.quantile(99)), (1000, 2000));
        assert_eq!((row.quantile(0), row.quantile(100)), (1, 10_000));
    }

    #[test]
    fn other_lines_are_none_and_damaged_ones_say_what_is_wrong() {
        assert_eq!(Row::parse("BENCH-DONE", 1), None);
        let damaged = |from: &str, to: &str| {
            let line = LINE.replace(from, to);
            Row::parse(&line, 1).unwrap().unwrap_err().to_string()
        };
        assert!(damaged("n=1 ", "").contains("has no n"));
        assert!(damaged("failed=0", "failed=x").contains("failed=x"));
        assert!(damaged(",1024", "").contains("21 quantiles"));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let samples: Vec<u64> = (0..=100).rev().collect();
        let row = Row::of_samples("x", 1, Unit::Nanoseconds, &samples).unwrap();
        let expected: Vec<u64> = PERCENTS.iter().copied().map(u64::from).collect();
        assert_eq!(row.quantiles, expected);
        assert_eq!((row.mean, row.samples), (50, 101));
        assert_eq!(Row::of_samples("x", 1, Unit::Nanoseconds, &[]), None);
        let one = Row::of_samples("x", 1, Unit::Bytes, &[7]).unwrap();
        assert_eq!((one.median(), one.quantile(100)), (7, 7));
    }

    #[test]
    fn a_time_base_of_any_frequency_becomes_nanoseconds() {
        assert_eq!(nanoseconds(512, 512_000_000), 1000);
        assert_eq!(nanoseconds(u64::MAX, 1), u64::MAX);
        assert_eq!(nanoseconds(3, 0), 3_000_000_000);
    }
}
