//! The command lines in README.md and docs/ are read as the programs read them.

use std::fs;
use std::path::Path;

use clap::Parser;
use spapr_lab::documents::{self, CommandLine, command_lines};
use spapr_vmm::cli;
use spapr_vmm::qemu::command_line;

/// All command lines of `program`, with the place of each.
fn shown(program: &str) -> Vec<(String, CommandLine)> {
    let mut shown = Vec::new();
    for page in documents::pages().expect("pages") {
        let lines = command_lines(&page.contents(), program).into_iter();
        shown.extend(lines.map(|line| (format!("{}:{}", page.path.display(), line.line), line)));
    }
    shown
}

/// What is wrong with a synopsis, or with words that name an option and are no whole command line.
fn unknown_option(words: &[String]) -> Option<String> {
    let command = cli::CommandLine::described();
    let subcommand = words
        .iter()
        .find_map(|word| command.find_subcommand(word))?;
    let names = words.iter().filter_map(|word| {
        let name = word.trim_matches(['[', ']', '.', '…']).strip_prefix("--")?;
        name.split(['=', '|', ']']).next()
    });
    let is_known = |name: &str| {
        let mut all = subcommand.get_arguments().chain(command.get_arguments());
        ["help", "version"].contains(&name) || all.any(|it| it.get_long() == Some(name))
    };
    let unknown = names
        .filter(|name| !name.is_empty())
        .find(|name| !is_known(name));
    unknown.map(|name| format!("{} has no --{name}", subcommand.get_name()))
}

#[test]
fn command_lines_of_spapr_vmm_are_read() {
    let mut wrong = Vec::new();
    let shown = shown("spapr-vmm");
    for (place, line) in &shown {
        let words = line.words.iter().map(String::as_str);
        let problem = if line.is_synopsis || line.words.len() < 2 {
            unknown_option(&line.words)
        } else {
            let read = cli::CommandLine::try_parse_from(std::iter::once("spapr-vmm").chain(words));
            // `--help` and what lacks what every guest needs are told of options, not of a whole command line.
            read.err().and_then(|error| match error.kind() {
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => {
                    None
                }
                clap::error::ErrorKind::MissingRequiredArgument => unknown_option(&line.words),
                _ => Some(error.to_string()),
            })
        };
        wrong.extend(problem.map(|problem| format!("{place}: {:?}: {problem}", line.words)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(shown.len() > 15, "{} command lines found", shown.len());
}

#[test]
fn command_lines_of_the_front_end_are_read() {
    let mut wrong = Vec::new();
    let shown = shown("spapr-vmm-qemu");
    for (place, line) in shown
        .iter()
        .filter(|(_, line)| !line.is_synopsis && !line.words.is_empty())
    {
        let is_question = command_line::answer(&line.words).is_some();
        let read = command_line::CommandLine::parse(line.words.iter().cloned());
        if let Err(error) = read
            && !is_question
        {
            wrong.push(format!("{place}: {:?}: {error}", line.words));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!shown.is_empty());
}

/// All string literals of the product's source, each on one line.
fn literals_of_source() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let source = fs::read_to_string(&path).expect("source");
                // A literal goes on behind a backslash at a line's end, without the spaces that follow.
                let mut parts = source.split("\\\n");
                text.push_str(parts.next().unwrap_or_default());
                parts.for_each(|part| text.push_str(part.trim_start()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for folder in ["vmm/src", "devices/src", "hypercalls/src"] {
        collect(&root.join(folder), &mut text);
    }
    text
}

/// Whoever has a message finds it: what the page has of messages in their first column stands so in the source.
#[test]
fn messages_that_are_explained_are_those_of_the_program() {
    let source = literals_of_source();
    let page = documents::page("troubleshooting.md").expect("a page");
    let own = page
        .text
        .split("## What the host's kernel says")
        .next()
        .unwrap_or_default();
    let mut explained = 0;
    for row in own.lines().filter_map(|line| line.strip_prefix("| `")) {
        let message = row.split('`').next().unwrap_or_default();
        explained += 1;
        assert!(source.contains(message), "nothing says {message:?}");
    }
    assert!(explained > 20, "{explained} messages");
}

/// What a domain takes under AppArmor stands in a page and in the packages: the same lines.
#[test]
fn the_packages_have_the_lines_for_apparmor_that_the_page_has() {
    let page = documents::page("libvirt.md").expect("a page").contents();
    let mut blocks = page.blocks.iter().map(|block| &*block.text);
    let of_page = blocks.find(|text| text.contains("spapr-vmm-qemu rmix,"));
    let packaged = include_str!("../packaging/apparmor.libvirt-qemu").lines();
    let packaged: Vec<&str> = packaged.filter(|line| !line.starts_with('#')).collect();
    assert_eq!(Vec::from_iter(of_page.expect("lines").lines()), packaged);
}
