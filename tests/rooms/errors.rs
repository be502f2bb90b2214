//! Errors leave their causes to whoever prints them (`spapr_devices::error_chain`).

use std::fs;
use std::path::Path;

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

fn look_through(folder: &Path, found: &mut Vec<String>) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            count += look_through(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("error_chain.rs")
        {
            let source = fs::read_to_string(&path).expect("a source file");
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut count = 0;
    for package in ["vmm", "vmm/kvm", "devices", "hypercalls"] {
        count += look_through(&root.join(package).join("src"), &mut found);
    }
    assert!(count > 200, "only {count} errors were found");
    assert!(found.is_empty(), "{found:#?}");
}
