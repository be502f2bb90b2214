//! What the process' threads may still ask of the kernel once all is set up (`--sandbox`, `-sandbox
//! on`): for each thread a filter of system calls (seccomp) that kills the process at any other, and
//! for the threads that open files, rules for what they find (landlock).
//!
//! | file | what it is for |
//! |---|---|
//! | `program` | a filter as a program of classic BPF |
//! | `calls` | the calls that each thread makes |
//! | `install` | giving a filter to the calling thread |
//! | `paths` | the files that there are for it |
//!
//! Every kind of thread has its filter from its beginning; the main thread gets its own when monitors
//! and processors are there. A thread that is started later inherits the filter of the one that
//! starts it, and adds its own.

mod calls;
mod install;
mod paths;
mod program;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use spapr_devices::image::Image;
use spapr_devices::vfio::HostPaths;

use crate::spec::{ExpansionRom, MachineDescription};
pub use calls::Role;
pub use install::SandboxError;
pub use paths::Paths;

/// Whether threads are to be given filters.
static ON: AtomicBool = AtomicBool::new(false);

/// Has every thread get its filter from now on. Before the first of them is started.
pub fn turn_on() {
    ON.store(true, Ordering::SeqCst);
}

/// Whether threads get filters.
pub fn is_on() -> bool {
    ON.load(Ordering::SeqCst)
}

/// Leaves the calling thread, and those that it starts from now on, with the files that a machine
/// needs, if the sandbox is on.
///
/// # Errors
/// When the kernel can do that and refuses to.
pub fn restrict_paths(paths: &Paths) -> io::Result<()> {
    if !is_on() {
        return Ok(());
    }
    paths::restrict_paths(paths).map_err(io::Error::other)
}

/// The files of a machine: its kernel and initial RAM disk, and the nodes of its devices' IOMMU groups.
pub fn machine_paths(machine: &MachineDescription) -> Paths {
    let files = [Some(&machine.kernel), machine.initrd.as_ref()];
    let host = HostPaths::default();
    // What is wrong with a device is said when it is taken.
    let groups = machine.vfio.iter();
    let groups = groups.filter_map(|device| host.group_of(device.host).ok());
    Paths {
        read: files
            .into_iter()
            .flatten()
            .cloned()
            .chain(images(machine, true))
            .chain(roms(machine))
            .collect(),
        written: groups
            .map(|group| host.group_node(group))
            .chain(images(machine, false))
            .collect(),
        written_in: Vec::new(),
    }
}

/// The files that devices' expansion ROMs are in.
fn roms(machine: &MachineDescription) -> impl Iterator<Item = PathBuf> {
    machine.vfio.iter().filter_map(|device| match &device.rom {
        ExpansionRom::File(path) => Some(path.clone()),
        ExpansionRom::Hidden | ExpansionRom::Own => None,
    })
}

/// The files of a machine's disks, those that are only read or the others.
fn images(machine: &MachineDescription, read_only: bool) -> Vec<PathBuf> {
    let images = machine.disks().map(|disk| &disk.image);
    let files = images.flat_map(|image| {
        // One that is open by a descriptor has no path of its own, and is opened once more to be used past the cache.
        let first = usize::from(!image.descriptors.is_empty());
        let open = image.descriptors.iter();
        let open = open.map(|it| (image.read_only, format!("/proc/self/fd/{it}").into()));
        let paths = (first..).zip(Image::paths(image));
        // Those that an image stands on are never written.
        let paths = paths.map(|(depth, path)| (image.read_only || depth != 0, path));
        open.chain(paths)
    });
    let wanted = files.filter(|(is_read, _)| *is_read == read_only);
    wanted.map(|(_, path)| path).collect()
}

/// [`enter`] for a thread that runs a processor.
///
/// # Errors
/// As for [`enter`].
pub fn enter_processor() -> io::Result<()> {
    enter(Role::Processor)
}

/// [`enter`] for a thread that talks to management programs.
///
/// # Errors
/// As for [`enter`].
pub fn enter_monitor() -> io::Result<()> {
    enter(Role::Monitor)
}

/// [`enter`] for a thread that serves a device of this process.
///
/// # Errors
/// As for [`enter`].
pub fn enter_device() -> io::Result<()> {
    enter(Role::Device)
}

/// [`enter`] for a thread that serves a memory balloon.
///
/// # Errors
/// As for [`enter`].
pub fn enter_balloon() -> io::Result<()> {
    enter(Role::Balloon)
}

/// [`enter`] for a thread that serves a network card.
///
/// # Errors
/// As for [`enter`].
pub fn enter_network() -> io::Result<()> {
    enter(Role::Network)
}

/// [`enter`] for a thread of a device whose queues the host's kernel serves.
///
/// # Errors
/// As for [`enter`].
pub fn enter_vhost() -> io::Result<()> {
    enter(Role::Vhost)
}

/// [`enter`] for a thread of a device whose queues another program serves.
///
/// # Errors
/// As for [`enter`].
pub fn enter_vhost_user() -> io::Result<()> {
    enter(Role::VhostUser)
}

/// [`enter`] for a thread that serves a device with sockets.
///
/// # Errors
/// As for [`enter`].
pub fn enter_ports() -> io::Result<()> {
    enter(Role::Ports)
}

/// [`enter`] for a thread that reads and writes a disk's image.
///
/// # Errors
/// As for [`enter`].
pub fn enter_disk() -> io::Result<()> {
    enter(Role::Disk)
}

/// [`enter`] for a thread that samples interrupt lines.
///
/// # Errors
/// As for [`enter`].
pub fn enter_lines() -> io::Result<()> {
    enter(Role::Lines)
}

/// Gives the calling thread the filter of its role, if the sandbox is on. From then on, a call that
/// the role does not have kills the process.
///
/// # Errors
/// When the kernel refuses the filter.
pub fn enter(role: Role) -> io::Result<()> {
    if !is_on() {
        return Ok(());
    }
    install::install(role).map_err(io::Error::other)
}
