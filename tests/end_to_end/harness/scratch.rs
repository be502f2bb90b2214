//! Which part of the NVMe belongs to which test that writes.
//!
//! The lab looks at what was written when all tests of a host are done, and a guest that reboots finds what its
//! former life left: a part that two tests write to fails the one whose turn was first.

/// Bytes of the NVMe that are one test's, behind the 64 MiB of data (tests/lab/images/nvme.rs).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Where it starts, in KiB: a multiple of 64, so that pieces of 4 KiB and of 64 KiB can be counted.
    start_kib: u64,
    kib: u64,
}

const MIB_IN_KIB: u64 = 1 << 10;

/// What a guest writes by the default mode.
pub(crate) const WRITTEN_IN_AUTO_MODE: Part = Part::new(64 * MIB_IN_KIB, 3 * MIB_IN_KIB);
/// What a guest writes with every call served by the VMM.
pub(crate) const WRITTEN_IN_USER_MODE: Part = Part::new(67 * MIB_IN_KIB, 3 * MIB_IN_KIB);
/// Whether a guest with interrupt lines has rebooted.
pub(crate) const LINES_MARK: Part = Part::new(70 * MIB_IN_KIB, 64);
/// Whether a guest with a dynamic window has rebooted.
pub(crate) const WINDOW_MARK: Part = Part::new(70 * MIB_IN_KIB + 64, 64);
/// How often a guest of the test of twenty reboots has been here.
pub(crate) const TWENTY_REBOOTS_COUNT: Part = Part::new(70 * MIB_IN_KIB + 128, 64);
/// Whether a guest with a network card has rebooted.
pub(crate) const NETWORK_MARK: Part = Part::new(70 * MIB_IN_KIB + 192, 64);
/// Whether a guest with a card whose frames the host's kernel passes has rebooted.
pub(crate) const VHOST_MARK: Part = Part::new(70 * MIB_IN_KIB + 256, 64);
/// Whether a guest with a socket device has rebooted.
pub(crate) const VSOCK_MARK: Part = Part::new(70 * MIB_IN_KIB + 320, 64);
/// Whether a guest with a file system of the host's has rebooted.
pub(crate) const FILE_SYSTEM_MARK: Part = Part::new(70 * MIB_IN_KIB + 384, 64);
/// Whether a guest with a virtual function has rebooted.
pub(crate) const VIRTUAL_FUNCTION_MARK: Part = Part::new(70 * MIB_IN_KIB + 448, 64);
/// The dump of a guest with the default window.
pub(crate) const DUMP_BY_DEFAULT_WINDOW: Part = Part::new(70 * MIB_IN_KIB + 512, 128);
/// The dump of a guest with a dynamic window.
pub(crate) const DUMP_BY_DYNAMIC_WINDOW: Part = Part::new(70 * MIB_IN_KIB + 640, 128);
/// Whether a guest with a card of several pairs of queues has rebooted.
pub(crate) const PAIRS_MARK: Part = Part::new(70 * MIB_IN_KIB + 768, 64);
/// Whether a guest that has its card sleep has rebooted.
pub(crate) const SLEEP_MARK: Part = Part::new(70 * MIB_IN_KIB + 832, 64);
/// Whether the guest of the test of one reboot has rebooted.
pub(crate) const REBOOT_MARK: Part = Part::new(71 * MIB_IN_KIB, 64);
/// What the bare-metal guest of tests/guests writes (its `SCRATCH_BLOCK`): the last 64 KiB of the disk.
const BARE_METAL_GUEST: Part = Part::new(72 * MIB_IN_KIB - 64, 64);

/// All parts, in the order in which they lie.
const ALL: [Part; 16] = [
    WRITTEN_IN_AUTO_MODE,
    WRITTEN_IN_USER_MODE,
    LINES_MARK,
    WINDOW_MARK,
    TWENTY_REBOOTS_COUNT,
    NETWORK_MARK,
    VHOST_MARK,
    VSOCK_MARK,
    FILE_SYSTEM_MARK,
    VIRTUAL_FUNCTION_MARK,
    DUMP_BY_DEFAULT_WINDOW,
    DUMP_BY_DYNAMIC_WINDOW,
    PAIRS_MARK,
    SLEEP_MARK,
    REBOOT_MARK,
    BARE_METAL_GUEST,
];

const fn no_two_overlap() -> bool {
    let mut index = 1;
    while index < ALL.len() {
        let before = ALL[index - 1];
        if before.start_kib + before.kib > ALL[index].start_kib {
            return false;
        }
        index += 1;
    }
    true
}

const _: () = assert!(
    no_two_overlap(),
    "two tests write to the same part of the NVMe"
);

impl Part {
    const fn new(start_kib: u64, kib: u64) -> Self {
        assert!(start_kib.is_multiple_of(64));
        Part { start_kib, kib }
    }

    /// Where it starts, in bytes.
    pub(crate) const fn offset(self) -> u64 {
        self.start_kib << 10
    }

    /// Where it starts in pieces of 4 KiB, as dd's `skip` and `seek` count with `bs=4096`.
    pub(crate) const fn start_4k(self) -> u64 {
        self.start_kib / 4
    }

    /// Where it starts in pieces of 64 KiB, as dd's `skip` and `seek` count with `bs=64k`.
    pub(crate) const fn start_64k(self) -> u64 {
        self.start_kib / 64
    }

    /// Its size in bytes.
    pub(crate) fn bytes(self) -> usize {
        usize::try_from(self.kib << 10).expect("a part of a small disk")
    }
}
