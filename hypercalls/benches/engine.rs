//! What the engine itself takes for a hypercall: on a host that does everything at once and nothing,
//! with 1 and with 256 LIOBNs.
//!
//! `cargo bench -p spapr-hypercalls`, on any machine. What the kernel takes comes on top: `cargo lab
//! bench` measures both.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use spapr_hypercalls::abi::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, ReturnCode};
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress, Ioba, Liobn, PageShift};
use spapr_hypercalls::engine::{Answer, Engine, HostBridge};
use spapr_hypercalls::policy::{Policy, TcePolicy};
use spapr_hypercalls::testing::AgreeingHost;
use spapr_hypercalls::world::{Geometry, GuestMemory, GuestRange, HostRange, NotGuestRam};

/// Guest RAM of 1 GiB from address 0 on, of which the lists alone are there.
struct Memory(Vec<u64>);

const RAM_BYTES: u64 = 1 << 30;

impl GuestMemory for Memory {
    fn read_doublewords(
        &self,
        address: GuestPhysicalAddress,
        list: &mut [u64],
    ) -> Result<(), NotGuestRam> {
        let start = address.0.checked_sub(CONTIGUOUS).ok_or(NotGuestRam)? / 8;
        let start = usize::try_from(start).map_err(|_| NotGuestRam)?;
        let stored = self.0.get(start..start + list.len()).ok_or(NotGuestRam)?;
        list.copy_from_slice(stored);
        Ok(())
    }

    fn populate(&self, _: HostRange) -> bool {
        false
    }

    fn host_range(&self, address: GuestPhysicalAddress) -> Option<HostRange> {
        Some(HostRange {
            start: HostVirtualAddress(0x7000_0000_0000 + address.0),
            bytes: RAM_BYTES
                .checked_sub(address.0)
                .filter(|&bytes| bytes > 0)?,
        })
    }
}

/// LIOBNs that there are: each of a host bridge of its own.
const LIOBNS: [u16; 2] = [1, 256];
const LONGEST: u64 = 512;
/// Lists of 512 entries, each in a page.
const CONTIGUOUS: u64 = 0x10000;
const SCATTERED: u64 = CONTIGUOUS + 4096;
/// Scattered, and its last entry is no RAM: the whole list is looked at, and nothing done.
const WRONG: u64 = SCATTERED + 4096;

const WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: 4096,
};

fn engine(liobns: u16) -> Engine<Memory, AgreeingHost> {
    let ram = [GuestRange {
        start: GuestPhysicalAddress(0),
        bytes: RAM_BYTES,
    }];
    let contiguous = (0..LONGEST).map(|page| page << 12 | 3);
    let scattered = (0..LONGEST).map(|page| (page * 5 % LONGEST) << 16 | 3);
    let wrong = scattered.clone().take(511).chain([1 << 40 | 3]);
    let memory = Memory(contiguous.chain(scattered).chain(wrong).collect());
    let bridges = (0..liobns).filter_map(|number| {
        Some(HostBridge {
            number: u8::try_from(number).ok()?,
            host: AgreeingHost,
            default_window: WINDOW,
        })
    });
    let policy = Policy {
        tce: TcePolicy::User,
        ..Policy::default()
    };
    let engine = Engine::new(memory, &ram, policy, bridges.collect());
    let engine = engine.expect("an engine");
    for number in 0..liobns {
        // The first mapping makes the window.
        call(&engine, H_PUT_TCE, [liobn(number), 0, 0x5003, 0]);
    }
    engine
}

fn liobn(number: u16) -> u64 {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    Liobn::of_pci_window(number, 0).0.into()
}

#[inline]
fn call(engine: &Engine<Memory, AgreeingHost>, number: u64, arguments: [u64; 4]) -> ReturnCode {
    let mut registers = [0; 9];
    registers[..4].copy_from_slice(&arguments);
    loop {
        match engine.handle(black_box(number), black_box(&mut registers)) {
            Some(Answer::Code(code)) => return code,
            // Memory was locked for it.
            Some(Answer::MakeAgain) => {}
            None => panic!("{number:#x} is not answered"),
        }
    }
}

