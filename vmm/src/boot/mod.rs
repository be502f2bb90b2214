//! What the guest finds in memory when its first instruction runs: kernel, initial RAM disk,
//! flattened device tree and the RTAS stub.
//!
//! The guest is entered as a kexec'd kernel is: directly, with the tree's address in r3 and zero in
//! r5 (the kernel's Documentation/arch/powerpc/booting.rst, "direct entry with a flattened
//! device-tree"). There is no firmware.

pub mod device_tree;
pub mod files;
pub mod initrd;
pub mod kernel;
pub mod layout;

use spapr_devices::rtas;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;
use crate::setting::Setting;
use device_tree::MachineTree;
use files::BootFile;
use kernel::Kernel;
use layout::Layout;

/// Why the guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel cannot be loaded.
    #[error(transparent)]
    Kernel(#[from] kernel::KernelError),
    /// The initial RAM disk cannot be loaded.
    #[error(transparent)]
    Initrd(#[from] initrd::InitrdError),
    /// The device tree cannot be made.
    #[error(transparent)]
    DeviceTree(#[from] device_tree::DeviceTreeError),
    /// The kernel's command line is longer than a kernel takes.
    #[error("kernel command line of {bytes} bytes is too large; a ppc64 kernel takes {most}")]
    CommandLineTooLarge {
        /// Its length.
        bytes: usize,
        /// The most, without the final NUL.
        most: usize,
    },
    /// Guest memory cannot be written where it must be.
    #[error("cannot write {what} into guest memory at {address:#x}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why not.
        source: vm_memory::GuestMemoryError,
    },
}

impl BootError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            Self::CommandLineTooLarge { .. } => Some(Setting::KernelCommandLine),
            Self::Kernel(kernel::KernelError::TooLarge { .. })
            | Self::Initrd(initrd::InitrdError::TooLarge { .. }) => Some(Setting::Memory),
            _ => None,
        }
    }
}

/// The most bytes of command line that a ppc64 kernel takes, without the final NUL
/// (COMMAND_LINE_SIZE in arch/powerpc/include/uapi/asm/setup.h).
pub const COMMAND_LINE_MOST_BYTES: usize = 2047;

/// What to boot.
pub struct Payload<'a> {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk's file.
    pub initrd: Option<&'a BootFile>,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Where the first processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address of the first instruction.
    pub address: u64,
    /// Address of the device tree, for r3.
    pub device_tree: u64,
}

/// Fills `ram` with all that the guest needs to start.
///
/// # Errors
/// When the payload is unusable or does not fit; guest memory is then in no defined state.
pub fn load(
    ram: &GuestRam,
    payload: Payload<'_>,
    machine: &MachineTree,
) -> Result<Entry, BootError> {
    let bytes = payload.command_line.len();
    if bytes > COMMAND_LINE_MOST_BYTES {
        return Err(BootError::CommandLineTooLarge {
            bytes,
            most: COMMAND_LINE_MOST_BYTES,
        });
    }
    let layout = Layout::for_memory(ram.boot_bytes());
    let kernel = payload.kernel.load(ram, &layout)?;
    let initrd = payload
        .initrd
        .map(|file| initrd::load(ram, file, &layout, kernel.end))
        .transpose()?;
    let stub = rtas::STUB.map(u32::to_be_bytes);
    write(ram, "the RTAS stub", layout.rtas, stub.as_flattened())?;
    let boot = device_tree::BootFacts {
        command_line: payload.command_line,
        initrd,
        rtas: layout.rtas..layout.rtas + layout::RTAS_BYTES,
        device_tree: layout.device_tree..layout.device_tree + layout::DEVICE_TREE_MOST_BYTES,
    };
    let tree = device_tree::build(machine, &boot)?;
    write(ram, "the device tree", layout.device_tree, &tree)?;
    Ok(Entry {
        address: kernel.entry,
        device_tree: layout.device_tree,
    })
}

fn write(ram: &GuestRam, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.mmap()
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootError::Write {
            what,
            address,
            source,
        })
}
