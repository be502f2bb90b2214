//! Linux guests of several sizes.

use crate::harness::Vmm;
use crate::harness::finished::Finished;

/// What a guest says of the machine that it finds.
const LOOK: &str = "
echo LAB-GUEST-CPUS $(nproc)
echo LAB-GUEST-MEMORY $(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
echo LAB-GUEST-MMU $(awk -F': ' '/^MMU/ { print $2; exit }' /proc/cpuinfo)
echo LAB-GUEST-PLATFORM $(awk -F': ' '/^platform/ { print $2; exit }' /proc/cpuinfo)
";

fn boot(cpus: u64, memory: &str, mebibytes: u64) -> Finished {
    let vmm = Vmm::job(LOOK)
        .option("--cpus", &cpus.to_string())
        .option("--memory", memory);
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("CPUS"), cpus.to_string(), "{finished}");
    let kib: u64 = finished.guest("MEMORY").parse().expect("a number");
    // The kernel keeps some for itself.
    assert!(
        (mebibytes * 7 / 8..=mebibytes).contains(&(kib >> 10)),
        "{finished}"
    );
    assert_eq!(finished.guest("MMU"), "Radix", "{finished}");
    assert_eq!(finished.guest("PLATFORM"), "pSeries", "{finished}");
    finished
}

#[test]
fn one_processor_and_one_gibibyte() {
    let finished = boot(1, "1G", 1024);
    assert_eq!(finished.number("/reboots"), 0, "{finished}");
    assert_eq!(
        finished.number("/memory/guest_bytes"),
        1 << 30,
        "{finished}"
    );
    assert!(
        finished.number("/first_guest_instruction_ns") > 0,
        "{finished}"
    );
}

#[test]
fn four_processors_and_two_gibibytes() {
    boot(4, "2G", 2048);
}

/// The same with more of them.
mod long {
    use super::*;

    #[test]
    fn eight_processors() {
        boot(8, "1G", 1024);
    }
}
