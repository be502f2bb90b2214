//! The hypercalls allocate nothing once what they use exists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spapr_hypercalls::abi::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, ReturnCode};
use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba, PageShift};
use spapr_hypercalls::engine::{Answer, Engine, HostBridge};
use spapr_hypercalls::policy::{Policy, TcePolicy};
use spapr_hypercalls::testing::{ContainerVersion, FakeHost, FakeMemory};
use spapr_hypercalls::world::{BulkCall, Geometry, GuestRange, HostError, KernelHandlers};

/// Counts what this thread asks of the system's allocator.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every request is passed on unchanged to the system's allocator, which keeps the contract;
// the counter beside it is a thread-local of a type without destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same for both.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` through `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes over whatever it is given; a second goes by whenever it is asked for the time.
struct Willing(AtomicU64);

impl KernelHandlers for Willing {
    fn set_in_kernel(&mut self, _call: BulkCall, _in_kernel: bool) -> Result<(), HostError> {
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn wake_after(&mut self, _delay: Option<Duration>) {}
}

const LIST: u64 = 0x10000;

/// A call, its arguments, and what it is answered when it is served here.
type Call = (u64, [u64; 4], ReturnCode);

const CALLS: [Call; 9] = [
    (
        H_PUT_TCE,
        [0x8000_0000, 0x1000, 0x5003, 0],
        ReturnCode::SUCCESS,
    ),
    (H_GET_TCE, [0x8000_0000, 0x1000, 0, 0], ReturnCode::SUCCESS),
    (
        H_PUT_TCE_INDIRECT,
        [0x8000_0000, 0x2000, LIST, 512],
        ReturnCode::SUCCESS,
    ),
    (
        H_PUT_TCE_INDIRECT,
        [0x8000_0000, 0x2000, LIST + 4096, 512],
        ReturnCode::SUCCESS,
    ),
    (
        H_PUT_TCE_INDIRECT,
        [0x8000_0000, 0x2000, LIST, 8],
        ReturnCode::SUCCESS,
    ),
    (H_STUFF_TCE, [0x8000_0000, 0, 0, 600], ReturnCode::SUCCESS),
    (H_PUT_TCE, [0x8000_0000, 0x1000, 0, 0], ReturnCode::SUCCESS),
    (
        H_PUT_TCE,
        [0x8000_0000, 0x1001, 0, 0],
        ReturnCode::PARAMETER,
    ),
    (
        H_PUT_TCE,
        [0x9000_0000, 0x1000, 0, 0],
        ReturnCode::PARAMETER,
    ),
];

#[test]
fn no_hypercall_allocates_once_its_window_and_regions_exist() {
    for tce in [TcePolicy::Auto, TcePolicy::User] {
        let ram = [GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: 1 << 30,
        }];
        let memory = FakeMemory::new(ram.to_vec(), GuestPhysicalAddress(LIST), 2);
        let scattered: Vec<u64> = (0..512).map(|page| (page * 5 % 512) << 16 | 3).collect();
        let contiguous: Vec<u64> = (0..512).map(|page| page << 12 | 3).collect();
        memory.write_list(GuestPhysicalAddress(LIST), &scattered);
        memory.write_list(GuestPhysicalAddress(LIST + 4096), &contiguous);
        let default_window = Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_4K,
            entries: 0x4_0000,
        };
        let host = FakeHost::new(ContainerVersion::V2);
        let bridge = HostBridge {
            number: 0,
            host,
            default_window,
        };
        let policy = Policy {
            tce,
            ..Policy::default()
        };
        let engine = Engine::new(memory, &ram, policy, vec![bridge]).unwrap();
        let engine = engine.with_kernel_handlers(Willing(AtomicU64::new(0)));
        engine.prepare().unwrap();
        let made_again = Cell::new(0);
        let round = || {
            for (number, arguments, expected) in CALLS {
                let mut registers = [0; 9];
                registers[..4].copy_from_slice(&arguments);
                match engine.handle(number, &mut registers) {
                    Some(Answer::Code(code)) => assert_eq!(code, expected),
                    Some(Answer::MakeAgain) => made_again.set(made_again.get() + 1),
                    None => panic!("{number:#x} is not served"),
                }
            }
            engine.take_back_calls();
        };
        round();
        made_again.set(0);
        let before = ALLOCATIONS.get();
        assert!(before > 0, "the allocator counts nothing");
        for _ in 0..10 {
            round();
        }
        assert_eq!(ALLOCATIONS.get(), before, "with {tce:?}");
        assert_eq!(made_again.get() > 0, tce == TcePolicy::Auto);
    }
}
