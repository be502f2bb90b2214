//! The device tree of a machine that starts with Open Firmware, as QEMU's pseries machine does: asked
//! for piece by piece through the client interface (IEEE 1275, 6.3.2), and put together as a
//! flattened tree.

use core::arch::global_asm;
use core::ffi::CStr;
use core::ptr;
use core::slice;

use crate::fdt::Fdt;
use crate::flatten::TreeWriter;

/// Where the flattened tree goes, and behind it what making it takes: RAM above the guest's image
/// and below all that guests use.
const TREE: u64 = 20 << 20;
const TREE_BYTES: usize = 1 << 20;
const NAMES: u64 = 21 << 20;
const NAMES_BYTES: usize = 64 << 10;

/// Cells of a call: service, counts, arguments and returns.
const MOST_CELLS: usize = 12;
/// A property's name has 31 characters (IEEE 1275, 3.2.2.1.1); PAPR has one of 32.
const NAME_BYTES: usize = 64;
const PATH_BYTES: usize = 256;
/// No tree is that large; one that seems to be goes round in a circle.
const MOST_NODES: u32 = 4096;

// r3: the cells' address; r4: the firmware's entry. The firmware is called in 32-bit big-endian
// mode, to which its cells of 32 bits belong, and may lose the upper halves of registers. It comes
// back in whatever mode it likes.
global_asm!(
    ".macro other_order word",
    "    .long ((\\word) >> 24 & 0xff) | ((\\word) >> 8 & 0xff00) | \
               ((\\word) << 8 & 0xff0000) | ((\\word) << 24 & 0xff000000)",
    ".endm",
    ".text",
    ".globl call_firmware",
    "call_firmware:",
    "    mflr 0",
    "    std 0, 16(1)",
    "    stdu 1, -256(1)",
    "    std 2, 32(1)",
    "    std 13, 40(1)",
    "    std 14, 48(1)",
    "    std 15, 56(1)",
    "    std 16, 64(1)",
    "    std 17, 72(1)",
    "    std 18, 80(1)",
    "    std 19, 88(1)",
    "    std 20, 96(1)",
    "    std 21, 104(1)",
    "    std 22, 112(1)",
    "    std 23, 120(1)",
    "    std 24, 128(1)",
    "    std 25, 136(1)",
    "    std 26, 144(1)",
    "    std 27, 152(1)",
    "    std 28, 160(1)",
    "    std 29, 168(1)",
    "    std 30, 176(1)",
    "    std 31, 184(1)",
    "    mfcr 5",
    "    std 5, 192(1)",
    "    mfmsr 6",
    "    std 6, 200(1)",
    "    lis 7, 1f@ha",
    "    addi 7, 7, 1f@l",
    "    mtlr 7",
    "    rldicl 6, 6, 0, 1",  // without SF
    "    rldicr 6, 6, 0, 62", // without LE
    "    mtsrr0 4",
    "    mtsrr1 6",
    "    rfid",
    "1:",
    // In the other byte order: a branch to the words after the next one.
    "    tdi 0, 0, 0x48",
    "    b 3f",
    "    other_order 0x429f0005", // bcl 20, 31, .+4
    "2:",
    "    other_order 0x7d4802a6", // mflr r10
    "    other_order 0x394a001c", // addi r10, r10, 3f - 2b
    "    other_order 0x7d5a03a6", // mtsrr0 r10
    "    other_order 0x7d6000a6", // mfmsr r11
    "    other_order 0x616b0001", // ori r11, r11, MSR_LE
    "    other_order 0x7d7b03a6", // mtsrr1 r11
    "    other_order 0x4c000024", // rfid
    "3:",
    "    ld 6, 200(1)",
    "    lis 7, 4f@ha",
    "    addi 7, 7, 4f@l",
    "    mtsrr0 7",
    "    mtsrr1 6",
    "    rfid",
    "4:",
    "    ld 5, 192(1)",
    "    mtcr 5",
    "    ld 2, 32(1)",
    "    ld 13, 40(1)",
    "    ld 14, 48(1)",
    "    ld 15, 56(1)",
    "    ld 16, 64(1)",
    "    ld 17, 72(1)",
    "    ld 18, 80(1)",
    "    ld 19, 88(1)",
    "    ld 20, 96(1)",
    "    ld 21, 104(1)",
    "    ld 22, 112(1)",
    "    ld 23, 120(1)",
    "    ld 24, 128(1)",
    "    ld 25, 136(1)",
    "    ld 26, 144(1)",
    "    ld 27, 152(1)",
    "    ld 28, 160(1)",
    "    ld 29, 168(1)",
    "    ld 30, 176(1)",
    "    ld 31, 184(1)",
    "    addi 1, 1, 256",
    "    ld 0, 16(1)",
    "    mtlr 0",
    "    extsw 3, 3",
    "    blr",
);

unsafe extern "C" {
    fn call_firmware(cells: *mut u32, entry: u64) -> i64;
}

/// The firmware's client interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFirmware {
    entry: u64,
}

/// What names a node to the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Package(u32);

impl OpenFirmware {
    /// The firmware that is entered at `entry`, the address that it passed in r5.
    ///
    /// # Safety
    /// The firmware must still be there, and nothing have been written where it lives.
    pub(crate) const unsafe fn new(entry: u64) -> Self {
        Self { entry }
    }

