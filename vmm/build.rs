//! Places the functions that run next to each other, so that the rest need not be resident.
//!
//! A page of code is resident as a whole, and pages of POWER hosts have 64 KiB: in the compiler's order nearly every page
//! has some function that runs. The order is in `text-order.ld`, a script that ld and lld take beside their own
//! (`INSERT`); `cargo lab order` makes it. A function that it does not name goes where it always went. For a linker that
//! takes no such script, `SPAPR_VMM_TEXT_ORDER=off` leaves it out.

use std::env;
use std::path::Path;

const ORDER: &str = "text-order.ld";
const SWITCH: &str = "SPAPR_VMM_TEXT_ORDER";

fn main() {
    println!("cargo::rerun-if-changed={ORDER}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={SWITCH}");
    if env::var(SWITCH).is_ok_and(|value| value == "off") {
        return;
    }
    // A build without optimization has other functions.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let is_for_hosts = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "powerpc64");
    if let (true, true, Ok(folder)) = (is_release, is_for_hosts, env::var("CARGO_MANIFEST_DIR")) {
        let script = Path::new(&folder).join(ORDER);
        // Not by -Wl, which splits at commas.
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
