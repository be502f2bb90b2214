//! The host: its devices, its ordinary user, its modules, and its pinned memory.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spapr_lab::proc_sizes;

use super::scratch::Part;

/// User and group id of the ordinary user.
pub(crate) const USER: u32 = 1000;

/// What the lab says about the host.
pub(crate) fn lab(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: not in a lab host"))
}

/// Whether the host's kernel checks where a list of TCEs ends: those from Linux 7 on do.
pub(crate) fn checks_where_lists_end() -> bool {
    let version = lab("LAB_KERNEL");
    let major = version.split_once('.').expect("a version").0;
    major.parse::<u32>().expect("a number") >= 7
}

/// Whether the host is an LPAR.
pub(crate) fn is_lpar() -> bool {
    lab("LAB_HOST").starts_with("lpar")
}

/// The page size of the host and of its guests.
pub(crate) fn page_bytes() -> u64 {
    if lab("LAB_HOST").ends_with("-64k") {
        0x1_0000
    } else {
        0x1000
    }
}

/// PCI address of the NVMe, which is bound to vfio-pci.
pub(crate) fn nvme() -> String {
    lab("LAB_NVME")
}

/// PCI address of the network card, which is bound to vfio-pci.
pub(crate) fn nic() -> String {
    lab("LAB_NIC")
}

/// PCI address of the host's further device of this name, which is bound to vfio-pci.
pub(crate) fn device(name: &str) -> String {
    let devices = lab("LAB_DEVICES");
    let mut named = devices
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    let found = named.find(|(device, _)| *device == name);
    let (_, address) = found.unwrap_or_else(|| panic!("no {name} among the devices {devices:?}"));
    address.to_owned()
}

/// Number of the IOMMU group of a PCI device.
pub(crate) fn group_of(device: &str) -> String {
    let link = format!("/sys/bus/pci/devices/{device}/iommu_group");
    let folder = fs::read_link(link).expect("the device to have a group");
    let number = folder.file_name().expect("a number");
    number.to_str().expect("a number").to_owned()
}

/// PCI addresses of all devices of a device's IOMMU group.
pub(crate) fn members_of(device: &str) -> Vec<String> {
    let folder = format!("/sys/bus/pci/devices/{device}/iommu_group/devices");
    let members = fs::read_dir(folder).expect("the device to have a group");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("a member").file_name();
    let names = members.map(|entry| name(entry).into_string());
    names.map(|name| name.expect("a PCI address")).collect()
}

/// Number of the NVMe's IOMMU group.
pub(crate) fn group() -> String {
    lab("LAB_NVME_GROUP")
}

/// The device file of the NVMe's IOMMU group.
pub(crate) fn group_node() -> PathBuf {
    Path::new("/dev/vfio").join(group())
}

/// Opens the NVMe's group, which one process at a time can.
pub(crate) fn open_group() -> io::Result<File> {
    open(&group_node())
}

fn open(node: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node)
}

/// Fails unless nothing is left of runs that have ended: the groups of all devices can be opened, and no memory
/// is pinned.
#[track_caller]
pub(crate) fn assert_nothing_is_left() {
    for group in groups() {
        let file = open(&Path::new("/dev/vfio").join(&group));
        drop(file.unwrap_or_else(|error| panic!("group {group} is still in use: {error}")));
    }
    // The kernel gives pinned pages back after the process has ended.
    let deadline = Instant::now() + Duration::from_secs(10);
    while pinned_pages() != 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(pinned_pages(), 0, "pages of the host that are still pinned");
}

/// Numbers of the groups of all devices that are bound to vfio-pci now: a test may have given one another driver.
fn groups() -> BTreeSet<String> {
    let devices = lab("LAB_DEVICES");
    let more = devices
        .split_whitespace()
        .filter_map(|it| it.split_once('='));
    [nvme(), nic()]
        .into_iter()
        .chain(more.map(|it| it.1.to_owned()))
        .filter(|device| {
            let driver = fs::read_link(format!("/sys/bus/pci/devices/{device}/driver"));
            driver.is_ok_and(|driver| driver.ends_with("vfio-pci"))
        })
        .map(|device| group_of(&device))
        .collect()
}

/// Has the lab look, when the host is off, whether this part of the NVMe has this digest.
pub(crate) fn expect_on_nvme(part: Part, sha256: &str) {
    let (offset, bytes) = (part.offset(), part.bytes());
    // Past the test program's capture of output, to the lab.
    let expectation = format!("\nLAB-EXPECT-NVME offset={offset} length={bytes} sha256={sha256}\n");
    let mut stdout = io::stdout().lock();
    stdout.write_all(expectation.as_bytes()).expect("stdout");
    stdout.flush().expect("stdout");
}

/// Pages that the host's kernel keeps pinned until it restarts, having lost count of their mappings.
static KEPT_PAGES: AtomicU64 = AtomicU64::new(0);

/// From now on, takes for granted that the kernel keeps so many bytes more.
pub(crate) fn expect_kept(bytes: u64) {
    KEPT_PAGES.fetch_add(bytes / page_bytes(), Ordering::Relaxed);
}