    /// The machine's tree, flattened; the firmware is told to be quiet then, and may be
    /// overwritten. `None` when it answers nonsense.
    pub(crate) fn into_tree(self) -> Option<Fdt<'static>> {
        // SAFETY: RAM that nobody else uses, and this is called once: it consumes the firmware.
        let bytes = unsafe { ram(TREE, TREE_BYTES) };
        // SAFETY: as above.
        let names = unsafe { ram(NAMES, NAMES_BYTES) };
        let mut tree = TreeWriter::new(bytes, names);
        self.copy_to(&mut tree)?;
        let length = tree.finish()?;
        self.call::<0, 0>(c"quiesce", [])?;
        // SAFETY: what was just written; nothing writes there from now on.
        let bytes: &'static [u8] = unsafe { ram(TREE, length) };
        Fdt::new(bytes)
    }

    fn copy_to(self, tree: &mut TreeWriter<'_>) -> Option<()> {
        let root = self.peer(Package(0))?;
        let mut package = root;
        let mut begun = 0;
        self.begin(tree, package)?;
        loop {
            begun += 1;
            if begun > MOST_NODES {
                return None;
            }
            if let Some(child) = self.child(package) {
                package = child;
                self.begin(tree, package)?;
                continue;
            }
            loop {
                tree.end_node();
                if package == root {
                    return Some(());
                }
                if let Some(peer) = self.peer(package) {
                    package = peer;
                    self.begin(tree, package)?;
                    break;
                }
                package = self.parent(package)?;
            }
        }
    }

    /// Begins the node that `package` is, with its properties.
    fn begin(self, tree: &mut TreeWriter<'_>, package: Package) -> Option<()> {
        let mut path = [0u8; PATH_BYTES];
        let arguments = [package.0, writable(&mut path), size(&path)];
        let [length] = self.call(c"package-to-path", arguments)?;
        let path = path.get(..usize::try_from(length).ok()?)?;
        // The length does not count the zero behind it (IEEE 1275, 6.3.2.2); with QEMU's VOF it does.
        let path = path.split(|byte| *byte == 0).next()?;
        let path = core::str::from_utf8(path).ok()?;
        tree.begin_node(path.rsplit('/').next().unwrap_or(path));
        let mut name = [0u8; NAME_BYTES];
        loop {
            let mut next = [0u8; NAME_BYTES];
            let arguments = [package.0, address(&name), writable(&mut next)];
            if self.call(c"nextprop", arguments)? != [1] {
                return Some(());
            }
            name = next;
            let text = CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?;
            let [length] = self.call(c"getproplen", [package.0, address(&name)])?;
            let length = usize::try_from(length.cast_signed()).unwrap_or(0);
            tree.property(text, length, |value| {
                let arguments = [package.0, address(&name), writable(value), size(value)];
                let _length: Option<[u32; 1]> = self.call(c"getprop", arguments);
            });
        }
    }

    fn peer(self, package: Package) -> Option<Package> {
        self.relative(c"peer", package)
    }

    fn child(self, package: Package) -> Option<Package> {
        self.relative(c"child", package)
    }

    fn parent(self, package: Package) -> Option<Package> {
        self.relative(c"parent", package)
    }

    fn relative(self, service: &CStr, package: Package) -> Option<Package> {
        let [found] = self.call(service, [package.0])?;
        (found != 0).then_some(Package(found))
    }

    /// Calls a service; `None` when there is none of that name.
    fn call<const ARGUMENTS: usize, const RETURNS: usize>(
        self,
        service: &CStr,
        arguments: [u32; ARGUMENTS],
    ) -> Option<[u32; RETURNS]> {
        const { assert!(3 + ARGUMENTS + RETURNS <= MOST_CELLS) };
        let count = |count: usize| u32::try_from(count).unwrap_or(0);
        let header = [
            address(service.to_bytes_with_nul()),
            count(ARGUMENTS),
            count(RETURNS),
        ];
        let mut cells = [0u32; MOST_CELLS];
        for (to, cell) in cells.iter_mut().zip(header.iter().chain(&arguments)) {
            *to = cell.to_be();
        }
        // SAFETY: the services that are called write to the cells and to the buffers named in
        // them, of the length named; the function keeps all registers that the ABI has it keep.
        let code = unsafe { call_firmware(cells.as_mut_ptr(), self.entry) };
        let returned = cells.iter().skip(3 + ARGUMENTS);
        let mut returns = [0; RETURNS];
        for (to, cell) in returns.iter_mut().zip(returned) {
            *to = u32::from_be(*cell);
        }
        (code == 0).then_some(returns)
    }
}

/// Where something is, for the firmware to read. All of the guest lies below 4 GiB.
fn address(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.as_ptr().expose_provenance()).unwrap_or(0)
}

/// Where something is, for the firmware to write.
fn writable(bytes: &mut [u8]) -> u32 {
    u32::try_from(bytes.as_mut_ptr().expose_provenance()).unwrap_or(0)
}

fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(0)
}

/// A piece of RAM.
///
/// # Safety
/// It must be RAM that nothing else uses.
unsafe fn ram(address: u64, bytes: usize) -> &'static mut [u8] {
    let start = ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
    // SAFETY: as the caller vouches.
    unsafe { slice::from_raw_parts_mut(start, bytes) }
}
