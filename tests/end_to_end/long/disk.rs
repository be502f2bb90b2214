//! Disks for longer: machines that are killed often, and a guest that checks what it wrote.

use std::time::Duration;

use crate::every_host::disk::{image, qcow2 as make_qcow2};
use crate::every_host::disk_kills::{kill_with_qcow2, kill_with_raw};
use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::qcow2;
use crate::harness::vmm::Folder;

/// Rounds of each of four ways: 200 in all.
const ROUNDS: u64 = 50;

#[test]
fn machines_that_are_killed_a_hundred_times_leave_raw_images_with_what_was_flushed() {
    kill_with_raw(ROUNDS, ",cache=none");
    kill_with_raw(ROUNDS, ",aio=threads");
}

#[test]
fn machines_that_are_killed_a_hundred_times_leave_qcow2_images_whole() {
    kill_with_qcow2(ROUNDS, ",cache=none");
    kill_with_qcow2(ROUNDS, "");
}

/// Writes random blocks from four processes at once, past the page cache, flushed and neither, some of them over and over;
/// reads them back in between and all of them at the end.
const WRITE_AND_VERIFY: &str = r#"
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.25; done
check() {
    [ "$(dd if=/dev/vda bs=16k skip=$2 count=1 iflag=direct 2>/dev/null | sha256sum)" = "$(cat /tmp/sums/$1/$2)" ] ||
        { echo LAB-GUEST-ERROR block $2 after $3; exit 1; }
}
work() {
    mkdir -p /tmp/sums/$1
    n=0
    while [ $n -lt 60 ]; do
        block=$(($1 * 1024 + (n * 617 + $1 * 31) % 40))
        dd if=/dev/urandom of=/tmp/data$1 bs=16k count=1 2>/dev/null
        case $((n % 3)) in
            0) dd if=/tmp/data$1 of=/dev/vda bs=16k seek=$block oflag=direct conv=notrunc 2>/dev/null ;;
            1) dd if=/tmp/data$1 of=/dev/vda bs=16k seek=$block conv=notrunc,fsync 2>/dev/null ;;
            *) dd if=/tmp/data$1 of=/dev/vda bs=16k seek=$block conv=notrunc 2>/dev/null ;;
        esac || { echo LAB-GUEST-ERROR block $block is not written; exit 1; }
        sha256sum </tmp/data$1 >/tmp/sums/$1/$block
        [ $((n % 3)) = 2 ] || check $1 $block $n
        n=$((n + 1))
    done
}
for region in 0 1 2 3; do work $region & done
wait
sync
echo 3 >/proc/sys/vm/drop_caches
checked=0
for region in 0 1 2 3; do
    for file in /tmp/sums/$region/*; do
        check $region ${file##*/} all
        checked=$((checked + 1))
    done
done
echo LAB-GUEST-CHECKED $checked
"#;

/// Blocks that it leaves in all four regions.
const BLOCKS: &str = "160";

fn write_and_verify(disk: &str) {
    let finished = Vmm::job(WRITE_AND_VERIFY)
        .option("--disk", disk)
        .option("--cpus", "4")
        .argument("--sandbox")
        .time_limit(Duration::from_secs(400))
        .run()
        .assert_job_done();
    assert!(
        !finished.console().contains("LAB-GUEST-ERROR"),
        "{finished}"
    );
    assert_eq!(finished.guest("CHECKED"), BLOCKS, "{finished}");
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_guest_finds_all_that_it_wrote_to_a_raw_disk_from_four_processors() {
    for words in [",cache=none,queues=4", ",aio=threads,cache=writethrough"] {
        let folder = Folder::new();
        let path = image(&folder, "disk.img");
        write_and_verify(&format!("{}{words}", path.display()));
    }
}

#[test]
fn a_guest_finds_all_that_it_wrote_to_a_qcow2_disk_from_four_processors() {
    let folder = Folder::new();
    let _base = image(&folder, "base.img");
    let top = make_qcow2(&folder, "top.qcow2", "base.img");
    write_and_verify(&format!(
        "{},format=qcow2,cache=none,queues=4",
        top.display()
    ));
    let found = qcow2::read(&top, 64 << 20);
    assert_eq!(found.unused, 0);
}
