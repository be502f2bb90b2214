//! Where things lie in guest memory at boot.
//!
//! ```text
//! 0            free: the kernel copies itself here
//! 4 MiB        kernel, as loaded
//! 64 KiB up    initial RAM disk, behind the kernel
//! …
//! top - 2 MiB  device tree
//! top - 64 KiB RTAS stub;  top = the end of the block at 0, at most 768 MiB
//! ```

/// Where the kernel is loaded: 4 MiB up, as QEMU does, so that low memory is free for guests that
/// put their interrupt vectors there.
pub const KERNEL_BASE: u64 = 4 << 20;

/// Bytes set aside for RTAS: one 64 KiB page, so that the guest can reserve it alone.
pub const RTAS_BYTES: u64 = 64 << 10;

/// The most bytes of device tree.
pub const DEVICE_TREE_MOST_BYTES: u64 = (2 << 20) - RTAS_BYTES;

/// What the initial RAM disk is aligned to.
pub const INITRD_ALIGNMENT: u64 = 64 << 10;

/// The tree has to lie below 2 GiB and RTAS below 1 GiB, for 32-bit real mode; 768 MiB is where
/// QEMU's firmware puts them.
const TOP_MOST: u64 = 768 << 20;

/// The most bytes that a kernel can have in a guest with `ram_bytes` of memory at 0, of whatever size.
pub fn room_for_kernel(ram_bytes: u64) -> u64 {
    let top = ram_bytes.min(TOP_MOST);
    top.saturating_sub(DEVICE_TREE_MOST_BYTES + RTAS_BYTES)
}

/// The addresses that depend on the size of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The device tree; kernel and initial RAM disk have to end here.
    pub device_tree: u64,
    /// The RTAS stub.
    pub rtas: u64,
    /// Size in bytes of the RAM at 0.
    pub ram_bytes: u64,
}

impl Layout {
    /// The layout of a guest with `ram_bytes` of memory at 0.
    pub fn for_memory(ram_bytes: u64) -> Self {
        let top = ram_bytes.min(TOP_MOST);
        Self {
            device_tree: room_for_kernel(ram_bytes),
            rtas: top - RTAS_BYTES,
            ram_bytes,
        }
    }

    /// Where `bytes` of initial RAM disk go behind a kernel that ends at `kernel_end`: below the
    /// device tree if they fit, else above RTAS; `None` when neither has room.
    pub fn place_initrd(&self, kernel_end: u64, bytes: u64) -> Option<u64> {
        let low = kernel_end.next_multiple_of(INITRD_ALIGNMENT);
        if low.checked_add(bytes)? <= self.device_tree {
            return Some(low);
        }
        let high = self.rtas + RTAS_BYTES;
        (high.checked_add(bytes)? <= self.ram_bytes).then_some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_inside_small_and_large_memory() {
        for ram_bytes in [128 << 20, 1 << 30, 64 << 30] {
            let layout = Layout::for_memory(ram_bytes);
            assert!(layout.rtas + RTAS_BYTES <= ram_bytes.min(1 << 30));
            assert_eq!(layout.device_tree + DEVICE_TREE_MOST_BYTES, layout.rtas);
        }
    }

    #[test]
    fn an_initrd_goes_behind_the_kernel_or_above_rtas_or_nowhere() {
        let layout = Layout::for_memory(1 << 30);
        assert_eq!(layout.place_initrd(0x300_0001, 4096), Some(0x301_0000));
        assert_eq!(
            layout.place_initrd(layout.device_tree - 1, 200 << 20),
            Some(768 << 20)
        );
        assert_eq!(layout.place_initrd(layout.device_tree - 1, 300 << 20), None);
        assert_eq!(layout.place_initrd(0x300_0000, u64::MAX), None);
    }
}
