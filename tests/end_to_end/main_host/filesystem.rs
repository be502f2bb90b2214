//! Folders of the host's that a guest mounts, which virtiofsd serves (vhost-user-fs).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{WAIT_FOR_NVME, head_sha256, reboot_once};
use crate::harness::scratch::FILE_SYSTEM_MARK;
use crate::harness::vmm::Folder;

/// Bytes of the file that the guest reads.
const BYTES: u32 = 2 << 20;

/// virtiofsd, which serves a folder to the one who connects.
struct Virtiofsd {
    process: Child,
    socket: PathBuf,
}

impl Virtiofsd {
    fn start(served: &Path, socket: PathBuf) -> Self {
        let process = Command::new("virtiofsd")
            .args(["--sandbox", "none", "--log-level", "error"])
            .arg(format!("--socket-path={}", socket.display()))
            .arg(format!("--shared-dir={}", served.display()))
            .spawn()
            .expect("no virtiofsd");
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "no socket");
            thread::sleep(Duration::from_millis(20));
        }
        Self { process, socket }
    }

    fn option(&self) -> String {
        format!("{},tag=lab", self.socket.display())
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output();
    let text = String::from_utf8(output.expect("sha256sum").stdout).expect("text");
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The second life copies what the passed-through NVMe has into the folder: that goes by the same memory.
const COPY: &str = "
dd if=/dev/nvme0n1 of=/mnt/copy bs=1M count=8 iflag=direct,fullblock 2>/dev/null || exit 1
umount /mnt || exit 1
for it in /sys/bus/pci/devices/*; do [ $(cat $it/device) = 0x105a ] && device=$it; done
echo LAB-GUEST-BEFORE $(cat $device/virtio*/status)
echo LAB-GUEST-UNMOUNTED yes
for _ in $(seq 80); do
    state=$(cat $device/virtio*/status)
    [ $state = 0x0000004f ] && break
    sleep 0.25
done
echo LAB-GUEST-STATE $state
dd if=/dev/nvme0n1 of=/dev/null bs=1M count=1 iflag=direct 2>/dev/null || exit 1
";

#[test]
fn a_guest_reads_and_writes_a_folder_beside_an_nvme_also_after_a_reboot_and_outlives_its_virtiofsd()
{
    let folder = Folder::new();
    let served = folder.file("served");
    fs::create_dir(&served).expect("a folder");
    let bytes: Vec<u8> = (0..BYTES)
        .map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24).to_le_bytes()[0])
        .collect();
    fs::write(served.join("data"), &bytes).expect("write");
    let mut virtiofsd = Virtiofsd::start(&served, folder.file("socket"));
    let mount = "
mkdir -p /mnt
mount -t virtiofs lab /mnt || exit 1
echo LAB-GUEST-SHA256 $(sha256sum /mnt/data | cut -d' ' -f1)
echo life >>/mnt/lives; sync
";
    let again = reboot_once(FILE_SYSTEM_MARK, "a-mark-of-the-file-system-test");
    let job = [WAIT_FOR_NVME, mount, &again, COPY].concat();
    let mut running = Vmm::job(&job)
        .nvme_with_windows()
        .option("--fs", &virtiofsd.option())
        .option("--cpus", "2")
        .argument("--sandbox")
        .start();
    running.wait_for_console("LAB-GUEST-UNMOUNTED yes", 1);
    let maps = fs::read_to_string(format!("/proc/{}/maps", running.id())).expect("a process");
    assert!(maps.contains("/memfd:guest-memory"), "{maps}");
    virtiofsd.process.kill().expect("it runs");
    let told = running.wait_for_message("the device waits for a reset");
    let name = format!(
        "--fs {}: its vhost-user back end does not serve its driver's rings: it has ended",
        virtiofsd.socket.display()
    );
    assert!(told.contains(&name), "{told}");
    let finished = running.finish().assert_job_done();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_eq!(
        finished.guest("SHA256"),
        sha256(&served.join("data")),
        "{finished}"
    );
    assert_eq!(
        finished.console().matches("LAB-GUEST-SHA256").count(),
        2,
        "{finished}"
    );
    let lives = fs::read_to_string(served.join("lives")).expect("what the guest wrote");
    assert_eq!(lives, "life\nlife\n", "{finished}");
    assert_eq!(sha256(&served.join("copy")), head_sha256(), "{finished}");
    assert_eq!(finished.guest("BEFORE"), "0x0000000f", "{finished}");
    assert_eq!(finished.guest("STATE"), "0x0000004f", "{finished}");
    assert_eq!(finished.errors().lines().count(), 1, "{finished}");
    let exits = finished.number("/exits/mmio");
    assert!(exits < 2_000, "{exits}: {finished}");
    assert_nothing_is_left();
}

#[test]
fn a_file_system_that_nobody_serves_or_by_bus_addresses_is_refused() {
    let alone = Vmm::job("true").option("--fs", "/no/socket,tag=lab").run();
    alone.assert_refused(&[
        "--fs: cannot connect to /no/socket, where its back end is to listen: No such file",
    ]);
    let by_bus = Vmm::job("true")
        .option("--fs", "/no/socket,tag=lab")
        .argument("--iommu-platform")
        .run();
    by_bus.assert_refused(&["--fs: what serves a file system takes no bus addresses"]);
}
