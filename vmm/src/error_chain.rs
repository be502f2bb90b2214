//! An error and its causes in one line.

use std::error::Error;

/// `error`, its cause, that one's cause and so on, with colons between. No error of this program repeats
/// its cause; some of other crates do (vm-memory's, event-manager's), and such a cause is not added
/// again.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_with_colons() {
        let Err(cause) = "x".parse::<u8>() else {
            panic!("x is no number")
        };
        assert_eq!(chain(&Outer(cause)), "outer: invalid digit found in string");
    }

    /// As vm-memory and event-manager do it.
    #[derive(Debug, thiserror::Error)]
    #[error("mapping failed: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let cause = std::io::Error::from_raw_os_error(libc::ENOMEM);
        let text = chain(&Repeats(cause));
        assert_eq!(text, "mapping failed: Cannot allocate memory (os error 12)");
        let size = crate::spec::ByteSize(1 << 30);
        let error = crate::memory::MemoryError::Map {
            size,
            limit_bytes: None,
            source: vm_memory::mmap::FromRangesError::MmapRegion(
                vm_memory::mmap::MmapRegionError::Mmap(std::io::Error::from_raw_os_error(
                    libc::ENOMEM,
                )),
            ),
        };
        let text = chain(&error);
        assert_eq!(text.matches("os error 12").count(), 1, "{text}");
    }

    /// Every `#[error(…)]` of a file with the variant or struct that follows it.
    fn errors(source: &str) -> impl Iterator<Item = (&str, &str)> {
        source.split("#[error(").skip(1).filter_map(|rest| {
            let (text, rest) = rest.split_once(")]\n")?;
            let end = rest.find("\n    },").or_else(|| rest.find("),\n"));
            let end = end.or_else(|| rest.find('\n')).unwrap_or(rest.len());
            Some((text, &rest[..end]))
        })
    }

    /// Whether the text has the variant's cause in it, which the chain adds.
    fn repeats_its_cause(text: &str, variant: &str) -> bool {
        let names = ["{source}", "{source:", "{0}", "{0:"];
        let is_named = names[..2].iter().any(|name| text.contains(name));
        let is_first = names[2..].iter().any(|name| text.contains(name));
        let first_is_cause = ["(#[source]", "(#[from]"]
            .iter()
            .any(|it| variant.contains(it));
        is_named || is_first && first_is_cause
    }

    fn look_through(folder: &std::path::Path, found: &mut Vec<String>) -> usize {
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                count += look_through(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("error_chain.rs")
            {
                let source = std::fs::read_to_string(&path).expect("a source file");
                for (text, variant) in errors(&source) {
                    count += 1;
                    if repeats_its_cause(text, variant) {
                        found.push(format!("{}: {text}", path.display()));
                    }
                }
            }
        }
        count
    }

    #[test]
    fn no_error_of_this_program_has_its_cause_in_its_text() {
        assert!(repeats_its_cause("\"x: {source}\"", "A {\n source: E,"));
        assert!(repeats_its_cause("\"x: {0}\"", "    A(#[source] E"));
        assert!(!repeats_its_cause("\"x {0}\"", "    A(u32"));
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        let mut count = 0;
        for package in ["vmm", "devices", "hypercalls"] {
            count += look_through(&root.join(package).join("src"), &mut found);
        }
        assert!(count > 200, "only {count} errors were found");
        assert!(found.is_empty(), "{found:#?}");
    }
}
