//! The capability lists of a function: MSI and MSI-X are emulated, what makes no sense for a guest
//! is taken out, and the rest is the device's.

use std::io;

use super::backend::{FunctionBackend, InterruptKind};
use super::config_space::{ConfigSpace, read_u8, read_u16, read_u32, register};

const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST_EXTENDED: u16 = 0x100;

const ID_POWER_MANAGEMENT: u8 = 0x01;
const ID_MSI: u8 = 0x05;
const ID_EXPRESS: u8 = 0x10;
const ID_MSI_X: u8 = 0x11;
const ID_ADVANCED_FEATURES: u8 = 0x13;
/// Enhanced allocation states fixed addresses of the host.
const ID_ENHANCED_ALLOCATION: u8 = 0x14;

const MSI_CONTROL_64_BIT: u16 = 1 << 7;
const MSI_CONTROL_MASKING: u16 = 1 << 8;
/// Enable, and multiple message enable.
const MSI_CONTROL_WRITABLE: u16 = 1 | 7 << 4;
/// Function mask, and enable.
const MSI_X_CONTROL_WRITABLE: u16 = 1 << 14 | 1 << 15;

/// What the rest needs to know about a function's capabilities.
#[derive(Clone, Debug, Default)]
pub(super) struct Capabilities {
    /// Offset of the power management control and status register.
    pub(super) power_control: Option<u16>,
    /// Offsets of the registers that can ask for a function-level reset: Device Control of PCI Express, and the control
    /// register of Advanced Features.
    pub(super) reset_controls: Vec<u16>,
    /// Whether its messages have addresses of 32 bits only. The host's kernel then gives it none else, of
    /// MSI-X neither (`pci_msi_init` in drivers/pci/msi/msi.c).
    pub(super) short_messages: bool,
}

/// A list entry: where it is, its id, and where the next one is (0 at the end).
#[derive(Clone, Copy)]
struct Entry {
    offset: u16,
    id: u16,
    next: u16,
}

/// Reads both lists and sets up what of them is emulated.
pub(super) fn emulate(
    backend: &dyn FunctionBackend,
    config: &mut ConfigSpace,
) -> io::Result<Capabilities> {
    let mut capabilities = Capabilities::default();
    let (standard, is_whole) = standard_list(backend)?;
    let mut shown = Vec::with_capacity(standard.len());
    for &entry in &standard {
        match u8::try_from(entry.id).unwrap_or_default() {
            // The host's kernel, too, knows only the first.
            ID_POWER_MANAGEMENT if capabilities.power_control.is_some() => {
                blank(config, entry.offset, 8, &standard);
                continue;
            }
            ID_POWER_MANAGEMENT if entry.offset + 6 <= FIRST_EXTENDED => {
                capabilities.power_control = Some(entry.offset + 4);
            }
            ID_EXPRESS => capabilities.reset_controls.push(entry.offset + 8),
            ID_ADVANCED_FEATURES => capabilities.reset_controls.push(entry.offset + 4),
            ID_MSI if backend.interrupt_vectors(InterruptKind::Msi) > 0 => {
                let control = emulate_msi(backend, config, entry.offset)?;
                capabilities.short_messages = control & MSI_CONTROL_64_BIT == 0;
            }
            ID_MSI_X if backend.interrupt_vectors(InterruptKind::MsiX) > 0 => {
                let control = read_u16(backend, entry.offset + 2)? & !MSI_X_CONTROL_WRITABLE;
                config.emulate(
                    entry.offset + 2,
                    &control.to_le_bytes(),
                    &MSI_X_CONTROL_WRITABLE.to_le_bytes(),
                );
            }
            ID_MSI | ID_MSI_X | ID_ENHANCED_ALLOCATION => {
                blank(config, entry.offset, 24, &standard);
                continue;
            }
            _ => {}
        }
        shown.push(entry);
    }
    if shown.len() != standard.len() || !is_whole {
        relink_standard(config, &shown);
    }
    hide_extended(backend, config)?;
    Ok(capabilities)
}

/// The standard list, and whether it ends as it has to: a broken device's may be a ring, or lead into the header.
fn standard_list(backend: &dyn FunctionBackend) -> io::Result<(Vec<Entry>, bool)> {
    let mut list: Vec<Entry> = Vec::new();
    if read_u16(backend, register::STATUS)? & STATUS_CAPABILITIES == 0 {
        return Ok((list, true));
    }
    let mut offset = u16::from(read_u8(backend, register::CAPABILITIES)? & 0xfc);
    while offset >= 0x40 && list.iter().all(|entry| entry.offset != offset) {
        let id = u16::from(read_u8(backend, offset)?);
        let next = u16::from(read_u8(backend, offset + 1)? & 0xfc);
        list.push(Entry { offset, id, next });
        offset = next;
    }
    Ok((list, offset == 0))
}

