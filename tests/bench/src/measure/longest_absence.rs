//! The longest time that a guest's processor was away from its guest, whoever kept it: between the kernel's
//! trace events for leaving and entering one (Documentation/trace/histogram.rst, "onmax").

use std::fs;
use std::io;

const EVENTS: &str = "/sys/kernel/tracing/events/kvm_hv";
/// What each of the two notes, for the thread that runs the processor.
const NOTES: [(&str, &str); 2] = [
    (
        "kvm_guest_exit",
        "hist:keys=common_pid:left=common_timestamp",
    ),
    (
        "kvm_guest_enter",
        "hist:keys=common_pid:away=common_timestamp-$left:onmax($away).save(vcpu_id)",
    ),
];

/// Watches while it exists.
#[derive(Debug)]
pub(crate) struct LongestAbsence;

impl LongestAbsence {
    /// Starts to watch.
    ///
    /// # Errors
    /// When the kernel does not offer it.
    pub(crate) fn start() -> io::Result<Self> {
        // From here on, what has begun is ended when this is dropped.
        let watch = Self;
        for (event, note) in NOTES {
            fs::write(format!("{EVENTS}/{event}/trigger"), note)?;
        }
        Ok(watch)
    }

    /// The longest so far, in nanoseconds; none when no processor has come back.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn nanoseconds(&self) -> io::Result<Option<u64>> {
        let [_, (event, _)] = NOTES;
        Ok(longest(&fs::read_to_string(format!(
            "{EVENTS}/{event}/hist"
        ))?))
    }
}

impl Drop for LongestAbsence {
    fn drop(&mut self) {
        // The one that uses the other's variable first. What remains costs a little time, and nothing else.
        for (event, note) in NOTES.into_iter().rev() {
            let _ = fs::write(format!("{EVENTS}/{event}/trigger"), format!("!{note}"));
        }
    }
}

/// The largest of what follows `max:`.
fn longest(histogram: &str) -> Option<u64> {
    let after = histogram.split("max:").skip(1);
    let numbers = after.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    numbers.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_all_processors_is_taken() {
        let text = "# event histogram\n#\n\n{ common_pid:        301 } hitcount:        900\n\
                    \tmax:      12345  vcpu_id:          0\n\
                    { common_pid:        302 } hitcount:          5\n\
                    \tmax:       2345  vcpu_id:          1\n\nTotals:\n    Hits: 905\n";
        assert_eq!(longest(text), Some(12345));
        assert_eq!(longest("# event histogram\n"), None);
    }
}
