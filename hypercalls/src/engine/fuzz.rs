//! TCE calls, windows that come and go, and refusals of the host, as a fuzzer's bytes have them, on the engine
//! beside its model.

use arbitrary::{Result, Unstructured};

use super::model::{MIB, STORAGE, Step, run_all, windows};
use crate::locking::RegionSize;
use crate::policy::{LockPolicy, Policy, TcePolicy};
use crate::testing::Fault;
use crate::world::HostError;

/// Steps of one run at the most: what more would show, fewer do.
const MOST_STEPS: usize = 64;

/// Makes the calls that `bytes` are read as.
///
/// # Panics
/// When a call's code, a window's view or what is mapped is not what the model says.
pub fn tce_calls(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    // What the bytes are too short for is left out.
    if let Ok(policy) = policy(&mut input) {
        let mut steps = Vec::new();
        while !input.is_empty()
            && steps.len() < MOST_STEPS
            && let Ok(step) = step(&mut input)
        {
            steps.push(step);
        }
        run_all(policy, &steps);
    }
}

fn policy(input: &mut Unstructured<'_>) -> Result<Policy> {
    Ok(Policy {
        tce: *input.choose(&[TcePolicy::Auto, TcePolicy::Kernel, TcePolicy::User])?,
        lock: *input.choose(&[LockPolicy::FirstMap, LockPolicy::Attach])?,
        region: RegionSize::new(MIB),
        block: *input.choose(&[None, RegionSize::new(MIB / 4)])?,
    })
}

fn step(input: &mut Unstructured<'_>) -> Result<Step> {
    let which = input.choose_index(windows().len())?;
    Ok(match input.int_in_range(0..=15u8)? {
        0..=2 => put(input, which)?,
        3 => {
            let (liobn, ioba) = place(input, which)?;
            Step::Get { liobn, ioba }
        }
        4..=6 => indirect(input, which)?,
        7 | 8 => {
            let (liobn, ioba) = place(input, which)?;
            Step::Stuff {
                liobn,
                ioba,
                value: odd_or(input, |_| Ok(0))?,
                count: odd_or(input, |input| input.int_in_range(0..=700))?,
            }
        }
        9 if input.arbitrary()? => Step::MakeWindow { which },
        9 => Step::AddWindow { which },
        10 => Step::Activate { which },
        11 => Step::RemoveWindow { which },
        12 => input.choose(&[Step::Reset, Step::Prepare])?.clone(),
        13 => input.choose(&[Step::TakeBack, Step::Populate])?.clone(),
        14 => Step::RefuseHandOver(input.arbitrary()?),
        _ => Step::Fail(Fault {
            after: input.int_in_range(0..=6)?,
            error: *input.choose(&[HostError::OutOfResources(12), HostError::Refused(22)])?,
            leaves_traces: input.arbitrary()?,
        }),
    })
}

fn put(input: &mut Unstructured<'_>, which: usize) -> Result<Step> {
    let (liobn, ioba) = place(input, which)?;
    let tce = entry(input, which)?;
    Ok(Step::Put { liobn, ioba, tce })
}

fn indirect(input: &mut Unstructured<'_>, which: usize) -> Result<Step> {
    let (liobn, ioba) = place(input, which)?;
    let mut list = Vec::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let first = entry(input, which)?;
        let page = 1 << windows()[which].2.page_shift.get();
        let count: u64 = input.int_in_range(1..=24)?;
        // Pages that follow each other, as drivers map them, or the same again.
        let stride: u64 = *input.choose(&[page, page, 0])?;
        list.extend((0..count).map(|number| first.wrapping_add(number * stride)));
    }
    Ok(Step::Indirect {
        liobn,
        ioba,
        list,
        at: odd_or(input, |_| Ok(STORAGE))?,
        count: match input.ratio(1, 16)? {
            true => Some(input.int_in_range(0..=600)?),
            false => None,
        },
    })
}

/// A LIOBN and a bus address that mostly name an entry of window `which`.
fn place(input: &mut Unstructured<'_>, which: usize) -> Result<(u64, u64)> {
    let (_, liobn, geometry) = windows()[which];
    let page = input.int_in_range(0..=geometry.entries + 2)?;
    let ioba = geometry.bus_offset.0 + (page << geometry.page_shift.get());
    Ok((odd_or(input, |_| Ok(liobn))?, odd_or(input, |_| Ok(ioba))?))
}

/// An entry: mostly a page of RAM, at its ends too, with some permission.
fn entry(input: &mut Unstructured<'_>, which: usize) -> Result<u64> {
    let shift = windows()[which].2.page_shift.get();
    odd_or(input, |input| {
        let address = input.int_in_range(0..=0x72u64)? << 16;
        let page = input.int_in_range(0..=15u64)? << 12;
        let permission: u64 = input.int_in_range(0..=3)?;
        Ok((address + page) >> shift << shift | permission)
    })
}

/// What `usual` gives, or, now and then, any number.
fn odd_or(
    input: &mut Unstructured<'_>,
    usual: impl FnOnce(&mut Unstructured<'_>) -> Result<u64>,
) -> Result<u64> {
    if input.ratio(1, 16)? {
        input.arbitrary()
    } else {
        usual(input)
    }
}
