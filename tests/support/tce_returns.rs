//! How the kernel's handlers of the TCE hypercalls returned, as its tracing counts it.
//!
//! A return probe on a handler (`kvmppc_h_put_tce` and its kin in arch/powerpc/kvm/book3s_64_vio.c)
//! with the trigger `hist:keys=status` counts the returns by their value.

/// What a handler returns to leave the call to user space: H_TOO_HARD
/// (arch/powerpc/include/asm/hvcall.h).
const H_TOO_HARD: i64 = 9999;

/// How often the handler of one hypercall returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TceReturns {
    /// Calls that the kernel answered.
    pub answered: u64,
    /// Calls that it left to user space.
    pub left: u64,
}

impl TceReturns {
    /// Reads a histogram (Documentation/trace/histogram.rst): lines of
    /// `{ status: VALUE } hitcount: COUNT`.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn of_histogram(text: &str) -> Result<Self, String> {
        let mut returns = Self::default();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let mut numbers = line.split_whitespace().filter_map(signed);
            let (Some(status), Some(count), None) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                return Err(line.to_owned());
            };
            let count = u64::try_from(count).map_err(|_| line.to_owned())?;
            if status == H_TOO_HARD {
                returns.left += count;
            } else {
                returns.answered += count;
            }
        }
        Ok(returns)
    }
}

/// A number; some kernels print a negative key as the unsigned number of the same bits.
fn signed(word: &str) -> Option<i64> {
    let unsigned = || word.parse::<u64>().map(u64::cast_signed);
    word.parse().or_else(|_| unsigned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_left_to_user_space_are_told_from_answered_ones() {
        let text = "# trigger info: hist:keys=status:vals=hitcount [active]\n#\n\n\
                    { status:         -4 } hitcount:          2\n\
                    { status: 18446744073709551612 } hitcount:          5\n\
                    { status:          0 } hitcount:        640\n\
                    { status:       9999 } hitcount:          3\n\nTotals:\n    Hits: 650\n";
        let returns = TceReturns {
            answered: 647,
            left: 3,
        };
        assert_eq!(TceReturns::of_histogram(text), Ok(returns));
        assert!(TceReturns::of_histogram("{ status: 0 } hitcount: many\n").is_err());
    }
}
