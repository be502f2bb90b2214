//! A function, memory slots and interrupt lines that tests can look into and make fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress};
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use super::address::DeviceFunction;
use super::backend::*;
use super::host_bridge::{HostBridge, PciError};
use crate::board::{AddressSpace, Board};
use crate::interrupts::{
    InterruptLines, LevelLine, Lisn, LisnAllocator, LisnBlock, Sampling, Signal,
};

#[path = "fake_endpoint.rs"]
mod endpoint;
#[path = "fake_fixture.rs"]
mod fixture;

pub(crate) use endpoint::FakeEndpoint;
pub(crate) use fixture::Fixture;

pub(crate) const PAGE: u64 = 0x1_0000;

/// Counts calls and fails the one with the number set before.
#[derive(Default)]
pub(crate) struct Fault(AtomicU32);

impl Fault {
    /// Fails the `n`-th call from now; 0 for none.
    pub(crate) fn fail_call(&self, n: u32) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            self.0.store(left - 1, Ordering::Relaxed);
        }
        if left == 1 {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            Ok(())
        }
    }
}

/// A fake NVMe controller, more or less.
pub(crate) struct FakeFunction {
    name: String,
    config: Mutex<Vec<u8>>,
    /// Written only where a bit is set.
    writable: Vec<u8>,
    bars: [Option<Bar>; NUM_BARS + 1],
    pub(crate) vectors: [u32; 2],
    /// How many vectors the host has.
    pub(crate) host_vectors: AtomicU32,
    /// Whether it is in its bridge's endpoint.
    pub(crate) in_endpoint: AtomicBool,
    /// Whether VFIO gives its line.
    pub(crate) has_line: bool,
    /// The event that the line signals, and how often it was unmasked.
    pub(crate) line: Mutex<Option<(i32, u32)>>,
    /// Whether it has refused something, so that vectors may be left that nobody could take.
    has_refused: AtomicBool,
    pub(crate) enabled: Mutex<Option<(InterruptKind, Vec<i32>)>>,
    /// The command register that it has when it leaves D3hot.
    slept_with: Mutex<u8>,
    pub(crate) accesses: Mutex<Vec<(usize, u64, Vec<u8>)>>,
    pub(crate) fault: Fault,
    pub(crate) interrupt_fault: Fault,
    /// Shared with the space: what is mapped may only be so while memory decoding is on.
    pub(crate) slots: Arc<FakeSpace>,
}

