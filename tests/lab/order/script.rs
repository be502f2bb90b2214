//! The linker script that has sections in an order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::archive::ArchiveFile;
use thiserror::Error;

use crate::command::{self, CommandError};

/// The cross-compiler, which links the programs and knows where its libraries are.
const COMPILER: &str = "powerpc64le-linux-gnu-gcc";
/// Libraries that the programs hold parts of. A part is an object file with all its functions in one section.
const LIBRARIES: [&str; 3] = ["libc.a", "libgcc.a", "libgcc_eh.a"];

/// Why the libraries' parts are not known.
#[derive(Debug, Error)]
pub(crate) enum LibrariesError {
    #[error(transparent)]
    Compiler(#[from] CommandError),
    #[error("cannot read the library {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the library {}", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: object::Error,
    },
}

/// Which part of which C library defines a symbol.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    /// By symbol, the part as linker scripts name it.
    parts: BTreeMap<String, String>,
}

impl Libraries {
    /// Those that programs for the hosts are linked with.
    pub(super) fn of_target() -> Result<Self, LibrariesError> {
        let mut libraries = Self::default();
        for library in LIBRARIES {
            let option = format!("-print-file-name={library}");
            let path = command::output(Command::new(COMPILER).arg(option))?;
            libraries.add(library, Path::new(path.trim()))?;
        }
        Ok(libraries)
    }

    fn add(&mut self, library: &str, path: &Path) -> Result<(), LibrariesError> {
        let contents = fs::read(path).map_err(|source| LibrariesError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.add_archive(library, &contents)
            .map_err(|source| LibrariesError::Format {
                path: path.to_owned(),
                source,
            })
    }

    fn add_archive(&mut self, library: &str, contents: &[u8]) -> Result<(), object::Error> {
        let archive = ArchiveFile::parse(contents)?;
        for symbol in archive.symbols()?.into_iter().flatten() {
            let symbol = symbol?;
            let part = archive.member(symbol.offset())?;
            let name = String::from_utf8_lossy(symbol.name()).into_owned();
            let part = String::from_utf8_lossy(part.name()).into_owned();
            self.parts
                .entry(name)
                .or_insert(format!("*{library}:{part}"));
        }
        Ok(())
    }

    /// The sections with these functions, as linker scripts name them.
    pub(super) fn sections(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let section = |name: &String| match self.parts.get(name) {
            Some(part) => format!("{part}(.text .text.*)"),
            // Functions that are marked as cold are in `.text.unlikely.NAME`; they run, too, now and then.
            None => format!("*(.text*.{})", lasting(name)),
        };
        names.iter().map(section).collect()
    }
}

/// A symbol of Rust's without what differs from build to build: the hash at the end of the old names, and those of
/// crates in the new ones (`Cs…_`, the RFC "Symbol Name Mangling v2").
fn lasting(symbol: &str) -> String {
    if symbol.starts_with("_ZN") {
        return match symbol.rfind("17h") {
            Some(hash) => format!("{}*", &symbol[..hash + "17h".len()]),
            None => symbol.to_owned(),
        };
    }
    if !symbol.starts_with("_R") {
        return symbol.to_owned();
    }
    let mut pieces = symbol.split("Cs");
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let hash = piece.split('_').next().unwrap_or_default();
        let is_hash = hash.len() > 6 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        name.push_str(if is_hash { "Cs*" } else { "Cs" });
        name.push_str(if is_hash { &piece[hash.len()..] } else { piece });
    }
    name
}

/// The script, of sections and what was seen to run them: first what all do, then by who does, so that whoever does
/// one thing alone has little of the rest.
pub(super) fn text(sections: &BTreeMap<String, Vec<&str>>) -> String {
    let mut order: Vec<_> = sections.iter().collect();
    order.sort_by_key(|&(section, runners)| (Reverse(runners.len()), runners, section));
    let mut text = String::from(
        "/* What of the programs runs, one after the other, so that the rest is not in memory (build.rs).\n   \
         Made by `cargo lab order`; names that are no longer there do no harm. */\n\
         SECTIONS\n{\n  .text.runs :\n  {\n",
    );
    for (section, _) in order {
        let _ = writeln!(text, "    {section}");
    }
    text.push_str("  }\n}\nINSERT BEFORE .text;\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_without_what_the_next_build_changes() {
        let old = "_ZN9spapr_vmm3run3run17h0123456789abcdefE";
        assert_eq!(lasting(old), "_ZN9spapr_vmm3run3run17h*");
        let new = "_RNvXs_NtCs4b3Yg1xWqZt_4core3fmtNtB4_5Debug3fmtCsdEfGhIjKlMn_3std";
        assert_eq!(
            lasting(new),
            "_RNvXs_NtCs*_4core3fmtNtB4_5Debug3fmtCs*_3std"
        );
        assert_eq!(lasting("malloc"), "malloc");
    }

    #[test]
    fn a_librarys_function_brings_the_part_that_it_is_in() {
        let libraries = Libraries {
            parts: [("malloc".to_owned(), "*libc.a:malloc.o".to_owned())].into(),
        };
        let names = ["malloc", "main"].map(str::to_owned).into();
        let sections = ["*(.text*.main)", "*libc.a:malloc.o(.text .text.*)"];
        assert_eq!(
            libraries.sections(&names),
            sections.map(str::to_owned).into()
        );
    }

    #[test]
    fn what_runs_always_comes_first_and_what_runs_together_stands_together() {
        let sections = [
            ("*(.text*.a)", vec!["virtio"]),
            ("*(.text*.b)", vec!["device"]),
            ("*(.text*.c)", vec!["virtio"]),
            ("*(.text*.d)", vec!["device", "virtio"]),
        ];
        let text = text(&sections.map(|(name, who)| (name.to_owned(), who)).into());
        let places = ["d", "b", "a", "c"].map(|name| text.find(&format!(".{name})")).unwrap());
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains("INSERT BEFORE .text;"), "{text}");
    }
}
