//! Translation control entries (PAPR "TCE"): one page of a DMA window.

use crate::address::{GuestPhysicalAddress, PageShift};

/// What a device may do with a page. The bits are those of a TCE (PAPR, "TCE Definition";
/// `TCE_PCI_READ` and `TCE_PCI_WRITE` in the kernel's asm/tce.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission(u8);

impl Permission {
    /// No access: the entry is invalid.
    pub const NONE: Self = Self(0);
    /// The device may read memory.
    pub const READ: Self = Self(1);
    /// The device may write memory.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const READ_WRITE: Self = Self(3);

    /// Whether the device may read.
    pub const fn can_read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the device may write.
    pub const fn can_write(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether it may do all that `wanted` says.
    pub const fn allows(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether it may do neither.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// One entry as the guest wrote it: a page's real address and the permission in the two low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Tce(pub u64);

impl Tce {
    /// The permission bits of an entry.
    pub const PERMISSION_MASK: u64 = 3;
    /// An entry that maps nothing.
    pub const INVALID: Self = Self(0);

    /// An entry for the page at `address`.
    pub const fn new(address: GuestPhysicalAddress, permission: Permission) -> Self {
        Self(address.0 | permission.0 as u64)
    }

    /// What the device may do.
    pub const fn permission(self) -> Permission {
        Permission((self.0 & Self::PERMISSION_MASK) as u8)
    }

    /// The page's address, with all bits but the permission's: those below the page size are for
    /// the caller to judge (see [`Tce::is_page_aligned`]).
    pub const fn address(self) -> GuestPhysicalAddress {
        GuestPhysicalAddress(self.0 & !Self::PERMISSION_MASK)
    }

    /// Whether no bit stands between the permission bits and the page's address.
    pub const fn is_page_aligned(self, page: PageShift) -> bool {
        self.address().0 & page.offset_mask() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_address_and_permission_apart() {
        let tce = Tce::new(GuestPhysicalAddress(0x1234_5000), Permission::WRITE);
        assert_eq!(tce, Tce(0x1234_5002));
        assert_eq!(tce.address(), GuestPhysicalAddress(0x1234_5000));
        assert!(tce.permission().can_write() && !tce.permission().can_read());
        assert!(tce.is_page_aligned(PageShift::SIZE_4K));
        assert!(!tce.is_page_aligned(PageShift::SIZE_64K));
        assert!(!Tce(0x1234_5006).is_page_aligned(PageShift::SIZE_4K));
    }
}