impl FakeFunction {
    pub(crate) fn new(name: &str, slots: Arc<FakeSpace>) -> Self {
        let mut config = vec![0; 4096];
        let mut put = |offset: usize, bytes: &[u8]| {
            config[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0x00, &[0x36, 0x1b, 0x10, 0x00]);
        put(0x06, &[0x10, 0x00]);
        put(0x08, &[0x02, 0x02, 0x08, 0x01]);
        put(0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
        put(0x30, &[0x01, 0x00, 0xff, 0xff]);
        put(0x34, &[0x40]);
        put(0x3d, &[1]);
        put(
            0x40,
            &[0x11, 0x60, 0x40, 0x80, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0],
        ); // MSI-X, 65
        put(0x60, &[0x01, 0x70, 0x03, 0x00, 0x08, 0x00, 0, 0]); // power management
        put(0x70, &[0x14, 0x80, 0, 0, 0xff, 0xff]); // enhanced allocation
        put(0x80, &[0x05, 0xa0, 0x8a, 0x01]); // MSI, 32 vectors, 64-bit, masking
        put(0xa0, &[0x10, 0x00, 0x02, 0x00]); // PCI Express
        put(0x100, &[0x0f, 0x00, 0x01, 0x11, 0xaa, 0xaa]); // ATS, next 0x110
        put(0x110, &[0x01, 0x00, 0x02, 0x18]); // AER, next 0x180
        put(0x180, &[0x15, 0x00, 0x01, 0x00, 0xbb, 0xbb]); // resizable BARs, end
        let mut writable = vec![0; 4096];
        writable[4..6].copy_from_slice(&[0x07, 0x04]);
        writable[0x10..0x28].fill(0xff);
        writable[0x3c] = 0xff;
        writable[0x64] = 0x03;
        writable[0xa8..0xb0].fill(0xff);
        writable[0x42..0x44].fill(0xff);
        Self {
            name: name.into(),
            config: Mutex::new(config),
            writable,
            bars: [
                Some(bar(0x4000, BarSpace::Memory64, false, 0x10_0000)),
                None,
                Some(bar(0x10_0000, BarSpace::Memory64, true, 0x20_0000)),
                None,
                Some(Bar {
                    mappings: vec![],
                    ..bar(0x40, BarSpace::Io, false, 0)
                }),
                Some(bar(0x1000, BarSpace::Memory32, false, 0x40_0000)),
                None,
            ],
            vectors: [32, 65],
            host_vectors: AtomicU32::new(u32::MAX),
            in_endpoint: AtomicBool::new(false),
            has_line: true,
            line: Mutex::new(None),
            has_refused: AtomicBool::new(false),
            enabled: Mutex::new(None),
            slept_with: Mutex::new(0),
            accesses: Mutex::new(Vec::new()),
            fault: Fault::default(),
            interrupt_fault: Fault::default(),
            slots,
        }
    }

    pub(crate) fn with_vectors(mut self, msi: u32, msi_x: u32) -> Self {
        self.vectors = [msi, msi_x];
        self
    }

    /// With an expansion ROM of so many bytes.
    pub(crate) fn with_rom(mut self, bytes: u64) -> Self {
        self.bars[ROM] = Some(Bar {
            mappings: vec![],
            ..bar(bytes, BarSpace::Memory32, false, 0)
        });
        self
    }

    pub(crate) fn without_line(mut self) -> Self {
        self.has_line = false;
        self
    }

    /// How often its line was unmasked since it was connected; `None` when it is not.
    pub(crate) fn unmasked(&self) -> Option<u32> {
        self.line.lock().map(|(_, unmasked)| unmasked)
    }

    pub(crate) fn with_header_type(self, layout: u8) -> Self {
        self.config.lock()[0x0e] = layout;
        self
    }

    pub(crate) fn with_read_only(mut self, offset: usize) -> Self {
        self.writable[offset] = 0;
        self
    }

    pub(crate) fn poke(&self, offset: usize, value: u8) {
        self.config.lock()[offset] = value;
    }

    pub(crate) fn config_u16(&self, offset: usize) -> u16 {
        let config = self.config.lock();
        u16::from_le_bytes([config[offset], config[offset + 1]])
    }
}

fn bar(bytes: u64, space: BarSpace, prefetchable: bool, host: u64) -> Bar {
    let host = HostRange {
        start: HostVirtualAddress(host),
        bytes: bytes.max(PAGE),
    };
    Bar {
        bytes,
        space,
        prefetchable,
        host_address: None,
        mappings: vec![BarMapping { offset: 0, host }],
        doorbells: Vec::new(),
    }
}

impl FunctionBackend for FakeFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn location_code(&self) -> String {
        format!("fake:{}", self.name)
    }

    fn config_bytes(&self) -> u16 {
        4096
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        assert!(matches!(data.len(), 1 | 2 | 4) && usize::from(offset).is_multiple_of(data.len()));
        self.noting(self.fault.check())?;
        let offset = usize::from(offset);
        data.copy_from_slice(&self.config.lock()[offset..offset + data.len()]);
        Ok(())
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        assert!(matches!(data.len(), 1 | 2 | 4) && usize::from(offset).is_multiple_of(data.len()));
        self.noting(self.fault.check())?;
        let mut config = self.config.lock();
        let power = config[0x64];
        for (at, value) in (usize::from(offset)..).zip(data) {
            assert!(
                !(0x10..0x28).contains(&at),
                "BARs are never written to the device"
            );
            config[at] = config[at] & !self.writable[at] | value & self.writable[at];
        }
        self.follow(&mut config, power, offset, data);
        // vfio-pci zaps its mappings here: none may be left in the guest.
        let decodes = config[4] & 2 != 0 && config[0x64] & 3 == 0;
        let own: Vec<u64> = self
            .bars
            .iter()
            .flatten()
            .flat_map(|b| &b.mappings)
            .map(|m| m.host.start.0)
            .collect();
        let mapped = self.slots.mapped.lock();
        assert!(
            decodes || mapped.values().all(|host| !own.contains(&host.start.0)),
            "a BAR is mapped while it is not decoded"
        );
        Ok(())
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.bars[index].clone()
    }

    fn read_bar(&self, index: usize, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let bar = self.bars[index].as_ref().unwrap();
        assert!(offset + data.len() as u64 <= bar.bytes);
        self.fault.check()?;
        data.fill(if index == ROM { 0x55 } else { 0x5a });
        Ok(())
    }

    fn write_bar(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        let bar = self.bars[index].as_ref().unwrap();
        assert!(offset + data.len() as u64 <= bar.bytes);
        self.accesses.lock().push((index, offset, data.to_vec()));
        Ok(())
    }

    fn interrupt_vectors(&self, kind: InterruptKind) -> u32 {
        match kind {
            InterruptKind::Msi => self.vectors[0],
            InterruptKind::MsiX => self.vectors[1],
        }
    }

    fn set_interrupts(
        &self,
        kind: InterruptKind,
        signals: &[Signal],
    ) -> io::Result<VectorsEnabled> {
        self.assert_is_awake();
        self.interrupt_fault.check()?;
        let most = self.host_vectors.load(Ordering::Relaxed);
        if signals.len() > most as usize {
            return Ok(VectorsEnabled::AtMost(most));
        }
        let mut enabled = self.enabled.lock();
        assert!(
            enabled.is_none() || self.has_refused.load(Ordering::Relaxed),
            "vectors are enabled already"
        );
        assert_eq!(self.unmasked(), None, "the line is connected");
        *enabled = Some((
            kind,
            signals.iter().map(|it| it.event().as_raw_fd()).collect(),
        ));
        Ok(VectorsEnabled::All)
    }

    fn disable_interrupts(&self, kind: InterruptKind) -> io::Result<()> {
        self.assert_is_awake();
        let enabled = self.enabled.lock().take().map(|(kind, _)| kind);
        assert!(
            enabled == Some(kind) || self.has_refused.load(Ordering::Relaxed),
            "no {kind} vectors"
        );
        self.noting(self.interrupt_fault.check())
    }

    fn has_line(&self) -> bool {
        self.has_line
    }

    fn connect_line(&self, event: &EventFd) -> io::Result<()> {
        self.interrupt_fault.check()?;
        let enabled = self.enabled.lock();
        assert_eq!(*enabled, None, "vectors are enabled");
        let old = self.line.lock().replace((event.as_raw_fd(), 0));
        assert_eq!(old, None, "the line is connected once");
        Ok(())
    }

    fn unmask_line(&self) -> io::Result<()> {
        self.interrupt_fault.check()?;
        let mut line = self.line.lock();
        let (_, unmasked) = line.as_mut().expect("the line is not connected");
        *unmasked += 1;
        Ok(())
    }

    fn disconnect_line(&self) -> io::Result<()> {
        let old = self.line.lock().take();
        assert!(old.is_some(), "the line is not connected");
        self.interrupt_fault.check()
    }

    fn is_in_endpoint(&self) -> bool {
        self.in_endpoint.load(Ordering::Relaxed)
    }

    fn reset(&self) -> io::Result<()> {
        self.fault.check()?;
        self.wake_for_reset();
        Ok(())
    }
}

/// Memory slots: no overlaps, whole pages, as KVM has it.
#[derive(Default)]
pub(crate) struct FakeSpace {
    pub(crate) mapped: Mutex<BTreeMap<u64, HostRange>>,
    /// Descriptors of the events of doorbells.
    pub(crate) doorbells: Mutex<BTreeMap<u64, i32>>,
    pub(crate) fault: Fault,
}

impl AddressSpace for FakeSpace {
    fn map(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()> {
        assert!(guest.0.is_multiple_of(PAGE) && host.bytes.is_multiple_of(PAGE));
        self.fault.check()?;
        let mut mapped = self.mapped.lock();
        if mapped
            .iter()
            .any(|(&other, range)| other < guest.0 + host.bytes && guest.0 < other + range.bytes)
        {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        mapped.insert(guest.0, host);
        Ok(())
    }

    fn unmap(&self, guest: GuestPhysicalAddress, host: HostRange) -> io::Result<()> {
        self.fault.check()?;
        let removed = self.mapped.lock().remove(&guest.0);
        assert_eq!(removed, Some(host), "what is unmapped was mapped so");
        Ok(())
    }

    fn connect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        self.fault.check()?;
        let mut doorbells = self.doorbells.lock();
        if doorbells.contains_key(&guest.0) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        doorbells.insert(guest.0, event.as_raw_fd());
        Ok(())
    }

    fn disconnect_doorbell(&self, guest: GuestPhysicalAddress, event: &EventFd) -> io::Result<()> {
        self.fault.check()?;
        let removed = self.doorbells.lock().remove(&guest.0);
        assert_eq!(
            removed,
            Some(event.as_raw_fd()),
            "what is disconnected was connected so"
        );
        Ok(())
    }
}

/// Interrupt lines: one event each.
#[derive(Default)]
pub(crate) struct FakeLines {
    pub(crate) made: Mutex<BTreeSet<Lisn>>,
    pub(crate) connected: Mutex<BTreeMap<Lisn, i32>>,
    /// Lines of level-triggered sources.
    pub(crate) level: Mutex<Vec<(Lisn, Weak<dyn LevelLine>)>>,
    /// Whether nobody knows when the guest listens to them.
    pub(crate) by_time: bool,
    pub(crate) fault: Fault,
}

impl InterruptLines for FakeLines {
    fn sampling(&self) -> Sampling {
        if self.by_time {
            Sampling::ByTime
        } else {
            Sampling::ByGuest
        }
    }

