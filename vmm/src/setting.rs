//! What a user chose about a machine and an error is about.
//!
//! Both programs make the same machine, and their command lines have different names for what it is made
//! of. So the errors of what they share name no option: they say which setting they are about, and each
//! program puts its own name for that before them.

use std::error::Error;

use spapr_devices::error_chain::chain;

/// Something about a machine that a user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Size of guest memory.
    Memory,
    /// Huge pages behind it.
    Hugepages,
    /// How many processors there are.
    Cpus,
    /// Which processor they are.
    Processor,
    /// What the guest is told of speculation.
    Speculation,
    /// The interrupt controller.
    InterruptController,
    /// The kernel's command line.
    KernelCommandLine,
    /// A passed-through device.
    Device,
    /// A disk.
    Disk,
    /// A network card.
    Network,
    /// A port of a serial device.
    SerialPort,
    /// A device of sockets between guest and host.
    Vsock,
    /// A file system of the host's.
    FileSystem,
    /// A host bridge that it is behind.
    HostBridge,
    /// The default DMA window of a host bridge.
    DmaWindow,
    /// Where the guest's terminal is.
    Console,
    /// Where counters are written.
    Stats,
}

/// An error with its causes in one line, behind the option that it is about.
pub fn message(error: &dyn Error, option: Option<&str>) -> String {
    match option {
        Some(option) => format!("{option}: {}", chain(error)),
        None => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proc_macro2::{Delimiter, TokenStream, TokenTree};

    use super::*;
    use crate::cli;
    use crate::qemu::command_line;

    const ALL: [Setting; 17] = [
        Setting::FileSystem,
        Setting::Disk,
        Setting::Network,
        Setting::SerialPort,
        Setting::Vsock,
        Setting::Speculation,
        Setting::Memory,
        Setting::Hugepages,
        Setting::Cpus,
        Setting::Processor,
        Setting::InterruptController,
        Setting::KernelCommandLine,
        Setting::Device,
        Setting::HostBridge,
        Setting::DmaWindow,
        Setting::Console,
        Setting::Stats,
    ];

    /// `--memory` and so on: what `spapr-vmm` has.
    fn own_options() -> Vec<String> {
        let command = cli::CommandLine::described();
        let subcommands = command.get_subcommands();
        let arguments = subcommands.flat_map(clap::Command::get_arguments);
        let longs = arguments.chain(command.get_arguments());
        let longs = longs.filter_map(clap::Arg::get_long);
        longs.map(|long| format!("--{long}")).collect()
    }

    /// `-m` and so on: what `spapr-vmm-qemu` has.
    fn front_end_options() -> Vec<String> {
        let names = command_line::option_names();
        names.map(|name| format!("-{name}")).collect()
    }

    #[test]
    fn settings_have_the_names_of_options_that_there_are() {
        let (own, front_end) = (own_options(), front_end_options());
        for setting in ALL {
            if let Some(option) = cli::option_of(setting) {
                assert!(own.iter().any(|known| known == option), "{option}");
            }
            if let Some(option) = command_line::option_of(setting) {
                let name = option.split(' ').next().unwrap_or_default();
                assert!(front_end.iter().any(|known| known == name), "{option}");
            }
        }
    }

    #[test]
    fn an_error_stands_behind_the_option_it_is_about() {
        let error = std::io::Error::other("guest memory is too small");
        let name = cli::option_of(Setting::Memory);
        assert_eq!(message(&error, name), "--memory: guest memory is too small");
        let name = command_line::option_of(Setting::Memory);
        assert_eq!(message(&error, name), "-m: guest memory is too small");
        assert_eq!(message(&error, None), "guest memory is too small");
    }

    /// The texts of a source file that a user may get to see: its string literals, without comments, those
    /// of documentation among them, and without unit tests.
    fn texts(source: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect(source.parse().expect("Rust"), &mut found);
        found
    }

    fn collect(tokens: TokenStream, found: &mut Vec<String>) {
        let mut is_test = false;
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    if matches!(tokens.peek(), Some(TokenTree::Punct(_))) {
                        tokens.next();
                    }
                    let attribute = tokens.peek().map(ToString::to_string).unwrap_or_default();
                    let plain: String = attribute.split_whitespace().collect();
                    is_test |= plain == "[cfg(test)]";
                    if plain.starts_with("[doc=") {
                        tokens.next();
                    }
                }
                TokenTree::Group(group) if is_test && group.delimiter() == Delimiter::Brace => {
                    is_test = false;
                }
                TokenTree::Punct(end) if end.as_char() == ';' => is_test = false,
                TokenTree::Group(group) => collect(group.stream(), found),
                TokenTree::Literal(literal) if !is_test => {
                    let text = literal.to_string();
                    if text.contains('"') {
                        let lines = text.split("\\\n").map(str::trim_start);
                        found.push(lines.collect());
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether `text` has `option` as a word of its own.
    fn names(text: &str, option: &str) -> bool {
        let inside = |it: char| it.is_alphanumeric() || "-_}".contains(it);
        text.match_indices(option).any(|(start, _)| {
            let before = text[..start].chars().next_back();
            let after = text[start + option.len()..].chars().next();
            !before.is_some_and(inside) && !after.is_some_and(inside)
        })
    }

    fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                rust_files(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }

    /// The options that texts of a file may not name, by the file's place below the workspace.
    fn foreign(place: &Path) -> Vec<String> {
        let below = |folders: &[&str]| folders.iter().any(|folder| place.starts_with(folder));
        let is_own = below(&[
            "vmm/src/main.rs",
            "vmm/src/cli",
            "vmm/src/cli.rs",
            "vmm/src/run.rs",
            "vmm/src/failing_disks.rs",
            "vmm/src/iommu_report",
        ]);
        let is_front_end = below(&["vmm/src/qemu", "vmm/src/bin"]);
        let own = (!is_own).then(own_options).unwrap_or_default();
        let front_end = (!is_front_end).then(front_end_options).unwrap_or_default();
        [own, front_end].concat()
    }

    #[test]
    fn no_text_names_an_option_that_its_reader_may_not_have() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for folder in ["vmm/src", "vmm/kvm/src", "devices/src", "hypercalls/src"] {
            rust_files(&workspace.join(folder), &mut files);
        }
        let mut wrong = Vec::new();
        let mut read = 0;
        for file in files {
            let place = file.strip_prefix(&workspace).expect("below it").to_owned();
            let is_test = place.iter().any(|part| {
                let part = part.to_string_lossy();
                let stem = part.strip_suffix(".rs").unwrap_or(&part);
                matches!(stem, "tests" | "fuzz") || stem.ends_with("_tests")
            });
            if is_test {
                continue;
            }
            let foreign = foreign(&place);
            for text in texts(&fs::read_to_string(&file).expect("a file")) {
                read += 1;
                let named = foreign.iter().find(|option| names(&text, option));
                wrong
                    .extend(named.map(|option| format!("{}: {option} in {text}", place.display())));
            }
        }
        assert!(read > 1000, "{read} texts alone");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn texts_are_found_in_attributes_and_macros_and_not_in_tests_and_comments() {
        let source = r#"
            //! --cpus
            /// --cpus
            #[error("too small \
                     (--memory)")]
            struct A;
            fn f() { log::warn!("give {} less", "-m"); }
            #[cfg(test)]
            use a::b;
            const C: &str = "after";
            #[cfg(test)]
            mod tests { const T: &str = "--vfio"; }
        "#;
        let expected = [
            "\"too small (--memory)\"",
            "\"give {} less\"",
            "\"-m\"",
            "\"after\"",
        ];
        assert_eq!(texts(source), expected);
        assert!(names("(--memory)", "--memory") && names("give -m less", "-m"));
        assert!(!names("--memory-size", "--memory") && !names("--memory", "-memory"));
        assert!(!names("{kind}-name", "-name"));
    }
}
