//! How long processors of guests were in their guests: between the kernel's trace events for entering and leaving one
//! (Documentation/trace/histogram.rst).

use std::fs;
use std::io;

const EVENTS: &str = "/sys/kernel/tracing/events/kvm_hv";
/// What each of the two notes, for the thread that runs the processor.
const NOTES: [(&str, &str); 2] = [
    (
        "kvm_guest_enter",
        "hist:keys=common_pid:entered=common_timestamp",
    ),
    (
        "kvm_guest_exit",
        "hist:keys=common_pid:vals=common_timestamp-$entered",
    ),
];

/// Watches while it exists, which makes each way into a guest and back longer.
#[derive(Debug)]
pub(crate) struct GuestTime;

impl GuestTime {
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

    /// The time so far of all guests, in nanoseconds.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn nanoseconds(&self) -> io::Result<u64> {
        let [_, (event, _)] = NOTES;
        let histogram = fs::read_to_string(format!("{EVENTS}/{event}/hist"))?;
        sum(&histogram).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for GuestTime {
    fn drop(&mut self) {
        // The one that uses the other's variable first. What remains costs a little time, and nothing else.
        for (event, note) in NOTES.into_iter().rev() {
            let _ = fs::write(format!("{EVENTS}/{event}/trigger"), format!("!{note}"));
        }
    }
}

/// The sum of the last numbers of a histogram's entries.
fn sum(histogram: &str) -> Option<u64> {
    let entries = histogram.lines().filter(|line| line.starts_with('{'));
    let numbers = entries.map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_processors_are_added() {
        let text = "# event histogram\n#\n# trigger info: hist:keys=common_pid\n#\n\n\
                    { common_pid:        301 } hitcount:        900  common_timestamp-$entered:      12345\n\
                    { common_pid:        302 } hitcount:          5  common_timestamp-$entered:          5\n\n\
                    Totals:\n    Hits: 905\n    Entries: 2\n    Dropped: 0\n";
        assert_eq!(sum(text), Some(12350));
        assert_eq!(sum("# event histogram\n"), Some(0));
        assert_eq!(sum("{ common_pid: 301 } hitcount: none\n"), None);
    }
}
