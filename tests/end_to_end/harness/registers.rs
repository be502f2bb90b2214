//! Registers of the host's hardware, mapped into this process.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

/// Some registers, each of which any value may be written to.
pub(crate) struct Registers {
    start: *mut u8,
    bytes: usize,
}

impl Registers {
    /// Those of the host bridge whose domain the device at `address` is in.
    pub(crate) fn of_bridge(address: &str) -> Self {
        const BYTES: usize = 0x1000;
        let domain = address.split(':').next().expect("a domain");
        let domain = u64::from_str_radix(domain, 16).expect("a number");
        let nodes = fs::read_dir("/sys/firmware/devicetree/base").expect("the device tree");
        let mut nodes = nodes.map(|node| node.expect("a node").path());
        // The kernel numbers domains as the firmware does bridges.
        let node = nodes.find(|node| first_number(&node.join("ibm,opal-phbid")) == Some(domain));
        let node = node.expect("the bridge's node");
        let place = first_number(&node.join("reg")).expect("where its registers are");
        Self::map(Path::new("/dev/mem"), place, BYTES)
    }

    /// The BAR number `bar` of the device at `address`, which no process has open; it decodes memory from now on.
    pub(crate) fn of_device(address: &str, bar: u8) -> Self {
        let device = Path::new("/sys/bus/pci/devices").join(address);
        fs::write(device.join("power/control"), "on").expect("the device to be awake");
        let config = OpenOptions::new().write(true).open(device.join("config"));
        let config = config.expect("the device's configuration space");
        rustix::io::pwrite(&config, &[2], 4).expect("decoding to be on");
        let resource = device.join(format!("resource{bar}"));
        let bytes = fs::metadata(&resource).expect("the BAR").len();
        Self::map(&resource, 0, usize::try_from(bytes).expect("a size"))
    }

    fn map(file: &Path, place: u64, bytes: usize) -> Self {
        let opened = OpenOptions::new().read(true).write(true).open(file);
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let place = libc::off_t::try_from(place).expect("an address");
        // SAFETY: a new mapping, of registers, which no object of this process is in.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                opened.as_raw_fd(),
                place,
            )
        };
        let error = io::Error::last_os_error();
        assert_ne!(start, libc::MAP_FAILED, "{}: {error}", file.display());
        Self {
            start: start.cast(),
            bytes,
        }
    }

    /// Reads 64 bits, big-endian.
    pub(crate) fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: it is mapped, and aligned.
        u64::from_be(unsafe { self.at::<u64>(offset).read_volatile() })
    }

    /// Writes 64 bits, big-endian.
    pub(crate) fn write_u64(&mut self, offset: usize, value: u64) {
        // SAFETY: it is mapped, and aligned; what the registers do is what a test is about.
        unsafe { self.at::<u64>(offset).write_volatile(value.to_be()) };
    }

    /// Reads a byte.
    pub(crate) fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: it is mapped.
        unsafe { self.at::<u8>(offset).read_volatile() }
    }

    /// Writes a byte.
    pub(crate) fn write_u8(&mut self, offset: usize, value: u8) {
        // SAFETY: it is mapped; what the registers do is what a test is about.
        unsafe { self.at::<u8>(offset).write_volatile(value) };
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.bytes && offset.is_multiple_of(size_of::<T>()));
        self.start.wrapping_add(offset).cast()
    }
}

/// The number that a property of the device tree begins with, of two cells.
fn first_number(property: &Path) -> Option<u64> {
    let bytes = fs::read(property).ok()?;
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: what was mapped, of which nothing is borrowed.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
