//! A function's configuration space as a fuzzer's bytes have it: as a guest writes it, and as a device shows it.

use arbitrary::{Result, Unstructured};
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::fake::{FakeFunction, Fixture, PAGE};
use super::{Function, InterruptKind};
use crate::interrupts::Lisn;

/// Steps of one run at the most.
const MOST_STEPS: usize = 64;
const ROM_BYTES: u64 = 0x1000;
/// Capabilities that fit before the extended ones.
const MOST_CAPABILITIES: usize = 48;

/// Where the BARs that can be mapped are in this process: BAR 0, BAR 2 and BAR 5 of the fake function.
const HOST_STARTS: [u64; 3] = [0x10_0000, 0x20_0000, 0x40_0000];

/// Reads and writes configuration space and BARs, asks for interrupts and resets the bridge as `bytes` say.
///
/// # Panics
/// When a BAR is in the guest where it must not be, or something outlives the function.
pub fn config_space(bytes: &[u8]) {
    let fixture = Fixture::with(|function| function.with_rom(ROM_BYTES));
    let mut input = Unstructured::new(bytes);
    for _ in 0..MOST_STEPS {
        if input.is_empty() || step(&mut input, &fixture).is_err() {
            break;
        }
        for fault in faults(&fixture) {
            fault.fail_call(0);
        }
        assert_bars_are_where_they_are_decoded(&fixture);
    }
    let Fixture {
        bridge,
        space,
        lines,
        ..
    } = fixture;
    drop(bridge);
    assert!(space.mapped.lock().is_empty() && space.doorbells.lock().is_empty());
    assert!(lines.sources().is_empty());
}

fn faults(fixture: &Fixture) -> [&super::fake::Fault; 4] {
    let Fixture {
        backend,
        space,
        lines,
        ..
    } = fixture;
    [
        &backend.fault,
        &backend.interrupt_fault,
        &space.fault,
        &lines.fault,
    ]
}

fn function(fixture: &Fixture) -> &Function {
    &fixture.bridge.functions()[0]
}

fn step(input: &mut Unstructured<'_>, fixture: &Fixture) -> Result<()> {
    if input.ratio(1, 8)? {
        let fault = faults(fixture)[input.choose_index(4)?];
        fault.fail_call(input.int_in_range(0..=4)?);
    }
    let function = function(fixture);
    // What fails is told to the guest; what must hold then is looked at after the step.
    match input.int_in_range(0..=9u8)? {
        0..=4 => {
            let (offset, size) = register(input)?;
            let _ = function.write_config(offset, size, value(input)?);
        }
        5 => {
            let (offset, size) = register(input)?;
            let _ = function.read_config(offset, size);
        }
        6 => {
            let address = match input.ratio(1, 4)? {
                true => input.arbitrary()?,
                false => 0x2000_8000_0000 + input.int_in_range(0..=0x20_0000u64)?,
            };
            let mut data = [0; 8];
            let data = &mut data[..*input.choose(&[1, 2, 4, 8])?];
            fixture
                .bridge
                .mmio_read(GuestPhysicalAddress(address), data);
            fixture
                .bridge
                .mmio_write(GuestPhysicalAddress(address), data);
        }
        7 => {
            let kind = *input.choose(&[InterruptKind::Msi, InterruptKind::MsiX])?;
            let _ = function.change_msi(kind, input.int_in_range(0..=80)?);
        }
        8 => fixture.lines.sample(Lisn(Lisn::LSI.0)),
        _ => {
            // A device is reset even where a BAR could not be taken from the guest, which the fake does not forgive.
            let is_reset = input.arbitrary()?;
            if is_reset {
                fixture.space.fault.fail_call(0);
            }
            let _ = match is_reset {
                true => fixture.bridge.reset(),
                false => fixture.bridge.quiesce(),
            };
        }
    }
    Ok(())
}

fn register(input: &mut Unstructured<'_>) -> Result<(u16, u32)> {
    const TELLING: [u16; 15] = [
        4, 5, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x3c, 0x42, 0x64, 0x82, 0xa8, 0xa9,
    ];
    let offset = match input.ratio(1, 4)? {
        true => input.arbitrary()?,
        false => *input.choose(&TELLING)?,
    };
    let size = match input.ratio(1, 16)? {
        true => input.arbitrary()?,
        false => *input.choose(&[1, 2, 4])?,
    };
    Ok((offset, size))
}

fn value(input: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match input.int_in_range(0..=4u8)? {
        0 => input.arbitrary()?,
        1 | 2 => input.int_in_range(0..=7)?,
        3 => 0x8000_0000 + input.int_in_range(0..=16u32)? * 0x4000,
        _ => *input.choose(&[u32::MAX, 0x2100, 0x407, 0x8000, 0x80])?,
    })
}

fn assert_bars_are_where_they_are_decoded(fixture: &Fixture) {
    let windows = fixture.bridge.windows();
    let register = |offset| {
        let value = function(fixture).read_config(offset, 4);
        u64::from(value.expect("nothing fails"))
    };
    let bases = [
        register(0x10) & !0xf | register(0x14) << 32,
        register(0x18) & !0xf | register(0x1c) << 32,
        register(0x24) & !0xf,
    ];
    let command = fixture.backend.config_u16(4);
    let asleep = fixture.backend.config_u16(0x64) & 3 != 0;
    for (&guest, host) in fixture.space.mapped.lock().iter() {
        assert!(command & 2 != 0 && !asleep, "mapped without being decoded");
        assert!(guest.is_multiple_of(PAGE));
        let at = GuestPhysicalAddress(guest);
        let bus = windows.memory32.bus_address(at, host.bytes);
        let bus = bus.or(windows.memory64.bus_address(at, host.bytes));
        let bar = HOST_STARTS.iter().position(|&start| start == host.start.0);
        let expected = bar.map(|bar| bases[bar]);
        assert_eq!(bus, expected, "BAR {bar:?} at {guest:#x}");
    }
}

/// Has a guest look at all of the configuration space of a device that shows `bytes`: pairs of an offset (two bytes)
/// and what is there.
///
/// # Panics
/// When the guest's list of capabilities has no end, or leaves configuration space.
pub fn capabilities(bytes: &[u8]) {
    let poked = |function: FakeFunction| {
        for &[low, high, value] in bytes.as_chunks::<3>().0 {
            let offset = u16::from_le_bytes([low, high]) % 4096;
            // The header's first words: it is a device of this kind, with BARs of this size.
            if offset >= 0x34 {
                function.poke(offset.into(), value);
            }
        }
        function
    };
    // A device that cannot be passed through is refused.
    let Ok(fixture) = Fixture::try_behind(0, poked) else {
        return;
    };
    let function = function(&fixture);
    let read = |offset, size| function.read_config(offset, size).expect("nothing fails");
    for offset in (0..4096).step_by(4) {
        read(offset, 4);
    }
    let mut at = read(0x34, 1);
    for _ in 0..MOST_CAPABILITIES {
        let Some(offset) = u16::try_from(at & 0xfc).ok().filter(|&offset| offset != 0) else {
            return;
        };
        assert!(offset >= 0x40, "a capability at {offset:#x}");
        at = read(offset + 1, 1);
    }
    panic!("a list of capabilities without an end");
}
