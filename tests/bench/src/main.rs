//! `spapr-bench`: measures spapr-vmm, QEMU and the floors below both, on the POWER host that it runs
//! on. `cargo lab bench` runs it, in an emulated host or on this machine.

#[cfg(target_arch = "powerpc64")]
mod measure;

#[cfg(target_arch = "powerpc64")]
fn main() -> std::process::ExitCode {
    measure::main()
}

/// KVM for pseries guests exists on POWER alone.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