/// Emulates MSI but for its id, link and (if any) pending bits. The message that the guest writes
/// goes nowhere: the host's kernel programs the device. What the device has as its control register.
fn emulate_msi(
    backend: &dyn FunctionBackend,
    config: &mut ConfigSpace,
    offset: u16,
) -> io::Result<u16> {
    let control = read_u16(backend, offset + 2)?;
    config.emulate(
        offset + 2,
        &(control & !MSI_CONTROL_WRITABLE).to_le_bytes(),
        &MSI_CONTROL_WRITABLE.to_le_bytes(),
    );
    let data = if control & MSI_CONTROL_64_BIT == 0 {
        offset + 8
    } else {
        config.emulate(offset + 8, &[0; 4], &[0xff; 4]);
        offset + 12
    };
    config.emulate(offset + 4, &[0; 4], &[0xfc, 0xff, 0xff, 0xff]);
    config.emulate(data, &[0; 2], &[0xff; 2]);
    if control & MSI_CONTROL_MASKING != 0 {
        config.emulate(data + 4, &[0; 4], &[0xff; 4]);
    }
    Ok(control)
}

/// Lets up to `bytes` of a hidden capability read 0, without touching the one that follows.
fn blank(config: &mut ConfigSpace, offset: u16, bytes: u16, list: &[Entry]) {
    let following = list
        .iter()
        .map(|entry| entry.offset)
        .filter(|&other| other > offset)
        .min();
    let bytes = following.map_or(bytes, |following| bytes.min(following - offset));
    let zeros = vec![0; usize::from(bytes)];
    config.emulate(offset, &zeros, &zeros);
}

fn relink_standard(config: &mut ConfigSpace, shown: &[Entry]) {
    let mut link = register::CAPABILITIES;
    for entry in shown {
        config.emulate(link, &[low_byte(entry.offset)], &[0]);
        link = entry.offset + 1;
    }
    config.emulate(link, &[0], &[0]);
}

fn low_byte(offset: u16) -> u8 {
    offset.to_le_bytes()[0]
}

/// Extended capabilities that a guest must not see, and how many bytes they have at most: those
/// that need the host's IOMMU to work along, and those that change what the host sees of BARs.
fn hidden_extended(id: u16) -> Option<u16> {
    match id {
        0x0f => Some(8),         // address translation services
        0x10 => Some(64),        // single-root I/O virtualization
        0x13 => Some(16),        // page request interface
        0x15 | 0x24 => Some(52), // resizable BARs, of a function or of its virtual functions
        0x1b => Some(8),         // process address space identifiers
        _ => None,
    }
}

fn hide_extended(backend: &dyn FunctionBackend, config: &mut ConfigSpace) -> io::Result<()> {
    let size = backend.config_bytes();
    let mut list: Vec<Entry> = Vec::new();
    let mut offset = FIRST_EXTENDED;
    while offset >= FIRST_EXTENDED
        && offset < size
        && list.iter().all(|entry| entry.offset != offset)
    {
        let header = read_u32(backend, offset)?;
        if header == 0 || header == u32::MAX {
            break;
        }
        let [low, high, ..] = header.to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        let next = u16::try_from(header >> 20 & 0xffc).unwrap_or_default();
        list.push(Entry { offset, id, next });
        offset = next;
    }
    let mut kept: Option<Entry> = None;
    for &entry in &list {
        let Some(bytes) = hidden_extended(entry.id) else {
            kept = Some(entry);
            continue;
        };
        blank(config, entry.offset, bytes, &list);
        match &mut kept {
            Some(previous) => {
                previous.next = entry.next;
                // The upper half of the header: the link, and the version below it.
                let version = read_u8(backend, previous.offset + 2)? & 0x0f;
                let link = (previous.next << 4 | u16::from(version)).to_le_bytes();
                config.emulate(previous.offset + 2, &link, &[0; 2]);
            }
            // The first one stays as a null capability, which only leads on.
            None => {
                let header = u32::from(entry.next) << 20;
                config.emulate(entry.offset, &header.to_le_bytes(), &[0; 4]);
                kept = Some(entry);
            }
        }
    }
    Ok(())
}
