//! Counting the guests' TCE hypercalls, whoever serves them, and those that the kernel of an LPAR makes itself:
//! histograms of the kernel's trace events for hypercalls (Documentation/trace/histogram.rst).

use std::fs;
use std::io;

/// H_PUT_TCE, H_PUT_TCE_INDIRECT and H_STUFF_TCE.
const TCE_CALLS: [u64; 3] = [0x20, 0x13c, 0x138];

/// Whose calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The guests of this host.
    Guests,
    /// This host's kernel, which is an LPAR's: its calls go to the platform.
    Host,
    /// Not calls: each return of a guest's processor to its VMM, for whatever reason. A doorbell that the kernel
    /// answers itself is none.
    Exits,
}

impl Caller {
    /// The folder of the trace event.
    const fn event(self) -> &'static str {
        match self {
            Self::Guests => "/sys/kernel/tracing/events/kvm_hv/kvm_hcall_enter",
            Self::Host => "/sys/kernel/tracing/events/powerpc/hcall_entry",
            Self::Exits => "/sys/kernel/tracing/events/kvm/kvm_userspace_exit",
        }
    }

    /// Has the kernel count by the event's field for the call's number.
    const fn histogram(self) -> &'static str {
        match self {
            Self::Guests => "hist:keys=req",
            Self::Host => "hist:keys=opcode",
            Self::Exits => "hist:keys=reason",
        }
    }
}

/// Counts while it exists.
#[derive(Debug)]
pub(crate) struct HypercallCount(Caller);

impl HypercallCount {
    /// Starts to count.
    ///
    /// # Errors
    /// When the kernel does not offer it.
    pub(crate) fn start(caller: Caller) -> io::Result<Self> {
        fs::write(format!("{}/trigger", caller.event()), caller.histogram())?;
        Ok(Self(caller))
    }

    /// TCE calls so far, or exits.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn calls(&self) -> io::Result<u64> {
        let histogram = fs::read_to_string(format!("{}/hist", self.0.event()))?;
        Ok(match self.0 {
            Caller::Exits => counted(&histogram, |_| true),
            Caller::Guests | Caller::Host => tce_calls(&histogram),
        })
    }
}

impl Drop for HypercallCount {
    fn drop(&mut self) {
        let trigger = format!("{}/trigger", self.0.event());
        // What remains costs a little time, and nothing else.
        let _ = fs::write(trigger, format!("!{}", self.0.histogram()));
    }
}

fn tce_calls(histogram: &str) -> u64 {
    counted(histogram, |request| TCE_CALLS.contains(&request))
}

/// The sum of lines `{ FIELD: NUMBER } hitcount: COUNT` whose number is wanted.
fn counted(histogram: &str, is_wanted: impl Fn(u64) -> bool) -> u64 {
    let entry = |line: &str| {
        let (key, count) = line.trim().strip_prefix('{')?.split_once('}')?;
        let request: u64 = key.split_once(':')?.1.trim().parse().ok()?;
        let count: u64 = count.split_once(':')?.1.trim().parse().ok()?;
        is_wanted(request).then_some(count)
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
        assert_eq!(counted(text, |_| true), 1575);
        assert_eq!(tce_calls(""), 0);
        assert_eq!(
            tce_calls("{ opcode:         32 } hitcount:          7\n"),
            7
        );
    }
}
