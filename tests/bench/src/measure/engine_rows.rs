//! What the engine itself takes for a call, with more and more LIOBNs: on a host that agrees to
//! everything, in this process, without a guest.

use std::time::Instant;

use spapr_hypercalls::abi::{H_GET_TCE, H_PUT_TCE};
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Answer, Engine, HostBridge};
use spapr_hypercalls::policy::{Policy, TcePolicy};
use spapr_hypercalls::testing::AgreeingHost;
use spapr_hypercalls::world::{Geometry, GuestMemory, GuestRange, HostRange, NotGuestRam};
use spapr_lab::benchmark::row::{Row, Unit};

use super::AnyError;

/// LIOBNs, each of a host bridge of its own.
const LIOBNS: [u16; 5] = [1, 4, 16, 64, 256];
const RAM_BYTES: u64 = 1 << 30;
/// Rounds over all of 256 windows; what is looked up is another one each time.
const SAMPLES: usize = 100;
const CALLS: u16 = 256;

/// Guest RAM of which nothing is read.
struct Memory;

impl GuestMemory for Memory {
    fn read_doublewords(&self, _: GuestPhysicalAddress, _: &mut [u64]) -> Result<(), NotGuestRam> {
        Err(NotGuestRam)
    }

    fn populate(&self, _: HostRange) -> bool {
        false
    }

    fn host_range(&self, address: GuestPhysicalAddress) -> Option<HostRange> {
        Some(HostRange {
            start: HostVirtualAddress(1 << 46 | address.0),
            bytes: RAM_BYTES
                .checked_sub(address.0)
                .filter(|&bytes| bytes > 0)?,
        })
    }
}

/// All rows.
///
/// # Errors
/// When an engine cannot be made, which is a defect.
pub(super) fn measure() -> Result<Vec<Row>, AnyError> {
    let mut rows = Vec::new();
    for liobns in LIOBNS {
        let engine = engine(liobns)?;
        for (name, number) in [
            ("engine-get-liobns", H_GET_TCE),
            ("engine-put-liobns", H_PUT_TCE),
        ] {
            let samples = (0..SAMPLES)
                .map(|_| sample(&engine, number, liobns))
                .collect::<Result<Vec<u64>, _>>()?;
            rows.extend(Row::of_samples(
                name,
                liobns.into(),
                Unit::Nanoseconds,
                &samples,
            ));
        }
    }
    Ok(rows)
}

fn engine(liobns: u16) -> Result<Engine<Memory, AgreeingHost>, AnyError> {
    let ram = [GuestRange {
        start: GuestPhysicalAddress(0),
        bytes: RAM_BYTES,
    }];
    let bridges = (0..liobns).filter_map(|number| {
        Some(HostBridge {
            number: u8::try_from(number).ok()?,
            host: AgreeingHost,
            default_window: Geometry {
                bus_offset: Ioba(0),
                page_shift: PageShift::SIZE_4K,
                entries: 4096,
            },
        })
    });
    let policy = Policy {
        tce: TcePolicy::User,
        ..Policy::default()
    };
    let engine = Engine::new(Memory, &ram, policy, bridges.collect())?;
    // The first mapping makes a window.
    for number in 0..liobns {
        call(&engine, H_PUT_TCE, number)?;
    }
    Ok(engine)
}

/// The time of one call, in nanoseconds: of many, each for another LIOBN than the one before.
fn sample(
    engine: &Engine<Memory, AgreeingHost>,
    number: u64,
    liobns: u16,
) -> Result<u64, AnyError> {
    let before = Instant::now();
    for count in 0..CALLS {
        call(engine, number, count % liobns)?;
    }
    Ok(u64::try_from(before.elapsed().as_nanos())? / u64::from(CALLS))
}

fn call(engine: &Engine<Memory, AgreeingHost>, number: u64, bridge: u16) -> Result<(), AnyError> {
    let liobn = Liobn::of_pci_window(u8::try_from(bridge)?, 0);
    let mut registers = [liobn.0.into(), 0, 0x5003, 0, 0, 0, 0, 0, 0];
    loop {
        match engine.handle(number, &mut registers) {
            Some(Answer::Code(code)) if code.to_register() == 0 => return Ok(()),
            // Memory was locked for it.
            Some(Answer::MakeAgain) => {}
            answer => return Err(format!("{number:#x} is answered {answer:?}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_liobns_has_its_rows() {
        let rows = measure().unwrap();
        assert_eq!(rows.len(), 2 * LIOBNS.len());
        assert!(rows.iter().all(|row| row.median() > 0));
    }
}