/// Pages that the host's kernel has pinned for devices, but for those that it is known to keep.
pub(crate) fn pinned_pages() -> u64 {
    // Each CPU counts for itself; this adds it all up. Where it does not exist, counts are late.
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    let text = fs::read_to_string("/proc/vmstat").expect("no /proc/vmstat");
    let count = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("no such count")
            .trim()
            .parse()
            .expect("a number")
    };
    let released = count("nr_foll_pin_released ");
    let pinned = count("nr_foll_pin_acquired ").saturating_sub(released);
    let kept = KEPT_PAGES.load(Ordering::Relaxed);
    assert!(
        pinned >= kept,
        "{pinned} pages are pinned, and {kept} of them for good"
    );
    pinned - kept
}

/// Bytes of locked memory of a process (VmLck).
pub(crate) fn locked_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).expect("no such process");
    let bytes = text
        .lines()
        .find_map(|line| proc_sizes::bytes(line, "VmLck:"));
    bytes.expect("no VmLck")
}

/// A device file that belongs to the ordinary user, until dropped.
#[derive(Debug)]
pub(crate) struct GivenToUser(PathBuf);

/// Gives a device file away.
pub(crate) fn give_to_user(node: &Path) -> GivenToUser {
    chown(node, Some(USER), Some(USER)).expect("cannot give the device file away");
    GivenToUser(node.to_owned())
}

impl Drop for GivenToUser {
    fn drop(&mut self) {
        chown(&self.0, Some(0), Some(0)).expect("cannot take the device file back");
    }
}

/// A device file that all may open, until dropped.
#[derive(Debug)]
pub(crate) struct OpenToAll(PathBuf, Permissions);

/// Lets everybody open a device file.
pub(crate) fn open_to_all(node: &Path) -> OpenToAll {
    let before = fs::metadata(node)
        .expect("no such device file")
        .permissions();
    fs::set_permissions(node, Permissions::from_mode(0o666)).expect("cannot change permissions");
    OpenToAll(node.to_owned(), before)
}

impl Drop for OpenToAll {
    fn drop(&mut self) {
        fs::set_permissions(&self.0, self.1.clone()).expect("cannot change permissions back");
    }
}

/// A kernel module that is out of the kernel until this is dropped.
#[derive(Debug)]
pub(crate) struct WithoutModule(&'static str);

/// Takes a module out of the kernel.
pub(crate) fn without_module(name: &'static str) -> WithoutModule {
    let status = Command::new("rmmod")
        .arg(name)
        .status()
        .expect("cannot run rmmod");
    assert!(status.success(), "rmmod {name}: {status}");
    WithoutModule(name)
}

impl Drop for WithoutModule {
    fn drop(&mut self) {
        let file = format!("/lib/modules/{}.ko", self.0);
        let status = Command::new("insmod")
            .arg(file)
            .status()
            .expect("cannot run insmod");
        assert!(status.success(), "insmod {}: {status}", self.0);
    }
}

/// A PCI device that is bound to another driver than vfio-pci, or to none, until dropped.
#[derive(Debug)]
pub(crate) struct Rebound(String);

/// Binds a device to the host's driver for it, or with `None` to no driver.
pub(crate) fn rebind(device: &str, driver: Option<&str>) -> Rebound {
    let rebound = Rebound(device.to_owned());
    bind(device, driver);
    rebound
}

impl Drop for Rebound {
    fn drop(&mut self) {
        bind(&self.0, Some("vfio-pci"));
    }
}

/// The driver that a device is bound to.
pub(crate) fn driver_of(device: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{device}/driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn bind(device: &str, driver: Option<&str>) {
    let folder = format!("/sys/bus/pci/devices/{device}");
    let write = |path: &str, text: &str| {
        fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
    };
    if driver_of(device).is_some() {
        write(&format!("{folder}/driver/unbind"), device);
    }
    write(
        &format!("{folder}/driver_override"),
        &format!("{}\n", driver.unwrap_or_default()),
    );
    if let Some(driver) = driver {
        write("/sys/bus/pci/drivers_probe", device);
        assert_eq!(
            driver_of(device).as_deref(),
            Some(driver),
            "{device} is not bound"
        );
    }
}

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Huge pages of 2 MiB in the host's pool, given back when dropped.
#[derive(Debug)]
pub(crate) struct HugePages;

impl HugePages {
    /// Has this many in the pool.
    pub(crate) fn take(pages: u64) -> Self {
        fs::write(HUGE_PAGES, pages.to_string()).expect("the host has no huge pages");
        let taken = Self;
        let got = fs::read_to_string(HUGE_PAGES).expect("the pool");
        assert_eq!(got.trim(), pages.to_string(), "huge pages");
        taken
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(HUGE_PAGES, "0").expect("cannot give the huge pages back");
    }
}

/// Transparent huge pages go only to who asks for them until this is dropped; here, all get them.
#[derive(Debug)]
pub(crate) struct HugePagesForWhoAsks;

impl HugePagesForWhoAsks {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

    pub(crate) fn begin() -> Self {
        fs::write(Self::SETTING, "madvise").expect("cannot set who gets huge pages");
        Self
    }
}

impl Drop for HugePagesForWhoAsks {
    fn drop(&mut self) {
        fs::write(Self::SETTING, "always").expect("cannot set who gets huge pages back");
    }
}
