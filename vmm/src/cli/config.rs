//! A file with options of `spapr-vmm run`, in TOML: `--config` reads one, `--print-config` writes one.
//!
//! What an option is called, what it may be and what it is when nobody says are clap's definitions in the module
//! above, for files as for what is typed: a file's options are read one by one, so that an error has a line, and then
//! as if they had been typed behind the others.

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::CommandLine;

/// Options that say what is done with options: they are in no file.
const NOT_IN_FILES: [&str; 4] = ["config", "print-config", "help", "version"];

/// Columns of a comment in a file.
const COLUMNS: usize = 78;

/// What a command line, with its file, asks for.
#[derive(Debug)]
pub enum Asked {
    /// A command.
    Command(Box<CommandLine>),
    /// This text on standard output, and nothing else.
    Text(String),
}

/// Why options cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What was typed is wrong, or asks for help. clap tells of it in its own way.
    #[error(transparent)]
    Typed(#[from] clap::Error),
    /// The file cannot be read.
    #[error("--config: cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {what}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong, with the option's name.
        what: String,
    },
    /// There is no kernel in it, and none was typed.
    #[error("{}: there is no kernel = \"FILE\" in it, and --kernel was not given", .path.display())]
    NoKernel {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a command line, its program's name first, and the file that it names, by clap's description of
/// [`CommandLine`]: a program that reads its own once need not take that apart before it goes on.
///
/// # Errors
/// What is wrong in either.
pub fn read(
    typed: impl IntoIterator<Item = OsString>,
    description: &mut clap::Command,
) -> Result<Asked, ConfigError> {
    let mut words: Vec<OsString> = typed.into_iter().collect();
    let mut matches = description.try_get_matches_from_mut(&words)?;
    if let Some(run) = matches.subcommand_matches("run") {
        let path = run.get_one::<PathBuf>("config").cloned();
        if let Some(path) = &path {
            let file = File::read(path)?;
            words.extend(file.words(run)?);
            matches = description.try_get_matches_from_mut(&words)?;
        }
        if let Some(run) = matches.subcommand_matches("run") {
            if run.get_flag("print_config") {
                return Ok(Asked::Text(printed(run)));
            }
            match path {
                Some(path) if !run.contains_id("kernel") => {
                    return Err(ConfigError::NoKernel { path });
                }
                _ => {}
            }
        }
    }
    let command_line = CommandLine::from_arg_matches(&matches);
    let command_line = command_line.map_err(|error| error.format(description))?;
    Ok(Asked::Command(Box::new(command_line)))
}

/// The options that can be in a file, in the order in which help has them.
fn options() -> Vec<Arg> {
    let command = CommandLine::described();
    let run = command.find_subcommand("run").into_iter();
    let options = run.flat_map(clap::Command::get_arguments);
    options
        .filter(|option| {
            let name = option.get_long();
            name.is_some_and(|name| !NOT_IN_FILES.contains(&name))
        })
        .cloned()
        .collect()
}

struct File<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> File<'a> {
    fn read(path: &'a Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { path, text })
    }

    /// The file's options that were not typed, as they would be.
    fn words(&self, typed: &ArgMatches) -> Result<Vec<OsString>, ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            self.wrong(&span, error.message().trim_end().to_owned())
        })?;
        let options = options();
        let mut words = Vec::new();
        // In the file's order: what is wrong first is told.
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let option = options
                .iter()
                .find(|option| option.get_long() == Some(name));
            let option = option.ok_or_else(|| self.wrong(&key.span(), unknown(name, &options)))?;
            let own = self.words_of(name, option, value)?;
            let is_typed = typed.value_source(option.get_id().as_str());
            if is_typed != Some(ValueSource::CommandLine) {
                words.extend(own);
            }
        }
        Ok(words)
    }

    /// An option's words, each of which is what the option takes.
    fn words_of(
        &self,
        name: &str,
        option: &Arg,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<OsString>, ConfigError> {
        let is_flag = matches!(option.get_action(), ArgAction::SetTrue);
        let is_list = matches!(option.get_action(), ArgAction::Append);
        let values = match value.get_ref() {
            DeValue::Boolean(is_on) if is_flag => {
                return Ok(is_on
                    .then(|| format!("--{name}").into())
                    .into_iter()
                    .collect());
            }
            DeValue::Array(values) if is_list => values.iter().collect(),
            _ => vec![value],
        };
        let mut words = Vec::new();
        for value in values {
            let text = match value.get_ref() {
                DeValue::String(text) if !is_flag => text.to_string(),
                DeValue::Integer(number) if !is_flag && number.radix() == 10 => {
                    number.as_str().to_owned()
                }
                _ => return Err(self.wrong(&value.span(), kind(name, is_flag, is_list))),
            };
            let word = OsString::from(format!("--{name}={text}"));
            check(option, &word)
                .map_err(|why| self.wrong(&value.span(), format!("{name} = {text:?}: {why}")))?;
            words.push(word);
        }
        Ok(words)
    }

    fn wrong(&self, span: &Range<usize>, what: String) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        ConfigError::Wrong {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            what,
        }
    }
}

