//! The targets on the inputs that are kept: those that reach something new, and those that once had one panic.

use std::fs;
use std::path::{Path, PathBuf};

use spapr_fuzz::{TARGETS, find};

/// A corpus is kept small: what it reaches, not all of the ways there.
const MOST_INPUTS: usize = 400;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn nothing_that_is_kept_has_a_target_panic() {
    for target in TARGETS {
        for kind in ["corpus", "found"] {
            for input in files(&folder(kind).join(target.name)) {
                let bytes = fs::read(&input).expect("a file");
                let run = std::panic::catch_unwind(|| (target.run)(&bytes));
                assert!(run.is_ok(), "{} panics on {}", target.name, input.display());
            }
        }
    }
}

#[test]
fn each_target_has_a_corpus_that_is_small_and_each_corpus_a_target() {
    for target in TARGETS {
        let inputs = files(&folder("corpus").join(target.name));
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        assert!(
            inputs.len() <= MOST_INPUTS,
            "{}: {}",
            target.name,
            inputs.len()
        );
        for input in inputs {
            let bytes = fs::metadata(&input).expect("a file").len();
            assert!(bytes <= target.most_bytes as u64, "{}", input.display());
        }
    }
    for kind in ["corpus", "found"] {
        for of_target in files(&folder(kind)) {
            let name = of_target.file_name().and_then(|name| name.to_str());
            let is_known = name.is_some_and(|name| find(name).is_some());
            // Two of them make machines on a fake of KVM, which is not there on the architecture itself.
            let is_elsewhere = cfg!(target_arch = "powerpc64");
            assert!(is_known || is_elsewhere, "{}", of_target.display());
        }
    }
}
