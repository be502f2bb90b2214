//! What Linux guests are told to do.

use super::finished::Finished;
use super::host;
use super::scratch::Part;

/// Prints how many processors the guest uses.
pub(crate) const COUNT_CPUS: &str = "
echo LAB-GUEST-CPUS $(nproc)
";

/// Prints the kernel's version and the size of its pages in bytes.
pub(crate) const NAME_KERNEL: &str = "
echo LAB-GUEST-KERNEL $(uname -r)
echo LAB-GUEST-PAGE $(awk '/^KernelPageSize:/ { print $2 * 1024; exit }' /proc/self/smaps)
";

/// Waits for the NVMe.
pub(crate) const WAIT_FOR_NVME: &str = "
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -b /dev/nvme0n1 ] && break
    sleep 0.25
done
[ -b /dev/nvme0n1 ] || { echo LAB-GUEST-ERROR no NVMe; exit 1; }
";

/// Reads the NVMe's data past the page cache, in large pieces, whose mappings are lists, and prints
/// its digest.
pub(crate) const READ_ALL: &str = "
echo LAB-GUEST-SHA256 $(dd if=/dev/nvme0n1 bs=1M count=64 iflag=direct,fullblock 2>/dev/null |
    sha256sum | cut -d' ' -f1)
";

/// The same of the first 8 MiB: a digest costs an emulated processor more than the reading.
pub(crate) const READ_HEAD: &str = "
echo LAB-GUEST-SHA256 $(dd if=/dev/nvme0n1 bs=1M count=8 iflag=direct,fullblock 2>/dev/null |
    sha256sum | cut -d' ' -f1)
";

/// Reads 2,000 times 512 bytes, each a mapping of a single entry.
pub(crate) const READ_SMALL: &str = "
dd if=/dev/nvme0n1 of=/dev/null bs=512 count=2000 iflag=direct 2>/dev/null || exit 1
";

/// Reads of [`READ_SMALL`].
pub(crate) const SMALL_READS: u64 = 2_000;

/// Reads the NVMe again and again, and says so each time.
pub(crate) const READ_FOR_EVER: &str = "
while true; do
    dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null || exit 1
    echo LAB-GUEST-LAP
done
";

/// Says how many dynamic DMA windows the guest's drivers have made.
pub(crate) const COUNT_WINDOWS: &str = "
echo LAB-GUEST-WINDOWS $(find /proc/device-tree/ -name 'linux,d*64-ddr-window-info' | wc -l)
";

/// Fails unless [`COUNT_WINDOWS`] has found some so often, or none.
#[track_caller]
pub(crate) fn assert_windows(finished: &Finished, times: usize, has_windows: bool) {
    let windows = finished.all("WINDOWS");
    let right = windows.iter().filter(|it| (**it != "0") == has_windows);
    assert_eq!([right.count(), windows.len()], [times; 2], "{finished}");
}

/// Brings the network card up, and waits until its network answers.
pub(crate) const JOIN_NETWORK: &str = "
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || exit 1
for _ in 1 2 3 4 5 6 7 8 9 10; do
    ping -c 1 -W 1 10.0.2.2 >/dev/null && break
done
ping -c 1 -q 10.0.2.2 || exit 1
";

/// Reboots in the guest's first life, and goes on in its second one: what tells them apart is `mark`, in `part` of the
/// NVMe.
pub(crate) fn reboot_once(part: Part, mark: &str) -> String {
    let place = part.start_4k();
    format!(
        "
mark() {{ dd if=/dev/nvme0n1 bs=4096 skip={place} count=1 iflag=direct; }}
mark >/tmp/mark 2>/tmp/error || echo LAB-GUEST-ERROR $(cat /tmp/error)
if ! grep -q {mark} /tmp/mark; then
    echo LAB-GUEST-FOUND $(head -c 40 /tmp/mark | tr -c '[:alnum:]-' .) of $(wc -c </tmp/mark)
    printf '%-4096s' {mark} |
        dd of=/dev/nvme0n1 bs=4096 seek={place} iflag=fullblock oflag=direct || exit 1
    echo LAB-GUEST-REBOOTS
    reboot -f
    sleep 60
    exit 1
fi
"
    )
}

/// The block of 4 KiB of a disk, behind its data, that says whether the guest has been here before.
const MARK_BLOCK: u64 = (64 << 20) / 4096;

/// Reboots in the guest's first life, which leaves `mark` on `disk`, which the lab does not look at afterwards; the
/// second one takes that away, and goes on.
pub(crate) fn reboot_once_by_disk(disk: &str, mark: &str) -> String {
    format!(
        "
dd if={disk} of=/tmp/mark bs=4096 skip={MARK_BLOCK} count=1 iflag=direct 2>/dev/null
if ! grep -q {mark} /tmp/mark; then
    printf '%-4096s' {mark} |
        dd of={disk} bs=4096 seek={MARK_BLOCK} iflag=fullblock oflag=direct || exit 1
    reboot -f
    sleep 60
    exit 1
fi
dd if=/dev/zero of={disk} bs=4096 seek={MARK_BLOCK} count=1 oflag=direct || exit 1
"
    )
}

/// SHA-256 of what [`READ_HEAD`] reads.
pub(crate) fn head_sha256() -> String {
    host::lab("LAB_NVME_HEAD_SHA256")
}

/// SHA-256 of what [`READ_ALL`] reads.
pub(crate) fn data_sha256() -> String {
    host::lab("LAB_NVME_DATA_SHA256")
}