/// What is said of a key that is none.
fn unknown(name: &str, options: &[Arg]) -> String {
    let known: Vec<&str> = options.iter().filter_map(Arg::get_long).collect();
    let known = known.join(", ");
    match name {
        name if NOT_IN_FILES.contains(&name) => {
            format!("{name}: --{name} can only be typed")
        }
        _ => format!("{name}: there is no option --{name}; there are {known}"),
    }
}

/// What an option's value has to be.
fn kind(name: &str, is_flag: bool, is_list: bool) -> String {
    let kind = match (is_flag, is_list) {
        (true, _) => "true or false",
        (false, true) => "a string, or a list of strings",
        (false, false) => "a string, or a number",
    };
    format!("{name}: write {kind}")
}

/// Whether `option` takes the word, which names it and has a value.
fn check(option: &Arg, word: &OsString) -> Result<(), String> {
    // The kernel's option names these two.
    let others = ["config", "print_config"].map(|name| Arg::new(name).long(name));
    let alone = clap::Command::new("spapr-vmm")
        .no_binary_name(true)
        .arg(option.clone())
        .args(others);
    let error = match alone.try_get_matches_from([word]) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if let Some(source) = error.source() {
        return Err(source.to_string());
    }
    match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            Err(format!("it can be {}", valid.join(", ")))
        }
        (ErrorKind::InvalidValue, _) => Err("a value is missing".to_owned()),
        _ => Err(error.kind().to_string()),
    }
}

/// The options that are given as a file has them, and the others as comments.
fn printed(given: &ArgMatches) -> String {
    let mut text = String::from("# Options of spapr-vmm run; spapr-vmm run --help tells more.\n");
    for option in options() {
        let Some(name) = option.get_long() else {
            continue;
        };
        text.push('\n');
        let help = option.get_help().map(ToString::to_string);
        comment(&mut text, &help.unwrap_or_default());
        let id = option.get_id().as_str();
        let is_given = given.value_source(id) == Some(ValueSource::CommandLine);
        let mark = if is_given { "" } else { "# " };
        let value = match option.get_action() {
            ArgAction::SetTrue => given.get_flag(id).to_string(),
            action => {
                let raw = given.get_raw(id).into_iter().flatten();
                let mut values: Vec<String> =
                    raw.map(|value| written(&value.to_string_lossy())).collect();
                if values.is_empty() {
                    let names = option.get_value_names().unwrap_or_default();
                    values.extend(names.iter().map(|name| written(name.as_str())));
                }
                match action {
                    ArgAction::Append => format!("[{}]", values.join(", ")),
                    _ => values.concat(),
                }
            }
        };
        let _ = writeln!(text, "{mark}{name} = {value}");
    }
    text
}

/// A value as a file has it: a number without a unit, or a string.
fn written(text: &str) -> String {
    let is_number = text
        .parse::<u32>()
        .is_ok_and(|number| number.to_string() == text);
    if is_number {
        return text.to_owned();
    }
    toml::Value::String(text.to_owned()).to_string()
}

/// Text as lines of comment.
fn comment(to: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            to.push_str(&line);
            to.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    to.push_str(&line);
    to.push('\n');
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
