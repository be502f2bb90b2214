//! Links the guests as a kernel is linked: static, at a fixed address, without a C library.

use std::env;
use std::path::Path;

/// Where the guests are linked to run; see the script.
const SCRIPT: &str = "guest.ld";

fn main() {
    let script = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join(SCRIPT);
    let lines = [
        "-nostartfiles".to_owned(),
        "-nostdlib".to_owned(),
        "-static".to_owned(),
        // The target's default, for hosts' programs, is static-pie.
        "-no-pie".to_owned(),
        format!("-Wl,-T,{}", script.display()),
        "-Wl,--build-id=none".to_owned(),
        "-Wl,-z,max-page-size=65536".to_owned(),
        "-Wl,--no-warn-rwx-segments".to_owned(),
    ];
    let mut directives = format!("cargo::rerun-if-changed={SCRIPT}\n");
    let bare_metal = env::var_os("CARGO_FEATURE_BARE_METAL").is_some();
    if bare_metal && env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "powerpc64") {
        for argument in lines {
            directives.push_str(&format!("cargo::rustc-link-arg-bins={argument}\n"));
        }
    }
    let mut stdout = std::io::stdout().lock();
    std::io::Write::write_all(&mut stdout, directives.as_bytes()).unwrap_or_default();
}