    fn connect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()> {
        self.connect(lisn, event)
    }

    fn disconnect_level(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()> {
        self.disconnect(lisn, event)
    }

    fn make_level(&self, lisn: Lisn, line: Weak<dyn LevelLine>) -> io::Result<()> {
        self.fault.check()?;
        self.made.lock().insert(lisn);
        self.level.lock().push((lisn, line));
        Ok(())
    }

    fn make(&self, block: LisnBlock) -> io::Result<()> {
        self.fault.check()?;
        let connected = self.connected.lock();
        assert!(
            block.iter().all(|lisn| !connected.contains_key(&lisn)),
            "a source that is connected is not reset"
        );
        self.made.lock().extend(block.iter());
        Ok(())
    }

    fn connect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        self.fault.check()?;
        assert!(
            self.made.lock().contains(&lisn),
            "a source is made before it is connected"
        );
        let old = self.connected.lock().insert(lisn, event.as_raw_fd());
        assert_eq!(old, None, "a source is connected once");
        Ok(())
    }

    fn disconnect(&self, lisn: Lisn, event: &EventFd) -> io::Result<()> {
        let old = self.connected.lock().remove(&lisn);
        assert_eq!(
            old,
            Some(event.as_raw_fd()),
            "a source is disconnected from its event"
        );
        Ok(())
    }
}

impl FakeLines {
    /// The guest lets level-triggered source `lisn` interrupt.
    pub(crate) fn sample(&self, lisn: Lisn) {
        self.lines_of(lisn).iter().for_each(|line| line.sample());
    }

    /// Some time has gone since the source signalled.
    pub(crate) fn sample_again(&self, lisn: Lisn) {
        let lines = self.lines_of(lisn);
        lines.iter().for_each(|line| line.sample_again());
    }

    fn lines_of(&self, lisn: Lisn) -> Vec<Arc<dyn LevelLine>> {
        let level = self.level.lock();
        let lines = level.iter().filter(|(known, _)| *known == lisn);
        lines.filter_map(|(_, line)| line.upgrade()).collect()
    }

    pub(crate) fn sources(&self) -> BTreeSet<Lisn> {
        self.connected.lock().keys().copied().collect()
    }
}
