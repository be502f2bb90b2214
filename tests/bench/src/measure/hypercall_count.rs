//! Counting the guests' TCE hypercalls, whoever serves them: a histogram of the kernel's trace event
//! for hypercalls (Documentation/trace/histogram.rst).

use std::fs;
use std::io;

const EVENT: &str = "/sys/kernel/tracing/events/kvm_hv/kvm_hcall_enter";
const HISTOGRAM: &str = "hist:keys=req";

/// H_PUT_TCE, H_PUT_TCE_INDIRECT and H_STUFF_TCE.
const TCE_CALLS: [u64; 3] = [0x20, 0x13c, 0x138];

/// Counts while it exists.
#[derive(Debug)]
pub(crate) struct HypercallCount;

impl HypercallCount {
    /// Starts to count.
    ///
    /// # Errors
    /// When the kernel does not offer it.
    pub(crate) fn start() -> io::Result<Self> {
        fs::write(format!("{EVENT}/trigger"), HISTOGRAM)?;
        Ok(Self)
    }

    /// TCE calls so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn tce_calls(&self) -> io::Result<u64> {
        Ok(tce_calls(&fs::read_to_string(format!("{EVENT}/hist"))?))
    }
}

impl Drop for HypercallCount {
    fn drop(&mut self) {
        // What remains costs a little time, and nothing else.
        let _ = fs::write(format!("{EVENT}/trigger"), format!("!{HISTOGRAM}"));
    }
}

/// The sum of lines `{ req: NUMBER } hitcount: COUNT`.
fn tce_calls(histogram: &str) -> u64 {
    let entry = |line: &str| {
        let (key, count) = line.trim().strip_prefix('{')?.split_once('}')?;
        let request: u64 = key.split_once(':')?.1.trim().parse().ok()?;
        let count: u64 = count.split_once(':')?.1.trim().parse().ok()?;
        TCE_CALLS.contains(&request).then_some(count)
    };
    histogram.lines().filter_map(entry).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tce_calls_are_told_from_others() {
        let text = "# event histogram\n#\n\n{ req:        224 } hitcount:        900\n\
                    { req:         32 } hitcount:          5\n\
                    { req:        312 } hitcount:         70\n\
                    { req:        316 } hitcount:        600\n\nTotals:\n    Hits: 1575\n";
        assert_eq!(tce_calls(text), 675);
        assert_eq!(tce_calls(""), 0);
    }
}
