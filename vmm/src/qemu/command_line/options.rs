//! Which options there are, and which of them take a value.

use super::{CommandLineError, instead};

/// An option's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It stands alone.
    Flag,
    /// A value follows.
    Value,
}

use Shape::{Flag, Value};

/// All options, without their dash. Names that mean one thing are there once each.
const OPTIONS: &[(&str, Shape)] = &[
    ("M", Value),
    ("S", Flag),
    ("accel", Value),
    ("add-fd", Value),
    ("append", Value),
    ("audiodev", Value),
    ("blockdev", Value),
    ("boot", Value),
    ("chardev", Value),
    ("cpu", Value),
    ("daemonize", Flag),
    ("device", Value),
    ("display", Value),
    ("enable-kvm", Flag),
    ("global", Value),
    ("h", Flag),
    ("help", Flag),
    ("initrd", Value),
    ("kernel", Value),
    ("m", Value),
    ("machine", Value),
    ("mon", Value),
    ("monitor", Value),
    ("msg", Value),
    ("name", Value),
    ("net", Value),
    ("netdev", Value),
    ("nic", Value),
    ("no-reboot", Flag),
    ("no-shutdown", Flag),
    ("no-user-config", Flag),
    ("nodefaults", Flag),
    ("nographic", Flag),
    ("object", Value),
    ("overcommit", Value),
    ("parallel", Value),
    ("pidfile", Value),
    ("qmp", Value),
    ("rtc", Value),
    ("sandbox", Value),
    ("serial", Value),
    ("smp", Value),
    ("spapr-vmm", Value),
    ("uuid", Value),
    ("version", Flag),
    ("vga", Value),
];

/// An option as given: its name without the dash, and its value, empty for one that has none.
pub(super) type Given = (&'static str, String);

/// The names of all options, without their dash.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Splits the arguments, without the program's name, into options.
pub(super) fn split(
    arguments: impl IntoIterator<Item = String>,
) -> Result<Vec<Given>, CommandLineError> {
    let mut given = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(word) = arguments.next() {
        let Some(name) = word.strip_prefix('-') else {
            return Err(CommandLineError::NoOption(word));
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let known = OPTIONS.iter().find(|(known, _)| *known == name);
        let Some(&(name, shape)) = known else {
            return Err(match instead::of_option(name) {
                Some(instead) => CommandLineError::Instead {
                    option: format!("-{name}"),
                    instead,
                },
                None => CommandLineError::Option(word),
            });
        };
        let value = match shape {
            Flag => String::new(),
            Value => arguments
                .next()
                .ok_or(CommandLineError::MissingValue(name))?,
        };
        given.push((name, value));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<Given>, CommandLineError> {
        split(text.split(' ').map(str::to_owned))
    }

    #[test]
    fn options_may_have_one_dash_or_two() {
        let given = words("-S --machine none -m -1").expect("parses");
        let expected = [("S", ""), ("machine", "none"), ("m", "-1")];
        assert_eq!(
            given,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn options_of_qemu_that_are_not_there_say_what_to_do_instead() {
        for (text, parts) in [
            (
                "--drive file=disk.img",
                ["-drive", "disks are virtio's", "-blockdev driver=file"],
            ),
            (
                "-hda disk.img",
                ["-hda", "virtio-blk-pci", "<target bus='virtio'/>"],
            ),
            ("-vnc :1", ["-vnc", "no graphics", "-serial stdio"]),
            ("-bios slof.bin", ["-bios", "no firmware", "-kernel"]),
        ] {
            let refused = words(text).expect_err("refused").to_string();
            for part in parts {
                assert!(refused.contains(part), "{text}: {refused}");
            }
        }
        let known = names().find(|name| instead::of_option(name).is_some());
        assert_eq!(known, None, "an option that there is");
    }

    #[test]
    fn options_that_are_not_there_are_named() {
        let refusal = |text| words(text).expect_err("refused").to_string();
        assert_eq!(
            refusal("-S -frob user"),
            "the option -frob is not supported"
        );
        assert_eq!(
            refusal("disk.img"),
            "\"disk.img\" is not an option; options start with -"
        );
        assert_eq!(refusal("-S -m"), "the option -m needs a value");
    }
}
