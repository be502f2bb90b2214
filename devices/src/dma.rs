//! Guest memory as a device that this process makes reaches it: by guest addresses, or by bus addresses through
//! the DMA windows of its PCI host bridge.
//!
//! With bus addresses each access goes through the guest's own entries at that moment. The guest changes them
//! with hypercalls that the kernel may serve by itself, so nothing can be kept of an earlier translation.

use std::iter::FusedIterator;
use std::sync::{Arc, OnceLock, Weak};

use spapr_hypercalls::address::Ioba;
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::GuestRange;
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, Permissions, VolatileSlice,
};

/// What turns the bus addresses of a machine's host bridges into guest addresses.
pub trait Translate: Send + Sync {
    /// The guest memory behind bus address `ioba` of bridge number `bridge`, to the end of its IOMMU page; `None`
    /// where no window maps it, or not for all that is `wanted`.
    fn translate(&self, bridge: u8, ioba: Ioba, wanted: Permission) -> Option<GuestRange>;
}

/// The windows of a machine that is being made: devices are made before it runs, and do DMA once it does.
#[derive(Clone, Default)]
pub struct Windows(Arc<OnceLock<Weak<dyn Translate>>>);

impl Windows {
    /// Has bus addresses go through `translate` from now on. The first call counts.
    pub fn connect(&self, translate: Weak<dyn Translate>) {
        let _connected_before = self.0.set(translate);
    }

    fn translate(&self, bridge: u8, ioba: Ioba, wanted: Permission) -> Option<GuestRange> {
        let windows = self.0.get()?.upgrade()?;
        windows.translate(bridge, ioba, wanted)
    }
}

/// Guest memory by the addresses that a device was given.
#[derive(Clone)]
pub struct DmaMemory {
    ram: GuestMemoryMmap,
    /// Its host bridge, with the windows, if its addresses are the bus'.
    bus: Option<(u8, Windows)>,
}

impl DmaMemory {
    /// Memory by guest addresses.
    pub const fn by_guest_address(ram: GuestMemoryMmap) -> Self {
        Self { ram, bus: None }
    }

    /// Memory by bus addresses of bridge number `bridge`.
    pub const fn by_bus_address(ram: GuestMemoryMmap, bridge: u8, windows: Windows) -> Self {
        Self {
            ram,
            bus: Some((bridge, windows)),
        }
    }

    /// The longest piece from `address` on that lies in one place, of at most `count` bytes.
    fn slice(
        &self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<VolatileSlice<'_>, Error> {
        let unreachable = || Error::InvalidGuestAddress(address);
        let (start, most) = match &self.bus {
            None => (address, u64::MAX),
            Some((bridge, windows)) => {
                let range = windows
                    .translate(*bridge, Ioba(address.0), wanted(access))
                    .ok_or_else(unreachable)?;
                (GuestAddress(range.start.0), range.bytes)
            }
        };
        let slices = GuestMemoryBackend::get_slices(&self.ram, start, count.min(clamp(most)));
        slices.into_iter().next().ok_or_else(unreachable)?
    }
}

/// The address that many bytes behind another.
///
/// # Errors
/// There is none.
pub(crate) fn behind(address: GuestAddress, bytes: usize) -> Result<GuestAddress, Error> {
    let unreachable = Error::InvalidGuestAddress(address);
    let at = address.0.checked_add(bytes as u64).ok_or(unreachable)?;
    Ok(GuestAddress(at))
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What an entry has to allow the device.
const fn wanted(access: Permissions) -> Permission {
    match access {
        Permissions::No => Permission::NONE,
        Permissions::Read => Permission::READ,
        Permissions::Write => Permission::WRITE,
        Permissions::ReadWrite => Permission::READ_WRITE,
    }
}

impl GuestMemory for DmaMemory {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        self.get_slices(address, count, access)
            .is_ok_and(|mut slices| slices.all(|slice| slice.is_ok()))
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, ()>>, Error> {
        Ok(Slices {
            memory: self,
            address,
            count,
            access,
        })
    }
}

/// The pieces of a range, one after the other.
struct Slices<'a> {
    memory: &'a DmaMemory,
    address: GuestAddress,
    /// Bytes that are left; 0 after an error.
    count: usize,
    access: Permissions,
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let outcome = self.memory.slice(self.address, self.count, self.access);
        let length = outcome.as_ref().map_or(0, VolatileSlice::len);
        let next = self.address.0.checked_add(length as u64);
        match (outcome, next) {
            (Ok(slice), Some(next)) if length != 0 => {
                self.count -= length;
                self.address = GuestAddress(next);
                Some(Ok(slice))
            }
            (Ok(_), _) => {
                self.count = 0;
                Some(Err(Error::GuestAddressOverflow))
            }
            (Err(error), _) => {
                self.count = 0;
                Some(Err(error))
            }
        }
    }
}

