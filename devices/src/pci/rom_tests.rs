//! The expansion ROM, which a guest reaches by exits, where it has put it.

use proptest::prelude::*;
use spapr_hypercalls::world::HostRange;

use super::super::address::ConfigAddress;
use super::super::fake::Fixture;
use super::*;

const ROM_BYTES: u64 = 0x1000;
/// Where the guest finds it: in the 32-bit window, behind a BAR of 16 KiB and one of 4 KiB, with a page of the largest
/// host each.
const ROM_BUS: u32 = 0x8002_0000;
const WINDOW: u64 = 0x2000_8000_0000;
/// What the fake has in its ROM, and in its BARs.
const IN_ROM: u8 = 0x55;
const IN_BAR: u8 = 0x5a;
const NOBODY: u8 = 0xff;

fn with_rom() -> Fixture {
    Fixture::with(|function| function.with_rom(ROM_BYTES))
}

impl Fixture {
    fn config(&self, offset: u32, size: u32, value: u32) {
        let address = ConfigAddress(offset);
        let written = self.bridge.write_config(address, size, value);
        written.expect("there is one").expect("it is written");
    }

    fn register(&self, offset: u32) -> u32 {
        let read = self.bridge.read_config(ConfigAddress(offset), 4);
        read.expect("there is one").expect("it is read")
    }

    fn byte_at(&self, address: u64) -> u8 {
        let mut data = [0];
        self.bridge
            .mmio_read(GuestPhysicalAddress(address), &mut data);
        data[0]
    }
}

#[test]
fn a_rom_is_read_where_the_guest_has_it_decoded_and_never_written() {
    let fixture = with_rom();
    assert_eq!(fixture.register(0x30), ROM_BUS, "placed and not decoded");
    fixture.config(0x30, 4, u32::MAX);
    assert_eq!(fixture.register(0x30), 0xffff_f001, "its size");
    fixture.config(0x30, 4, ROM_BUS | 1);
    let first = WINDOW + 0x2_0000;
    assert_eq!(fixture.byte_at(first), NOBODY, "memory is not decoded");
    fixture.config(4, 2, 2);
    let last = first + ROM_BYTES - 1;
    let around = [first - 1, first, last, last + 1].map(|at| fixture.byte_at(at));
    assert_eq!(around, [NOBODY, IN_ROM, IN_ROM, NOBODY]);
    let before = fixture.space.mapped.lock().len();
    assert_eq!(before, 3, "the ROM has no memory of its own");
    fixture.config(0x30, 4, 0x9000_0801);
    assert_eq!(fixture.register(0x30), 0x9000_0001);
    assert_eq!(fixture.byte_at(WINDOW + 0x1000_0000), IN_ROM);
    assert_eq!(fixture.byte_at(first), NOBODY);
    fixture.config(0x30, 1, 0);
    assert_eq!(fixture.byte_at(WINDOW + 0x1000_0000), NOBODY);
    // A reset puts it back.
    fixture.bridge.reset().unwrap();
    assert_eq!(fixture.register(0x30), ROM_BUS);
}

#[test]
fn a_rom_over_a_bar_has_that_served_by_exits_and_answers_behind_it() {
    let fixture = with_rom();
    fixture.config(4, 2, 2);
    fixture.config(0x30, 4, 0x8000_4001);
    assert_eq!(fixture.space.mapped.lock().len(), 2);
    assert_eq!(fixture.byte_at(WINDOW + 0x3fff), IN_BAR);
    assert_eq!(fixture.byte_at(WINDOW + 0x4000), IN_ROM);
    fixture.config(0x30, 4, 0x8000_0001);
    assert_eq!(fixture.byte_at(WINDOW), IN_BAR, "the BAR comes first");
    fixture.config(0x30, 4, 0);
    assert_eq!(fixture.space.mapped.lock().len(), 3);
}

fn write() -> impl Strategy<Value = (u32, u32, u32)> {
    let value = prop_oneof![
        any::<u32>(),
        (0u32..0x40).prop_map(|page| 0x8000_0001 + page * 0x800),
        prop::sample::select(vec![0, 1, 2, 3, 6, u32::MAX]),
    ];
    prop_oneof![
        (
            Just(0x30),
            prop::sample::select(vec![1u32, 2, 4]),
            value.clone()
        ),
        (0x30u32..0x34, Just(1u32), value.clone()),
        (
            prop::sample::select(vec![4u32, 0x10, 0x18, 0x24]),
            Just(4u32),
            value
        ),
        // To sleep, and awake.
        (Just(0x64), Just(2u32), 0u32..4),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_writes_its_rom_answers_where_its_register_says_and_nowhere_else(
        writes in prop::collection::vec(write(), 1..40),
        places in prop::collection::vec(0u64..0x4_0000, 1..20),
    ) {
        let fixture = with_rom();
        for (offset, size, value) in writes {
            let address = ConfigAddress(offset);
            let _refused_or_not = fixture.bridge.write_config(address, size, value);
            let register = fixture.register(0x30);
            prop_assert_eq!(register & 0xffe, 0, "bits that no ROM of 4 KiB has");
            let is_awake = fixture.backend.config_u16(0x64) & 3 == 0;
            let is_on = fixture.backend.config_u16(4) & 2 != 0 && register & 1 != 0 && is_awake;
            let start = (WINDOW & !0xffff_ffff) + u64::from(register & !1);
            for place in places.iter().map(|place| WINDOW + place) {
                let is_there = is_on && (start..start + ROM_BYTES).contains(&place);
                match fixture.byte_at(place) {
                    IN_ROM => prop_assert!(is_there, "a ROM at {place:#x}"),
                    // A BAR that is in the same place comes first.
                    IN_BAR => {}
                    other => prop_assert!(!is_there && other == NOBODY, "no ROM at {place:#x}"),
                }
                fixture.bridge.mmio_write(GuestPhysicalAddress(place), &[1, 2, 3, 4]);
            }
            let mapped = fixture.space.mapped.lock();
            let of_rom = |(&at, host): (&u64, &HostRange)| is_on && at < start + ROM_BYTES && start < at + host.bytes;
            prop_assert!(!mapped.iter().any(of_rom), "memory in place of a ROM");
        }
    }
}
