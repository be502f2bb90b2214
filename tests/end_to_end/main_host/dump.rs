//! A guest that is dumped, and one that is made to take a system reset.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::core_file::CoreFile;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::monitor::Monitor;

/// Memory of the guests in bytes.
const MEMORY_BYTES: u64 = 1 << 30;

/// Has the guest write a text to its memory that it has from nowhere else, and say where its kernel is.
const MARK: &str = "
number=$(printf %08d $((6 * 7)))
echo written-$number-by-the-guest >/tmp/mark
for symbol in _stext _etext linux_banner; do
    echo LAB-GUEST-SYMBOL-$symbol 0x$(grep \" $symbol$\" /proc/kallsyms | cut -d' ' -f1)
done
";

/// Where a radix kernel has its modules, the NVMe's driver among them (`RADIX_VMALLOC_START`,
/// arch/powerpc/include/asm/book3s/64/radix.h).
const MODULES: Range<u64> = 0xc008_0000_0000_0000..0xc00a_0000_0000_0000;

/// What it writes.
const MARKED: &str = "written-00000042-by-the-guest";

/// What the guest prints in front of a digest.
const DIGEST: &str = "LAB-GUEST-SHA256 ";

/// Where the guest's kernel has a symbol.
fn symbol(console: &str, name: &str) -> u64 {
    let start = format!("LAB-GUEST-SYMBOL-{name} 0x");
    let line = console.lines().find_map(|line| line.split_once(&start));
    let digits = line.unwrap_or_else(|| panic!("no {name} in {console}")).1;
    u64::from_str_radix(digits.trim(), 16).expect("an address")
}

/// Fails unless a dump succeeded.
#[track_caller]
fn assert_completed(data: &Value) {
    let result = json!({"status": "completed", "completed": MEMORY_BYTES, "total": MEMORY_BYTES});
    assert_eq!(*data, json!({"result": result}));
}

/// A file for a dump, which goes with the test.
struct Target(PathBuf);

impl Target {
    fn new(name: &str) -> (Self, File) {
        let path = PathBuf::from(format!("/tmp/{name}"));
        let file = File::create(&path).expect("file");
        (Self(path), file)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What remains is in memory until the host is off.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A pipe that nobody reads any more, and a device that has no room.
fn bad_targets() -> [(OwnedFd, &'static str); 2] {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let full = File::options().write(true).open("/dev/full").expect("full");
    [
        (writer.into(), "Broken pipe"),
        (full.into(), "No space left on device"),
    ]
}

#[test]
fn a_guest_takes_a_system_reset_when_it_is_told_to() {
    let job = "echo LAB-GUEST-WAITS; while true; do sleep 1; done";
    let (mut running, mut monitor) = FrontEnd::job(job)
        .option("-smp", "2")
        .argument("-no-shutdown")
        .start();
    running.wait_for_console("LAB-GUEST-WAITS", 1);
    // One that is paused takes it when it goes on.
    monitor.ask("stop");
    monitor.ask("inject-nmi");
    assert!(!running.console().contains("System Reset"));
    monitor.ask("cont");
    running.wait_for_console("System Reset", 1);
    monitor.ask("quit");
    running.finish().assert_status(0);
}

/// More of the same that takes its time.
mod long {
    use super::*;

    #[test]
    fn a_guest_that_crashed_is_kept_to_be_dumped_until_it_is_reset() {
        let job = [WAIT_FOR_NVME, MARK, "echo c >/proc/sysrq-trigger\n"];
        let (mut running, mut monitor) = FrontEnd::job(&job.concat())
            .nvme()
            .option("-smp", "2")
            .argument("-no-shutdown")
            .start();
        for round in 1..=2 {
            monitor.wait_for("GUEST_PANICKED");
            assert_eq!(monitor.status(), "guest-panicked");
            running.wait_for_console("LAB-GUEST-SYMBOL-linux_banner", round);
            let (target, file) = Target::new("dump-of-a-crash");
            assert_completed(&monitor.dump_to(&file));
            assert_eq!(monitor.status(), "guest-panicked");
            let core = CoreFile::open(&target.0);
            let banner = core.at(symbol(&running.console(), "linux_banner"), 14);
            assert_eq!(banner, b"Linux version ");
            assert!(core.has(MARKED));
            // The kernel's log says what happened.
            assert!(core.has("sysrq: Trigger a crash"));
            // One has told of the crash, the other was stopped by it.
            let idle = core.processors.iter().filter(|place| place.nip == 0);
            assert_eq!(idle.count(), 0, "{:x?}", core.processors);
            if round == 1 {
                monitor.ask("system_reset");
                monitor.ask("cont");
                monitor.wait_for("RESET");
            }
        }
        // In the middle of a dump that nobody reads.
        let (_reader, writer) = std::io::pipe().expect("pipe");
        monitor.pass("unread", &writer);
        let arguments = json!({"paging": false, "protocol": "fd:unread", "detach": true});
        monitor.reply("dump-guest-memory", &arguments);
        assert_eq!(monitor.ask("query-dump")["status"], "active");
        monitor.ask("quit");
        let failed = monitor.wait_for("DUMP_COMPLETED");
        assert_eq!(failed["data"]["result"]["status"], "failed");
        running.finish().assert_status(0);
        assert_nothing_is_left();
    }

    /// Dumps that come to nothing, with the reason told and the guest running on.
    #[track_caller]
    fn assert_bad_targets_are_told(monitor: &mut Monitor) {
        for (target, expected) in bad_targets() {
            let data = monitor.dump_to(target);
            assert_eq!(data["result"]["status"], "failed", "{data}");
            let error = data["error"].as_str().expect("a text");
            assert!(error.contains(expected), "{error}");
            assert_eq!(monitor.status(), "running");
        }
        let refused = monitor.reply(
            "dump-guest-memory",
            &json!({"paging": false, "protocol": "file:/tmp/dump"}),
        );
        let told = refused["error"]["desc"].as_str().expect("an error");
        assert!(told.contains("the sandbox (-sandbox on)"), "{told}");
    }

    /// Fails unless a dump has all memory, with what the guest wrote, and both processors where they can be.
    #[track_caller]
    fn assert_is_whole(core: &CoreFile, console: &str) {
        assert_eq!(core.memory_bytes(), MEMORY_BYTES);
        assert_eq!(core.processors.len(), 2);
        let text = symbol(console, "_stext")..symbol(console, "_etext");
        let in_kernel = core
            .processors
            .iter()
            .filter(|place| text.contains(&place.nip) || MODULES.contains(&place.nip))
            .count();
        let in_programs = core
            .processors
            .iter()
            .filter(|place| place.is_in_user_mode())
            .count();
        let places = &core.processors;
        assert!(in_kernel >= 1, "{places:x?}, {text:x?}");
        assert_eq!(in_kernel + in_programs, 2, "{places:x?}, {text:x?}");
        let banner = core.at(symbol(console, "linux_banner"), 14);
        assert_eq!(banner, b"Linux version ");
        assert!(core.has(MARKED));
        assert!(!core.has(&MARKED.replace("42", "43")));
    }

    #[test]
    fn a_guest_that_reads_is_dumped_whole_and_reads_on() {
        // One processor has nothing to do.
        let job = [
            WAIT_FOR_NVME,
            MARK,
            "cat >/tmp/read <<'READ'\n",
            READ_HEAD,
            "READ\nwhile true; do taskset 1 sh /tmp/read; done\n",
        ];
        let (mut running, mut monitor) = FrontEnd::job(&job.concat())
            .nvme()
            .option("-smp", "2")
            .option("-sandbox", "on")
            .start();
        running.wait_for_console(DIGEST, 2);
        assert_bad_targets_are_told(&mut monitor);
        let (target, file) = Target::new("dump-of-a-reader");
        let data = monitor.dump_to(&file);
        assert_completed(&data);
        assert_eq!(monitor.status(), "running");
        let printed = running.console().matches(DIGEST).count();
        running.wait_for_console(DIGEST, printed + 3);
        assert_is_whole(&CoreFile::open(&target.0), &running.console());
        monitor.ask("quit");
        let finished = running.finish();
        finished.assert_status(0);
        let expected = head_sha256();
        for line in finished.console().lines() {
            if let Some((_, digest)) = line.split_once(DIGEST) {
                assert_eq!(digest.trim(), expected, "{finished}");
            }
        }
        assert_nothing_is_left();
    }
}
