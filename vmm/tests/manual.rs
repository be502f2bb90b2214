//! The manual pages and completions that packages have, as they are written for them.

// Its `main` is the program's that packaging runs.
#[expect(dead_code)]
#[path = "../examples/manual.rs"]
mod manual;

use std::fs;
use std::path::Path;
use std::process::Command;

use spapr_vmm::cli::CommandLine;

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    manual::write(folder.path()).expect("pages and completions");
    folder
}

/// What bash offers for the last of `words`.
fn offered(completions: &Path, words: &[&str]) -> Vec<String> {
    // As bash calls it: the program's name, the word that is being typed, and the one before it.
    let script = r#"source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        completes=$(complete -p "$1"); completes=${completes#*-F }
        "${completes%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-uc", script, "bash"]);
    let output = bash.arg(completions).args(words).output().expect("bash");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{why}");
    let offered = String::from_utf8(output.stdout).expect("words");
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn each_option_has_its_place_in_its_manual_page() {
    let folder = written();
    let command = CommandLine::described();
    // clap's own command has no page.
    let subcommands = command
        .get_subcommands()
        .filter(|it| it.get_name() != "help");
    for subcommand in subcommands {
        let name = format!("man/spapr-vmm-{}.1", subcommand.get_name());
        let page = fs::read_to_string(folder.path().join(&name)).expect("a page");
        for part in [".SH NAME", "\"spapr-vmm 0.", "EXIT STATUS\"", "SEE ALSO\""] {
            assert!(page.contains(part), "{name} has no {part}");
        }
        // What clap_mangen calls a section that it does not know.
        assert!(!page.contains("EXTRA"), "{name}");
        let options = subcommand.get_arguments().filter(|it| !it.is_hide_set());
        for option in options.filter_map(|it| it.get_long()) {
            // A hyphen of an option is a minus.
            let escaped = format!("\\-\\-{}", option.replace('-', "\\-"));
            assert!(page.contains(&escaped), "{name} has no {escaped}");
        }
    }
    for name in ["spapr-vmm.1", "spapr-vmm-qemu.1"] {
        let page = fs::read_to_string(folder.path().join("man").join(name)).expect("a page");
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let folder = written();
    let completions = folder.path().join("completions/spapr-vmm.bash");
    let offered = |words: &[&str]| offered(&completions, words);
    assert_eq!(offered(&["spapr-vmm", "io"]), ["iommu"]);
    assert_eq!(
        offered(&["spapr-vmm", "run", "--lock"]),
        ["--lock", "--lock-region"]
    );
    assert_eq!(
        offered(&["spapr-vmm", "run", "--tce", ""]),
        ["auto", "kernel", "user"]
    );
    assert_eq!(
        offered(&["spapr-vmm", "iommu", "0001:01:00.0", "--sh"]),
        ["--short"]
    );
}

#[test]
fn zsh_and_fish_have_each_option_too() {
    let folder = written();
    let command = CommandLine::described();
    let run = command.find_subcommand("run").expect("a command");
    for (name, prefix) in [("_spapr-vmm", "--"), ("spapr-vmm.fish", "-l ")] {
        let text = fs::read_to_string(folder.path().join("completions").join(name));
        let text = text.expect("completions");
        for option in run.get_arguments().filter_map(|it| it.get_long()) {
            assert!(
                text.contains(&format!("{prefix}{option}")),
                "{name}: {option}"
            );
        }
    }
}
