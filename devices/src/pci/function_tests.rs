use proptest::prelude::*;

use super::super::fake::{FakeFunction, FakeSpace, Fixture, PAGE};
use super::super::host_bridge::HostBridge;
use super::super::windows::MAX_HOST_BRIDGES;
use super::*;

impl Fixture {
    fn function(&self) -> &Function {
        &self.bridge.functions()[0]
    }

    fn read(&self, offset: u16, size: u32) -> u32 {
        self.function().read_config(offset, size).unwrap()
    }

    pub(crate) fn write(&self, offset: u16, size: u32, value: u32) {
        self.function().write_config(offset, size, value).unwrap();
    }

    pub(crate) fn mapped(&self) -> Vec<u64> {
        self.space.mapped.lock().keys().copied().collect()
    }
}

#[test]
fn header_is_the_device_s_but_for_what_a_guest_must_not_see() {
    let fixture = Fixture::new();
    assert_eq!(fixture.read(0x00, 4), 0x0010_1b36);
    assert_eq!(fixture.read(0x08, 4), 0x0108_0202);
    assert_eq!(fixture.read(0x30, 4), 0, "no ROM was asked for");
    fixture.write(0x30, 4, 0xffff_ffff);
    assert_eq!(fixture.read(0x30, 4), 0);
    assert_eq!(fixture.read(0x3d, 1), 1, "its line is INTA");
    fixture.write(0x3c, 1, 0x17);
    assert_eq!(fixture.read(0x3c, 4), 0x117);
    assert_eq!(fixture.read(0x0e, 1), 0);
}

#[test]
fn bars_answer_sizing_by_all_ones() {
    let fixture = Fixture::new();
    for (offset, expected) in [
        (0x10, 0xffff_c004),
        (0x14, 0xffff_ffff),
        (0x18, 0xfff0_000c),
        (0x1c, 0xffff_ffff),
        (0x20, 0xffff_ffc1),
        (0x24, 0xffff_f000),
    ] {
        let before = fixture.read(offset, 4);
        fixture.write(offset, 4, u32::MAX);
        assert_eq!(fixture.read(offset, 4), expected, "BAR at {offset:#x}");
        fixture.write(offset, 4, before);
        assert_eq!(fixture.read(offset, 4), before);
    }
}

#[test]
fn bars_follow_the_memory_enable_bit_and_their_registers() {
    let fixture = Fixture::new();
    assert_eq!(fixture.mapped(), [0u64; 0]);
    fixture.write(4, 2, 6);
    // By size: 1 MiB in the 64-bit window, 16 KiB and 4 KiB with a page each in the 32-bit one.
    assert_eq!(
        fixture.mapped(),
        [0x2000_8000_0000, 0x2000_8001_0000, 0x2100_0000_0000]
    );
    fixture.write(0x10, 4, 0x9000_0000);
    assert_eq!(
        fixture.mapped(),
        [0x2000_8001_0000, 0x2000_9000_0000, 0x2100_0000_0000]
    );
    // Where no page of the host begins, the BAR is served by exits.
    fixture.write(0x10, 4, 0x9000_4000);
    assert_eq!(fixture.mapped(), [0x2000_8001_0000, 0x2100_0000_0000]);
    let mut data = [0; 4];
    fixture
        .bridge
        .mmio_read(GuestPhysicalAddress(0x2000_9000_4010), &mut data);
    assert_eq!(data, [0x5a; 4]);
    fixture
        .bridge
        .mmio_write(GuestPhysicalAddress(0x2000_9000_7ffc), &[1, 2, 3, 4]);
    assert_eq!(
        *fixture.backend.accesses.lock(),
        [(0, 0x3ffc, vec![1, 2, 3, 4])]
    );
    // Out of the windows it answers nowhere.
    fixture.write(0x10, 4, 0x1000_0000);
    fixture
        .bridge
        .mmio_read(GuestPhysicalAddress(0x2000_9000_4010), &mut data);
    assert_eq!(data, [0xff; 4]);
    fixture.write(4, 2, 4);
    assert_eq!(fixture.mapped(), [0u64; 0]);
}

