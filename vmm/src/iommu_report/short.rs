//! The answer in a line: whether a group's devices can be passed to a guest, and what to type if not.

use super::report::{GroupReport, Report, State, Verdict};
use crate::spec::ByteSize;

/// A line for each group, without line ends within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is said.
    pub line: String,
    /// Whether a guest as asked for would start with the group's devices and could map all that it wants.
    pub is_yes: bool,
}

/// The answer for each group of the report.
pub fn answers(report: &Report) -> Vec<Answer> {
    report
        .groups
        .iter()
        .map(|group| answer(report, group))
        .collect()
}

fn answer(report: &Report, group: &GroupReport) -> Answer {
    let devices: Vec<String> = group
        .members
        .iter()
        .map(|member| match &member.model {
            Some(model) => format!("{} ({model})", member.name),
            None => member.name.clone(),
        })
        .collect();
    let devices = devices.join(", ");
    let guest = format!("a guest of {}", ByteSize(report.memory_bytes));
    let (is_yes, why) = match obstacle(report, group) {
        None => (true, String::new()),
        Some(why) => (false, format!(": {}", one_line(&why))),
    };
    let can = if is_yes { "can" } else { "cannot" };
    Answer {
        line: format!("{devices}: {can} be passed to {guest} now{why}"),
        is_yes,
    }
}

/// What is in the way, and what to do.
fn obstacle(report: &Report, group: &GroupReport) -> Option<String> {
    if group.state != State::Free {
        let why = group.reason.clone();
        return Some(why.unwrap_or_else(|| "it cannot be taken".to_owned()));
    }
    // The container that `run` takes by itself: the first that there is.
    let Some(container) = group.containers.iter().find(|it| it.iommu.is_some()) else {
        let reasons = group.containers.iter().filter_map(|it| it.reason.clone());
        return Some(reasons.collect::<Vec<_>>().join("; "));
    };
    let at_first_mapping = container.locked.iter().find(|it| it.lock == "first-map");
    let is_enough = at_first_mapping.is_none_or(|it| it.verdict == Verdict::Enough);
    if report.limit.exempt || is_enough {
        return None;
    }
    let advice = report.limit.advice.clone();
    Some(advice.unwrap_or_else(|| "the limit on locked memory is too low".to_owned()))
}

/// The text in a line: commands, which stand in lines of their own behind spaces, are typed in one as well.
fn one_line(text: &str) -> String {
    let (mut whole, mut follows_command) = (String::new(), false);
    for line in text.lines() {
        let is_command = line.starts_with(' ');
        if !whole.is_empty() {
            let between = if follows_command && is_command {
                " && "
            } else {
                " "
            };
            whole.push_str(between);
        }
        whole.push_str(line.trim());
        follows_command = is_command;
    }
    whole
}

#[cfg(test)]
mod tests {
    use spapr_devices::vfio::MemoryLimit;

    use super::super::gather::tests::{LIMIT, sample};
    use super::*;

    #[test]
    fn a_line_says_yes_or_no_and_what_to_do() {
        let report = sample(MemoryLimit {
            exempt: true,
            ..LIMIT
        });
        let answers = answers(&report);
        let line = "0001:01:00.0: can be passed to a guest of 1G now";
        assert_eq!((answers[0].line.as_str(), answers[0].is_yes), (line, true));
        let held = &answers[1];
        assert!(!held.is_yes && !held.line.contains('\n'), "{held:?}");
        let start = "0002:01:00.0: cannot be passed to a guest of 1G now: ";
        assert!(held.line.starts_with(start), "{held:?}");
        assert!(held.line.contains("fuser -v /dev/vfio/2"), "{held:?}");
    }

    #[test]
    fn commands_are_typed_in_a_line() {
        let told = "it is not bound. Run as root:\n    modprobe vfio-pci\n    echo a > b";
        let line = "it is not bound. Run as root: modprobe vfio-pci && echo a > b";
        assert_eq!(one_line(told), line);
        assert_eq!(one_line("one\ntwo"), "one two");
    }

    #[test]
    fn a_limit_that_lets_the_guest_start_and_fail_later_is_a_no_with_the_limit_to_set() {
        let limited = &answers(&sample(LIMIT))[0];
        assert!(!limited.is_yes, "{limited:?}");
        assert!(limited.line.contains("ulimit -l 1061888"), "{limited:?}");
    }
}