impl FusedIterator for Slices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, BS<'a, ()>> for Slices<'a> {}

#[cfg(test)]
mod tests {
    use spapr_hypercalls::address::GuestPhysicalAddress;
    use vm_memory::Bytes;

    use super::*;

    /// Bus page n of bridge 3 is page 7 - n of memory, of which there are eight; page 5 is for reading alone, and
    /// page 12 is mapped beyond memory.
    struct Reversed;

    impl Translate for Reversed {
        fn translate(&self, bridge: u8, ioba: Ioba, wanted: Permission) -> Option<GuestRange> {
            let (page, offset) = (ioba.0 >> 12, ioba.0 & 0xfff);
            let leads_to = match page {
                5 if wanted.can_write() => return None,
                0..8 => 7 - page,
                12 => 0x100,
                _ => return None,
            };
            (bridge == 3).then_some(GuestRange {
                start: GuestPhysicalAddress((leads_to << 12) | offset),
                bytes: 0x1000 - offset,
            })
        }
    }

    fn memory() -> (GuestMemoryMmap, DmaMemory, Arc<dyn Translate>) {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap();
        let windows = Windows::default();
        let translate: Arc<dyn Translate> = Arc::new(Reversed);
        windows.connect(Arc::downgrade(&translate));
        let memory = DmaMemory::by_bus_address(ram.clone(), 3, windows);
        (ram, memory, translate)
    }

    #[test]
    fn what_lies_together_on_the_bus_is_found_wherever_it_is_in_memory() {
        let (ram, memory, _windows) = memory();
        memory
            .write_slice(b"abcdefgh", GuestAddress(0x1ffc))
            .unwrap();
        let [mut first, mut second] = [[0; 4]; 2];
        ram.read_slice(&mut first, GuestAddress(0x6ffc)).unwrap();
        ram.read_slice(&mut second, GuestAddress(0x5000)).unwrap();
        assert_eq!((&first, &second), (b"abcd", b"efgh"));
        let mut back = [0; 8];
        memory.read_slice(&mut back, GuestAddress(0x1ffc)).unwrap();
        assert_eq!(&back, b"abcdefgh");
        assert!(memory.check_range(GuestAddress(0), 0x8000, Permissions::Read));
    }

    #[test]
    fn nothing_is_reached_that_no_entry_maps_or_not_for_that() {
        let (_ram, memory, _windows) = memory();
        let refused =
            |address, count, access| !memory.check_range(GuestAddress(address), count, access);
        assert!(refused(0x5000, 1, Permissions::Write));
        assert!(refused(0x4fff, 2, Permissions::ReadWrite));
        assert!(!refused(0x4fff, 2, Permissions::Read));
        assert!(refused(0x7fff, 2, Permissions::Read));
        assert!(refused(0xc000, 1, Permissions::Read));
        assert!(refused(u64::MAX, 2, Permissions::Read));
        assert!(memory.read_obj::<u64>(GuestAddress(0x8000)).is_err());
        assert!(memory.write_obj(1_u8, GuestAddress(0x5000)).is_err());
    }

    #[test]
    fn before_the_machine_runs_and_after_it_there_is_nothing() {
        let (ram, memory, windows) = memory();
        drop(windows);
        assert!(memory.read_obj::<u8>(GuestAddress(0)).is_err());
        let never = DmaMemory::by_bus_address(ram.clone(), 3, Windows::default());
        assert!(never.read_obj::<u8>(GuestAddress(0)).is_err());
        let direct = DmaMemory::by_guest_address(ram);
        assert!(direct.read_obj::<u8>(GuestAddress(0x7fff)).is_ok());
        assert!(direct.read_obj::<u8>(GuestAddress(0x8000)).is_err());
    }
}