#[test]
fn accesses_across_the_end_of_a_bar_reach_nothing() {
    let fixture = Fixture::new();
    fixture.write(4, 2, 7);
    let mut data = [0; 8];
    fixture
        .bridge
        .mmio_read(GuestPhysicalAddress(0x2000_0000_103c), &mut data);
    assert_eq!(data, [0xff; 8]);
    fixture
        .bridge
        .mmio_read(GuestPhysicalAddress(0x2000_0000_103c), &mut data[..4]);
    assert_eq!(data[..4], [0x5a; 4]);
    fixture
        .bridge
        .mmio_read(GuestPhysicalAddress(u64::MAX), &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn a_sleeping_function_has_no_bars_in_the_guest() {
    let fixture = Fixture::new();
    fixture.write(4, 1, 2);
    assert_eq!(fixture.mapped().len(), 3);
    for state in 1..=3 {
        fixture.write(0x64, 2, state);
        assert_eq!(fixture.mapped(), [0u64; 0]);
        fixture.write(0x64, 2, 0);
        assert_eq!(fixture.mapped().len(), 3);
    }
}

#[test]
fn bars_follow_what_the_device_took_over_not_what_was_written() {
    let fixture = Fixture::with(|function| function.with_read_only(0x64));
    fixture.write(4, 1, 2);
    fixture.write(0x64, 2, 3);
    assert_eq!(fixture.read(0x64, 2) & 3, 0, "the device stays awake");
    assert_eq!(fixture.mapped().len(), 3);
    let fixture = Fixture::with(|function| function.with_read_only(4));
    fixture.write(4, 1, 2);
    assert_eq!(fixture.mapped(), [0u64; 0]);
}

#[test]
fn two_bars_in_one_page_are_both_served_by_exits() {
    let fixture = Fixture::new();
    fixture.write(0x10, 4, 0x9000_0000);
    fixture.write(0x24, 4, 0x9000_4000);
    fixture.write(4, 2, 2);
    assert_eq!(fixture.mapped(), [0x2100_0000_0000]);
    fixture
        .bridge
        .mmio_write(GuestPhysicalAddress(0x2000_9000_4000), &[9]);
    assert_eq!(*fixture.backend.accesses.lock(), [(5, 0, vec![9])]);
}

#[test]
fn message_interrupts_are_emulated() {
    let fixture = Fixture::new();
    // MSI-X: enable and function mask, over the device's table size.
    assert_eq!(fixture.read(0x42, 2), 0x0040);
    fixture.write(0x42, 2, 0xffff);
    assert_eq!(fixture.read(0x42, 2), 0xc040);
    assert_eq!(
        fixture.backend.config_u16(0x42),
        0x8040,
        "the device's own is untouched"
    );
    assert_eq!(fixture.read(0x44, 4), 0x2000);
    // MSI: whatever the guest writes as a message stays here.
    fixture.write(0x82, 2, 0xffff);
    assert_eq!(fixture.read(0x82, 2), 0x01fb);
    fixture.write(0x84, 4, 0xfee0_0003);
    assert_eq!(fixture.read(0x84, 4), 0xfee0_0000);
    assert_eq!(fixture.backend.config_u16(0x86), 0);
}

#[test]
fn hidden_capabilities_leave_the_lists_and_read_zero() {
    let fixture = Fixture::new();
    assert_eq!(fixture.read(0x34, 1), 0x40);
    assert_eq!(
        fixture.read(0x61, 1),
        0x80,
        "enhanced allocation is skipped"
    );
    assert_eq!(fixture.read(0x70, 4), 0);
    assert_eq!(
        fixture.read(0x100, 4),
        0x1100_0000,
        "ATS is a null capability"
    );
    assert_eq!(fixture.read(0x104, 2), 0);
    assert_eq!(fixture.read(0x110, 4), 0x0002_0001, "AER is the last");
    assert_eq!(fixture.read(0x180, 4), 0);
    assert_eq!(fixture.read(0x184, 2), 0);
    // Without vectors there is no MSI-X either.
    let fixture = Fixture::with(|function| function.with_vectors(32, 0));
    assert_eq!(fixture.read(0x34, 1), 0x60);
}

#[test]
fn a_ring_of_capabilities_ends() {
    let space = Arc::new(FakeSpace::default());
    let fixture = Fixture::with(|_| {
        let function = FakeFunction::new("ring", space);
        function.poke(0xa1, 0x40);
        function.poke(0x182, 0x01);
        function.poke(0x183, 0x10);
        function
    });
    assert_eq!(fixture.read(0x34, 1), 0x40);
    // A guest that follows it comes to an end, too.
    let mut list = vec![fixture.read(0x34, 1)];
    while let Some(at @ 1..) = list.last().copied()
        && list.len() < 8
    {
        list.push(fixture.read(u16::try_from(at).unwrap() + 1, 1));
    }
    assert_eq!(list, [0x40, 0x60, 0x80, 0xa0, 0]);
}

#[test]
fn a_list_of_capabilities_that_leads_into_the_header_ends_before_it() {
    let fixture = Fixture::with(|function| {
        function.poke(0x41, 0x0a);
        function
    });
    assert_eq!(fixture.read(0x34, 1), 0x40);
    assert_eq!(fixture.read(0x41, 1), 0);
}

#[test]
fn bridges_cannot_be_passed_through() {
    let fixture = Fixture::new();
    let backend: Arc<dyn FunctionBackend> =
        Arc::new(FakeFunction::new("0000:00:01.0", fixture.space.clone()).with_header_type(0x81));
    let at = vec![(DeviceFunction::from_byte(0), backend)];
    let error = HostBridge::new(1, &fixture.board, at).err().unwrap();
    assert!(
        matches!(error, PciError::NotAnEndpoint { layout: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_refused_write_changes_nothing() {
    let fixture = Fixture::new();
    fixture.write(4, 2, 2);
    let before = fixture.mapped();
    fixture.backend.fault.fail_call(1);
    fixture.function().write_config(4, 2, 0).unwrap_err();
    assert_eq!(fixture.mapped(), before);
    assert_eq!(fixture.read(4, 2), 2);
    // The page cannot be unmapped: the device goes on decoding.
    fixture.space.fault.fail_call(1);
    fixture.function().write_config(4, 2, 0).unwrap_err();
    assert_eq!(fixture.backend.config_u16(4), 2);
    assert_eq!(fixture.mapped(), before);
}

#[test]
fn quiesce_stops_the_device_and_reset_brings_the_first_addresses_back() {
    let fixture = Fixture::new();
    fixture.write(0x10, 4, 0x9000_0000);
    fixture.write(4, 2, 7);
    fixture
        .function()
        .change_msi(super::super::InterruptKind::MsiX, 4)
        .unwrap();
    fixture.bridge.quiesce().unwrap();
    assert_eq!(fixture.backend.config_u16(4) & 7, 0);
    assert_eq!(fixture.mapped(), [0u64; 0]);
    assert!(fixture.lines.sources().is_empty());
    assert!(fixture.backend.enabled.lock().is_none());
    assert_eq!(fixture.read(0x10, 4), 0x9000_0004);
    fixture.bridge.reset().unwrap();
    assert_eq!(fixture.read(0x10, 4), 0x8000_0004);
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u16, size: u32, value: u32 },
    Read { offset: u16, size: u32 },
    FailDevice(u32),
    FailSpace(u32),
    Mmio { address: u64, size: usize },
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly where it matters: the header's first registers, and power management.
    let offset = prop_oneof![
        4 => prop::sample::select(vec![4u16, 5, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x64]),
        1 => any::<u16>(),
    ];
    let value = prop_oneof![
        any::<u32>(),
        (0u32..8),
        (0u32..16).prop_map(|page| 0x8000_0000 + page * 0x4000),
        Just(u32::MAX),
        Just(0x2100),
    ];
    let size = prop_oneof![8 => prop::sample::select(vec![1u32, 2, 4]), 1 => any::<u32>()];
    prop_oneof![
        8 => (offset.clone(), size.clone(), value)
            .prop_map(|(offset, size, value)| Step::Write { offset, size, value }),
        2 => (offset, size).prop_map(|(offset, size)| Step::Read { offset, size }),
        1 => (0u32..4).prop_map(Step::FailDevice),
        1 => (0u32..3).prop_map(Step::FailSpace),
        2 => (prop_oneof![any::<u64>(), (0u64..0x20_0000).prop_map(|o| 0x2000_8000_0000 + o)],
              prop::sample::select(vec![1usize, 2, 4, 8]))
            .prop_map(|(address, size)| Step::Mmio { address, size }),
    ]
}

/// Each BAR's base, were it enabled, as a guest reads it.
fn bases(fixture: &Fixture) -> Vec<u64> {
    let register = |offset| u64::from(fixture.read(offset, 4));
    vec![
        register(0x10) & !0xf | register(0x14) << 32,
        register(0x18) & !0xf | register(0x1c) << 32,
        register(0x24) & !0xf,
    ]
}

proptest! {
    #[test]
    fn nothing_a_guest_writes_leaves_a_bar_where_it_must_not_be(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let fixture = Fixture::new();
        for step in steps {
            match step {
                Step::Write { offset, size, value } => {
                    let _ = fixture.function().write_config(offset, size, value);
                }
                Step::Read { offset, size } => {
                    let _ = fixture.function().read_config(offset, size);
                }
                Step::FailDevice(call) => { fixture.backend.fault.fail_call(call); continue }
                Step::FailSpace(call) => { fixture.space.fault.fail_call(call); continue }
                Step::Mmio { address, size } => {
                    let mut data = [0; 8];
                    let address = GuestPhysicalAddress(address);
                    fixture.bridge.mmio_read(address, &mut data[..size]);
                    fixture.bridge.mmio_write(address, &data[..size]);
                }
            }
            fixture.backend.fault.fail_call(0);
            fixture.space.fault.fail_call(0);

            let windows = fixture.bridge.windows();
            let command = fixture.backend.config_u16(4);
            let asleep = fixture.backend.config_u16(0x64) & 3 != 0;
            let bases = bases(&fixture);
            for (&guest, host) in fixture.space.mapped.lock().iter() {
                prop_assert!(command & 2 != 0 && !asleep, "mapped without being decoded");
                prop_assert!(guest.is_multiple_of(PAGE));
                let at = GuestPhysicalAddress(guest);
                let bus = windows.memory32.bus_address(at, host.bytes)
                    .or(windows.memory64.bus_address(at, host.bytes));
                prop_assert!(bus.is_some(), "{guest:#x} is outside the windows");
                let bar = [0x10_0000, 0x20_0000, 0x40_0000]
                    .iter().position(|&start| start == host.start.0).unwrap();
                prop_assert_eq!(bus.unwrap(), bases[bar], "not where BAR {} is", bar);
            }
        }
        // And nothing outlives the function.
        fixture.backend.fault.fail_call(0);
        fixture.space.fault.fail_call(0);
        let Fixture { bridge, space, lines, .. } = fixture;
        drop(bridge);
        prop_assert!(space.mapped.lock().is_empty());
        prop_assert!(lines.sources().is_empty());
    }
}

#[test]
fn bars_are_mapped_in_the_windows_of_their_own_bridge() {
    for number in [1, 5, MAX_HOST_BRIDGES - 1] {
        let fixture = Fixture::behind(number, |function| function);
        fixture.write(4, 2, 6);
        let index = u64::from(number);
        let memory32 = 0x2000_8000_0000 + (index << 31);
        let memory64 = 0x2100_0000_0000 + (index << 40);
        let mapped = [memory32, memory32 + PAGE, memory64];
        assert_eq!(fixture.mapped(), mapped, "bridge {number}");
    }
}
