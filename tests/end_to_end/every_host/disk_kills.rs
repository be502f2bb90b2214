//! Guests whose machine is killed while they write.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::disk::qcow2 as make_qcow2;
use crate::harness::Vmm;
use crate::harness::finished::printed;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::qcow2;
use crate::harness::vmm::Folder;
use crate::harness::written_sequence::{FLUSH_EACH, WRITTEN_BYTES, Written};

/// Rounds of each kind of image.
const FEW_ROUNDS: u64 = 3;
/// The longest from the flush after which a machine is to be killed to its end.
const LONGEST: Duration = Duration::from_millis(100);

/// Flushes that a guest may be ahead of its words, which are on their way to the terminal when the machine is killed.
const MOST_UNTOLD: u64 = 8;

/// Kills machines with the disk `options` again and again; `read` finds the disk's first bytes afterwards.
#[track_caller]
pub(crate) fn kill_again_and_again(options: &str, rounds: u64, read: impl Fn() -> Vec<u8>) {
    let mut written = Written::default();
    let (mut next, mut told) = (1, 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = now.expect("a clock").subsec_nanos();
    writeln!(io::stdout(), "seed {seed}").expect("stdout");
    for round in 0..rounds {
        let append = format!("first={next}");
        let mut running = Vmm::bare_metal("virtio-guest", &append)
            .option("--disk", options)
            .argument("--sandbox")
            .start();
        // Some after their first flush, some after more.
        let random = u64::from(seed)
            .wrapping_mul(round + 1)
            .wrapping_mul(0x9e37_79b9)
            >> 7;
        let flushes = usize::try_from(1 + random % 5).expect("small");
        running.wait_for_console("VIRTIO-GUEST-FLUSHED ", flushes);
        let most = u64::try_from(LONGEST.as_micros()).expect("short");
        thread::sleep(Duration::from_micros(random / 5 % most));
        running.signal(Signal::KILL);
        let finished = running.finish();
        let console = finished.console();
        assert!(!console.contains("VIRTIO-GUEST-WRONG"), "{finished}");
        // What was cut has no full stop; the first may be.
        let said = printed(console, "VIRTIO-GUEST-FLUSHED ").into_iter();
        let numbers = said.filter_map(|text| text.strip_suffix('.')?.parse().ok());
        let flushed = numbers.max();
        told += u64::from(flushed.is_some());
        let flushed = flushed.unwrap_or(next - 1);
        written.flushed(next..=flushed);
        next = flushed + MOST_UNTOLD * FLUSH_EACH + 1;
        written.settle(flushed + 1..next, &read());
    }
    assert!(
        told > rounds / 2,
        "{told} of {rounds} guests told of a flush"
    );
    assert_nothing_is_left();
}

/// An image of zeroes that is written to by way of qcow2, which stands on another.
pub(crate) fn kill_with_qcow2(rounds: u64, words: &str) {
    let folder = Folder::new();
    let base = folder.file("base.img");
    let file = File::create_new(&base).expect("an image");
    file.set_len(64 << 20).expect("a size");
    let top = make_qcow2(&folder, "top.qcow2", "base.img");
    let options = format!("{},format=qcow2{words}", top.display());
    let mut most = 0;
    let most_unused = std::cell::RefCell::new(&mut most);
    kill_again_and_again(&options, rounds, || {
        let found = qcow2::read(&top, WRITTEN_BYTES);
        let mut most = most_unused.borrow_mut();
        **most = found.unused.max(**most);
        found.disk
    });
    writeln!(io::stdout(), "qcow2: {most} clusters unused at most").expect("stdout");
}

/// A raw image.
pub(crate) fn kill_with_raw(rounds: u64, words: &str) {
    let folder = Folder::new();
    let path = folder.file("disk.img");
    let file = File::create_new(&path).expect("an image");
    file.set_len(64 << 20).expect("a size");
    let options = format!("{}{words}", path.display());
    kill_again_and_again(&options, rounds, || beginning(&path));
}

fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(path).expect("an image");
    let read = file.take(WRITTEN_BYTES).read_to_end(&mut bytes);
    read.expect("a readable image");
    bytes
}

#[test]
fn a_machine_that_is_killed_leaves_all_that_its_guest_has_flushed() {
    kill_with_raw(FEW_ROUNDS, "");
    kill_with_qcow2(FEW_ROUNDS, ",cache=none");
}
