//! Has what runs of the programs stand together, so that the rest of them is not in memory.
//!
//! A page of code is read in as a whole, and pages of POWER hosts have 64 KiB: in the compiler's order there is something
//! in every page that runs. The order is in `text-order.ld`, a script that all usual linkers take beside their own
//! (`INSERT`); `cargo lab order` makes it. A function that it does not name goes where it always went.

use std::env;
use std::path::Path;

const ORDER: &str = "text-order.ld";

fn main() {
    println!("cargo::rerun-if-changed={ORDER}");
    println!("cargo::rerun-if-changed=build.rs");
    // A build without optimization has other functions.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let is_for_hosts = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "powerpc64");
    if let (true, true, Ok(folder)) = (is_release, is_for_hosts, env::var("CARGO_MANIFEST_DIR")) {
        let script = Path::new(&folder).join(ORDER);
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
