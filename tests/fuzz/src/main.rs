//! One target under libFuzzer: `SPAPR_FUZZ_TARGET=NAME spapr-fuzz [libFuzzer's options and folders]`. Without the
//! variable it lists the targets, each with its bytes at the most and what it is, between tabs.

#![cfg_attr(target_arch = "x86_64", no_main)]

#[cfg(target_arch = "x86_64")]
mod under_libfuzzer {
    use std::io::Write;
    use std::process::exit;
    use std::sync::{Arc, OnceLock};

    use spapr_fuzz::{TARGETS, Target, find};

    static TARGET: OnceLock<&'static Target> = OnceLock::new();

    fn choose() -> &'static Target {
        let Some(name) = std::env::var_os("SPAPR_FUZZ_TARGET") else {
            let mut out = std::io::stdout().lock();
            for Target {
                name,
                what,
                most_bytes,
                ..
            } in TARGETS
            {
                let _ = writeln!(out, "{name}\t{most_bytes}\t{what}");
            }
            drop(out);
            exit(0);
        };
        name.to_str().and_then(find).unwrap_or_else(|| {
            let text = format!("there is no fuzz target {}\n", name.display());
            let _ = std::io::stderr().write_all(text.as_bytes());
            exit(2)
        })
    }

    /// As Rust's own start of a program has it, and libFuzzer's has not: to write to a peer that has left is an error
    /// and no more.
    fn outlive_peers() {
        let told = signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::default());
        told.expect("cannot handle SIGPIPE");
    }

    libfuzzer_sys::fuzz_target!(
        init: {
            outlive_peers();
            TARGET.get_or_init(choose);
        },
        |bytes: &[u8]| {
            (TARGET.get_or_init(choose).run)(bytes);
        }
    );
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {}
