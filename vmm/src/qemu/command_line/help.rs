//! What is said to whoever asks what there is: `-help`, `-machine help` and their like.

use std::fmt::Write;

use super::netdev::NETDEV_TYPES;
use super::options::{self, Given};
use super::{BACKENDS, DEVICE_TYPES, MACHINES, OBJECT_TYPES, OPTION_PARAMETERS, values};

/// What the program is.
const INTRODUCTION: &str = concat!(
    "spapr-vmm ",
    env!("CARGO_PKG_VERSION"),
    ": runs ppc64le KVM (pseries) guests for libvirt's QEMU driver,\n\
     with the options of qemu-system-ppc64 that libvirt uses.\n\
     For use by hand there is spapr-vmm run.\n"
);

/// The answer, when the arguments (without the program's name) ask a question in place of a machine.
pub fn answer<S: AsRef<str>>(arguments: &[S]) -> Option<String> {
    let words = arguments.iter().map(|word| word.as_ref().to_owned());
    // What is wrong with the options before the question is told when they are read in earnest.
    let given = options::split(words).ok()?;
    given.iter().find_map(about)
}

fn about((option, value): &Given) -> Option<String> {
    match *option {
        "h" | "help" => return Some(introduction_with_options()),
        "version" => return Some(INTRODUCTION.to_owned()),
        _ => {}
    }
    let (subject, asks) = match value.rsplit_once(',') {
        Some((subject, last)) => (Some(subject), last),
        None => (None, value.strip_prefix("type=").unwrap_or(value)),
    };
    if !values::is_help(asks) {
        return None;
    }
    match (*option, subject) {
        ("M" | "machine", None) => {
            Some(list("Machines:", MACHINES.iter().copied().chain(["none"])))
        }
        ("M" | "machine", Some(_)) => parameters_of("machine"),
        ("accel", None) => Some(list("Accelerators:", ["kvm"])),
        ("cpu", None) => Some(list("Processors:", ["host", "POWER9", "POWER10"])),
        ("device", None) => Some(list(
            "Devices:",
            DEVICE_TYPES.iter().map(|device| device.name),
        )),
        ("device", Some(name)) => properties_of_device(name),
        ("object", None) => Some(list("Objects:", OBJECT_TYPES.iter().map(|(name, _)| *name))),
        ("netdev", None) => Some(list("Back ends:", NETDEV_TYPES.iter().copied())),
        ("chardev", None) => Some(list("Back ends:", BACKENDS.iter().copied())),
        _ => None,
    }
}

fn introduction_with_options() -> String {
    let names = in_lines(options::names());
    format!(
        "{INTRODUCTION}\nOptions:{names}\n\nThose with kinds tell them: -machine help, -cpu help, -device help,\n\
         -object help, -chardev help, -netdev help.\n"
    )
}

/// Options as they are typed, in indented lines for a terminal of 80 columns, each line behind its break.
fn in_lines(names: impl Iterator<Item = &'static str>) -> String {
    let mut text = String::new();
    let mut left = 0;
    for name in names {
        let takes = " -".len() + name.len();
        if takes > left {
            text.push_str("\n ");
            left = 78;
        }
        left -= takes;
        // Writing to a string does not fail.
        let _ = write!(text, " -{name}");
    }
    text
}

fn list<'a>(title: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .fold(format!("{title}\n"), |mut text, name| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {name}");
            text
        })
}

fn parameters_of(option: &str) -> Option<String> {
    let (_, parameters) = OPTION_PARAMETERS.iter().find(|(name, _)| *name == option)?;
    let lines = parameters
        .iter()
        .map(|(name, kind)| format!("{name}=<{kind}>"));
    let lines: Vec<_> = lines.collect();
    Some(list("Properties:", lines.iter().map(String::as_str)))
}

fn properties_of_device(name: &str) -> Option<String> {
    let device = DEVICE_TYPES.iter().find(|device| device.name == name)?;
    let lines = device.properties.iter();
    let lines: Vec<_> = lines
        .map(|(property, kind, about)| format!("{property}=<{kind}>  {about}"))
        .collect();
    Some(list(
        &format!("Properties of {name}:"),
        lines.iter().map(String::as_str),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &str) -> Option<String> {
        let words: Vec<_> = words.split(' ').collect();
        answer(&words)
    }

    #[test]
    fn machines_and_their_like_are_listed() {
        for (words, part) in [
            ("-machine help", "  pseries\n"),
            ("-M ?", "  pseries-10.0\n"),
            ("-S --machine type=help", "  none\n"),
            ("-machine pseries,help", "memory-backend=<string>"),
            ("-cpu help", "  POWER10\n"),
            ("-accel help", "  kvm\n"),
            ("-device help", "  vfio-pci\n"),
            ("-device vfio-pci,help", "host=<str>"),
            ("-object help", "  memory-backend-memfd\n"),
            ("-chardev help", "  socket\n"),
            ("-netdev help", "  tap\n"),
            ("-S -help", "-device"),
            ("-h", "For use by hand there is spapr-vmm run"),
            ("--version", "spapr-vmm 0."),
        ] {
            let text = asked(words).unwrap_or_default();
            assert!(
                text.contains(part) && text.ends_with('\n'),
                "{words}: {text}"
            );
        }
    }

    #[test]
    fn help_fits_a_terminal_and_has_each_option() {
        let text = asked("-help").unwrap_or_default();
        for line in text.lines() {
            assert!(line.len() < 80, "{line}");
        }
        let words: Vec<_> = text.split_whitespace().collect();
        for name in options::names() {
            assert!(words.contains(&&*format!("-{name}")), "no -{name}");
        }
    }

    #[test]
    fn what_is_no_question_has_no_answer() {
        for words in [
            "-machine pseries",
            "-append help",
            "-name help",
            "-kernel help",
            "-frobnicate -machine help",
            "-device frob,help",
            "",
        ] {
            assert_eq!(asked(words), None, "{words}");
        }
    }
}
