//! Files of options: read, refused and written.

use std::io::Write;

use clap::CommandFactory;

use super::*;
use crate::cli::{Command, RunArguments};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("room for a file");
    file.write_all(text.as_bytes()).expect("room for a file");
    file
}

fn read_with(text: &str, typed: &[&str]) -> Result<Asked, ConfigError> {
    let file = file(text);
    let path = file.path().to_str().expect("a path of ours");
    let words = ["spapr-vmm", "run", "--config", path].into_iter();
    let words = words.chain(typed.iter().copied());
    read(words.map(OsString::from), &mut CommandLine::command())
}

fn run_with(text: &str, typed: &[&str]) -> RunArguments {
    match read_with(text, typed) {
        Ok(Asked::Command(line)) => match line.command {
            Command::Run(arguments) => *arguments,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What is wrong, without the file's name.
fn refusal(text: &str) -> String {
    let error = read_with(text, &[]).expect_err("refused").to_string();
    let (_, rest) = error.split_once(':').expect("a file's name first");
    rest.to_owned()
}

#[test]
fn a_file_has_the_names_of_the_options_and_what_is_typed_wins() {
    let text = "kernel = \"/k\"\nmemory = \"4G\"\ncpus = 4\nsandbox = true\nrng = false\n\
        vfio = [\"0001:01:00.0\", \"2:0\"]\nddw = \"off\"\nappend = 'root=\"/dev/nvme0n1\"'\nlog = \"info\"\n";
    let run = run_with(text, &["--cpus", "2", "--vfio", "0003:01:00.0"]);
    assert_eq!(run.kernel, Path::new("/k"));
    assert_eq!((run.memory.0, run.cpus), (4 << 30, 2));
    assert_eq!((run.sandbox, run.rng), (true, false));
    assert_eq!(run.append, "root=\"/dev/nvme0n1\"");
    let vfio: Vec<String> = run.vfio.iter().map(|it| it.host.to_string()).collect();
    assert_eq!(vfio, ["0003:01:00.0"]);
    assert_eq!(run_with(text, &[]).vfio.len(), 2);
    let Ok(Asked::Command(line)) = read_with(text, &[]) else {
        panic!("no command");
    };
    assert_eq!(line.log, log::LevelFilter::Info);
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line_and_key() {
    for (text, expected) in [
        (
            "kernel = \"k\"\n\nmemory = \"1000\"\n",
            "3: memory = \"1000\": ",
        ),
        (
            "kernel = \"k\"\ncpus = 0\n",
            "2: cpus = \"0\": 0 is not in 1..=1024",
        ),
        (
            "tce = \"fast\"\n",
            "1: tce = \"fast\": it can be auto, kernel, user",
        ),
        (
            "memroy = \"1G\"\n",
            "1: memroy: there is no option --memroy; there are kernel, ",
        ),
        ("sandbox = \"yes\"\n", "1: sandbox: write true or false"),
        (
            "# x\nmemory = true\n",
            "2: memory: write a string, or a number",
        ),
        (
            "vfio = [\"1:0\",\n 7.5]\n",
            "2: vfio: write a string, or a list of strings",
        ),
        ("vfio = \"x\"\n", "1: vfio = \"x\": "),
        ("config = \"x\"\n", "1: config: --config can only be typed"),
        ("memory = \n", "1: "),
        ("memory = \"1G\"\nmemory = \"2G\"\n", "2: duplicate key"),
        (
            "[machine]\nmemory = \"1G\"\n",
            "1: machine: there is no option",
        ),
    ] {
        let told = refusal(text);
        assert!(told.starts_with(expected), "{text:?}: {told:?}");
    }
    assert_eq!(
        refusal("memory = \"1G\"\n"),
        " there is no kernel = \"FILE\" in it, and --kernel was not given"
    );
}

#[test]
fn an_option_that_is_wrong_in_the_file_is_told_even_if_it_is_typed_too() {
    let error = read_with("kernel = \"k\"\ncpus = 0\n", &["--cpus", "1"]);
    assert!(matches!(error, Err(ConfigError::Wrong { line: 2, .. })));
}

#[test]
fn without_a_file_a_kernel_has_to_be_typed() {
    let words = ["spapr-vmm", "run", "--cpus", "2"].map(OsString::from);
    let error = read(words, &mut CommandLine::command())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("--kernel <FILE>"), "{error}");
}

#[test]
fn what_is_printed_is_read_as_what_was_typed() {
    let typed = [
        "--kernel",
        "/boot/a \"b\"",
        "--memory",
        "2G",
        "--vfio",
        "1:0",
        "--vfio",
        "2:0",
        "--rng",
        "--log",
        "debug",
    ];
    let print = |typed: &[&str]| {
        let words = ["spapr-vmm", "run", "--print-config"].into_iter();
        let words = words.chain(typed.iter().copied());
        match read(words.map(OsString::from), &mut CommandLine::command()) {
            Ok(Asked::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let text = print(&typed);
    let run = run_with(&text, &[]);
    assert_eq!(run.kernel, Path::new("/boot/a \"b\""));
    assert_eq!((run.memory.0, run.vfio.len(), run.rng), (2 << 30, 2, true));
    // A file's own options are in it, too.
    let Ok(Asked::Text(again)) = read_with(&text, &["--print-config"]) else {
        panic!("no text");
    };
    assert_eq!(again, text);
    // Each option stands in it, as a comment if need be, and no line is too long for a terminal.
    let empty = print(&[]);
    for option in options() {
        let name = option.get_long().expect("a name");
        assert!(empty.contains(&format!("\n# {name} = ")), "{name}");
    }
    assert!(empty.lines().all(|line| line.len() <= 80), "{empty}");
    let uncommented: String = empty
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = ") && line.starts_with(|it: char| it.is_lowercase()))
        .filter(|line| !line.contains("console=hvc0\", "))
        .fold(String::new(), |all, line| all + line + "\n");
    assert!(DeTable::parse(&uncommented).is_ok(), "{uncommented}");
}
