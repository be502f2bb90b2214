//! XIVE hypercalls as a fuzzer's bytes have them.

use arbitrary::{Result, Unstructured};
use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_hypercalls::world::GuestRange;

use super::fake::{FakeDevice, assert_told_as_done, fail_call};
use super::*;

const SERVERS: u32 = 4;
const RAM_BYTES: u64 = 1 << 30;
const EDGE: Lisn = Lisn(0x1100);
const LEVEL: Lisn = Lisn(0x1200);

/// Calls of one run at the most.
const MOST_CALLS: usize = 64;

/// Makes the calls that `bytes` are read as.
///
/// # Panics
/// When the device is asked for what there is not, a call that fails has results, or the guest is told otherwise
/// than the device does.
pub fn calls(bytes: &[u8]) {
    let ram = GuestRange {
        start: GuestPhysicalAddress(0),
        bytes: RAM_BYTES,
    };
    let xive = Xive::new(FakeDevice::new(SERVERS, RAM_BYTES), SERVERS, vec![ram]);
    let processors = LisnBlock::new(Lisn::IPI, SERVERS).expect("there are so many");
    for (block, trigger) in [
        (processors, Trigger::Edge),
        (LisnBlock::of_one(EDGE), Trigger::Edge),
        (LisnBlock::of_one(LEVEL), Trigger::Level),
    ] {
        xive.make_sources(block, trigger).expect("nothing fails");
    }
    let mut input = Unstructured::new(bytes);
    for _ in 0..MOST_CALLS {
        if input.is_empty() || call(&mut input, &xive).is_err() {
            break;
        }
    }
    fail_call(0);
}

fn call(input: &mut Unstructured<'_>, xive: &Xive<FakeDevice>) -> Result<()> {
    let number = abi::H_INT_GET_SOURCE_INFO + 4 * input.int_in_range(0..=10u64)?;
    let mut arguments = [0; 9];
    for argument in &mut arguments[..6] {
        *argument = one(input)?;
    }
    fail_call(match input.ratio(1, 8)? {
        true => input.int_in_range(0..=5)?,
        false => 0,
    });
    let mut args = arguments;
    let code = xive.serve(number, &mut args);
    fail_call(0);
    let code = code.expect("one of XIVE's");
    assert!((-512..=0).contains(&code.0), "{code:?}");
    if code != ReturnCode::SUCCESS {
        assert_eq!(args, arguments, "a call that fails has no results");
    }
    assert_told_as_done(xive);
    Ok(())
}

fn one(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7u8)? {
        0 | 1 => input.int_in_range(0..=7)?,
        2 => *input.choose(&[16, 0xff, RAM_BYTES - 8, u64::from(Lisn::END.0)])?,
        3 | 4 => u64::from(*input.choose(&[EDGE.0, LEVEL.0])?),
        5 | 6 => input.int_in_range(0..=0x4001u64)? << 16,
        _ => input.arbitrary()?,
    })
}