/// A hypercall that is measured: its name, its number, its arguments after the LIOBN, and what it is
/// answered.
type Case = (&'static str, u64, [u64; 3], ReturnCode);

const SINGLES: [Case; 4] = [
    (
        "lookup: H_GET_TCE",
        H_GET_TCE,
        [0, 0, 0],
        ReturnCode::SUCCESS,
    ),
    (
        "lookup and refusal: H_PUT_TCE, unaligned",
        H_PUT_TCE,
        [1, 3, 0],
        ReturnCode::PARAMETER,
    ),
    (
        "H_PUT_TCE, map",
        H_PUT_TCE,
        [0, 0x5003, 0],
        ReturnCode::SUCCESS,
    ),
    (
        "H_STUFF_TCE, 1 clear entry",
        H_STUFF_TCE,
        [0x1000, 0, 1],
        ReturnCode::SUCCESS,
    ),
];

const LISTS: [Case; 4] = [
    (
        "validate 512, refuse",
        H_PUT_TCE_INDIRECT,
        [0, WRONG, LONGEST],
        ReturnCode::PARAMETER,
    ),
    (
        "coalesce 512 into 1",
        H_PUT_TCE_INDIRECT,
        [0, CONTIGUOUS, LONGEST],
        ReturnCode::SUCCESS,
    ),
    (
        "coalesce 512 into 512",
        H_PUT_TCE_INDIRECT,
        [0, SCATTERED, LONGEST],
        ReturnCode::SUCCESS,
    ),
    (
        "H_STUFF_TCE, 512 clear",
        H_STUFF_TCE,
        [0x20_0000, 0, LONGEST],
        ReturnCode::SUCCESS,
    ),
];

fn hypercalls(criterion: &mut Criterion) {
    for (title, cases, entries) in [("single", SINGLES, 1), ("bulk", LISTS, LONGEST)] {
        let mut group = criterion.benchmark_group(title);
        group.throughput(Throughput::Elements(entries));
        for liobns in LIOBNS {
            let engine = engine(liobns);
            for (name, number, [ioba, second, third], expected) in cases {
                let id = BenchmarkId::new(name, format!("{liobns} LIOBNs"));
                group.bench_function(id, |bencher| {
                    let mut next = 0;
                    bencher.iter(|| {
                        // One after the other, so that each is looked up.
                        next = (next + 1) % liobns;
                        let code = call(&engine, number, [liobn(next), ioba, second, third]);
                        assert_eq!(code, expected);
                    });
                });
            }
        }
        group.finish();
    }
}

/// H_STUFF_TCE of entries that are mapped, which a call before it has to map again: both together.
fn map_and_stuff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map and stuff");
    group.throughput(Throughput::Elements(LONGEST));
    for liobns in LIOBNS {
        let engine = engine(liobns);
        let id = BenchmarkId::new("512 contiguous entries", format!("{liobns} LIOBNs"));
        group.bench_function(id, |bencher| {
            let mut next = 0;
            bencher.iter(|| {
                next = (next + 1) % liobns;
                let window = liobn(next);
                let mapped = call(
                    &engine,
                    H_PUT_TCE_INDIRECT,
                    [window, 0, CONTIGUOUS, LONGEST],
                );
                let stuffed = call(&engine, H_STUFF_TCE, [window, 0, 0, LONGEST]);
                assert_eq!([mapped, stuffed], [ReturnCode::SUCCESS; 2]);
            });
        });
    }
    group.finish();
}

/// Several threads that map at once, as processors of a guest do: each in a window of its own, or all in
/// one, whose lock they share. Time for one call of each.
fn processors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("processors");
    let engine = &engine(256);
    for (title, is_shared) in [("a window each", false), ("one window", true)] {
        for threads in [1, 2, 4] {
            let id = BenchmarkId::new(format!("H_PUT_TCE, {title}"), threads);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|calls| {
                    let start = Barrier::new(usize::from(threads) + 1);
                    let start = &start;
                    thread::scope(|scope| {
                        for thread in 0..threads {
                            let window = liobn(if is_shared { 0 } else { thread });
                            let ioba = u64::from(thread) << 12;
                            scope.spawn(move || {
                                start.wait();
                                for _ in 0..calls {
                                    call(engine, H_PUT_TCE, [window, ioba, 0x5003, 0]);
                                }
                            });
                        }
                        start.wait();
                        Instant::now()
                    })
                    .elapsed()
                });
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    hypercalls(&mut criterion);
    map_and_stuff(&mut criterion);
    processors(&mut criterion);
    criterion.final_summary();
}
