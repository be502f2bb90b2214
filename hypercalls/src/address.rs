//! Addresses and bus numbers, one type each, so that none is taken for another.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// Logical I/O bus number: the name a guest uses for a DMA window (PAPR "LIOBN").
    Liobn(u32)
}

address! {
    /// I/O bus address in bytes, as a device puts it on the bus (PAPR "IOBA").
    Ioba(u64)
}

address! {
    /// Guest physical (PAPR "logical real") address in bytes.
    GuestPhysicalAddress(u64)
}

address! {
    /// Address in bytes in this process' own address space, of memory that backs the guest's.
    HostVirtualAddress(u64)
}

impl Liobn {
    /// The LIOBN of DMA window `window` of PCI host bridge `phb`, numbered as QEMU numbers it, so
    /// that one guest runs under both: `0x80000000 | phb << 8 | window`.
    pub const fn of_pci_window(phb: u8, window: u8) -> Self {
        Self(0x8000_0000 | (phb as u32) << 8 | window as u32)
    }

    /// PCI host bridge and window, if this is a PCI LIOBN.
    pub const fn pci_window(self) -> Option<(u8, u8)> {
        if self.0 & 0xffff_0000 == 0x8000_0000 {
            // Shifts and not bytes in order: half the instructions, on each hypercall's way.
            #[expect(clippy::cast_possible_truncation, reason = "a byte is what is meant")]
            Some(((self.0 >> 8) as u8, self.0 as u8))
        } else {
            None
        }
    }
}

/// Size of an IOMMU page as a power of two of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageShift(u8);

impl PageShift {
    /// 4 KiB, the page size of every default DMA window.
    pub const SIZE_4K: Self = Self(12);
    /// 64 KiB.
    pub const SIZE_64K: Self = Self(16);
    /// 2 MiB.
    pub const SIZE_2M: Self = Self(21);
    /// 1 GiB.
    pub const SIZE_1G: Self = Self(30);

    /// A page size of `1 << shift` bytes; `None` outside 12 to 34, the range that KVM takes
    /// (`kvm_vm_ioctl_create_spapr_tce` in arch/powerpc/kvm/book3s_64_vio.c).
    pub const fn new(shift: u8) -> Option<Self> {
        if shift >= 12 && shift <= 34 {
            Some(Self(shift))
        } else {
            None
        }
    }

    /// The exponent.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Bytes in a page.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The bits of an address below the page.
    pub const fn offset_mask(self) -> u64 {
        self.bytes() - 1
    }
}

impl fmt::Display for PageShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            shift @ 30.. => write!(f, "{} GiB", 1u64 << (shift - 30)),
            shift @ 20..30 => write!(f, "{} MiB", 1u64 << (shift - 20)),
            shift => write!(f, "{} KiB", 1u64 << (shift - 10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_liobn_round_trips_through_bridge_and_window() {
        let liobn = Liobn::of_pci_window(3, 1);
        assert_eq!(liobn, Liobn(0x8000_0301));
        assert_eq!(liobn.pci_window(), Some((3, 1)));
        assert_eq!(Liobn(0x7100_0000).pci_window(), None);
    }

    #[test]
    fn page_sizes_print_in_their_unit() {
        assert_eq!(PageShift::SIZE_4K.to_string(), "4 KiB");
        assert_eq!(PageShift::SIZE_2M.to_string(), "2 MiB");
        assert_eq!(PageShift::SIZE_1G.to_string(), "1 GiB");
        assert_eq!(PageShift::new(11), None);
    }
}
