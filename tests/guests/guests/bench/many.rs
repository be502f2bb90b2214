//! Rows of several processors that make calls at once: each in a DMA window of its own, as far as
//! there are so many, and all in one window.

use core::hint;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spapr_test_guests::clock::Clock;
use spapr_test_guests::machine::Machine;
use spapr_test_guests::processors;
use spapr_test_guests::rtas;

use crate::calls::{LONGEST, Lists, PAGE_BYTES, Window, page, unknown};
use crate::dynamic_windows::DynamicWindows;
use crate::meter::{Row, Samples};

const MOST_PROCESSORS: usize = 4;
/// A processor's samples, of so many calls each; those of all fit into one row.
const SAMPLES: usize = 96;
const CALLS_PER_SAMPLE: u64 = 8;
/// Of the dynamic windows that are made: 256 MiB.
const WINDOW_SHIFT: u32 = 28;
/// Entries of the lists: few enough that the way to the host's tables is what costs.
const LIST_ENTRIES: u64 = 16;

static TICKS: [[AtomicU64; SAMPLES]; MOST_PROCESSORS] =
    [const { [const { AtomicU64::new(0) }; SAMPLES] }; MOST_PROCESSORS];
static FAILED: AtomicU32 = AtomicU32::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
static LIOBNS: [AtomicU64; MOST_PROCESSORS] = [const { AtomicU64::new(0) }; MOST_PROCESSORS];
static STARTS: [AtomicU64; MOST_PROCESSORS] = [const { AtomicU64::new(0) }; MOST_PROCESSORS];

/// All rows, for 1 to 4 processors.
pub(crate) fn measure(machine: &Machine<'static>) {
    Lists::fill();
    let windows = windows(machine);
    let own = windows.iter().flatten().count();
    for n in 1..=MOST_PROCESSORS {
        // One by one: a processor without work takes time from the others where the host has few.
        if processors::start(n) < n {
            break;
        }
        row(n, "exit-processors", "", exits, &[None; MOST_PROCESSORS]);
        if n <= own {
            row(n, "put-remap-processors-", "apart", puts, &windows);
            row(n, "indirect-16-processors-", "apart", put_lists, &windows);
        }
        let same = [windows[0]; MOST_PROCESSORS];
        row(n, "put-remap-processors-", "together", puts, &same);
        row(n, "indirect-16-processors-", "together", put_lists, &same);
    }
    for window in windows.iter().flatten() {
        window.stuff(LONGEST);
    }
    processors::stop();
}

/// The default windows of the bridges, and a dynamic one behind each.
fn windows(machine: &Machine<'static>) -> [Option<Window>; MOST_PROCESSORS] {
    let defaults = machine
        .host_bridges()
        .map(|bridge| Window::of(&bridge.window));
    let dynamic = machine.host_bridges().filter_map(|bridge| {
        DynamicWindows::of(machine, &bridge)?
            .create(WINDOW_SHIFT)
            .ok()
    });
    let mut windows = [None; MOST_PROCESSORS];
    for (place, window) in windows.iter_mut().zip(defaults.chain(dynamic)) {
        *place = Some(window);
    }
    windows
}

fn row(
    n: usize,
    name: &'static str,
    detail: &'static str,
    work: processors::Work,
    windows: &[Option<Window>; MOST_PROCESSORS],
) {
    for (index, window) in windows.iter().flatten().enumerate() {
        LIOBNS[index].store(window.liobn, Ordering::Relaxed);
        STARTS[index].store(window.start, Ordering::Relaxed);
    }
    // Once unmeasured: to make windows and lock memory.
    for _ in 0..2 {
        FAILED.store(0, Ordering::Relaxed);
        ARRIVED.store(0, Ordering::Relaxed);
        EXPECTED.store(n, Ordering::Relaxed);
        processors::run_on(n, work);
    }
    let mut samples = Samples::new();
    let failed = FAILED.load(Ordering::Relaxed);
    for (index, ticks) in TICKS.iter().take(n).flatten().enumerate() {
        let code = i64::from(u32::try_from(index).is_ok_and(|index| index < failed));
        samples.add(ticks.load(Ordering::Relaxed), code, 0);
    }
    if let Some(window) = windows.iter().flatten().next() {
        samples.read_back(*window, LIST_ENTRIES);
    }
    samples.report(Row {
        name,
        detail,
        n: n as u64,
    });
}

fn exits(processor: usize) {
    times(processor, |_| unknown() + 2);
}

fn puts(processor: usize) {
    let window = window(processor);
    let offset = processor as u64 * PAGE_BYTES;
    times(processor, |number| window.put_at(offset, page(number & 1)));
}

fn put_lists(processor: usize) {
    let window = window(processor);
    times(processor, |_| {
        window.put_list(Lists::CONTIGUOUS, LIST_ENTRIES)
    });
}

fn window(processor: usize) -> Window {
    Window {
        liobn: LIOBNS[processor].load(Ordering::Relaxed),
        start: STARTS[processor].load(Ordering::Relaxed),
    }
}

/// Waits for the others and times calls, which return 0 when they went well.
fn times(processor: usize, mut call: impl FnMut(u64) -> i64) {
    // Differences of readings alone count here, whatever a second is.
    let clock = Clock::new(1);
    let Some(ticks) = TICKS.get(processor) else {
        rtas::stop_with("there are more processors than were started");
    };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    while ARRIVED.load(Ordering::Acquire) < EXPECTED.load(Ordering::Relaxed) {
        hint::spin_loop();
    }
    for (number, place) in (0..).zip(ticks) {
        let mut failed = false;
        let before = clock.now();
        for _ in 0..CALLS_PER_SAMPLE {
            failed |= call(number) != 0;
        }
        let after = clock.now();
        place.store((after - before) / CALLS_PER_SAMPLE, Ordering::Relaxed);
        FAILED.fetch_add(u32::from(failed), Ordering::Relaxed);
    }
}
