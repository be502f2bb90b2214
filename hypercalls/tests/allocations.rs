//! The hypercalls allocate nothing once what they use exists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use spapr_hypercalls::abi::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE, ReturnCode};
use spapr_hypercalls::address::{GuestPhysicalAddress, Ioba, PageShift};
use spapr_hypercalls::engine::{Engine, HostBridge};
use spapr_hypercalls::policy::{Policy, TcePolicy};
use spapr_hypercalls::testing::{ContainerVersion, FakeHost, FakeMemory};
use spapr_hypercalls::world::{Geometry, GuestRange};

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

const LIST: u64 = 0x10000;

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
        let calls = [
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
        let round = || {
            for (number, arguments, expected) in calls {
                let mut registers = [0; 9];
                registers[..4].copy_from_slice(&arguments);
                assert_eq!(engine.handle(number, &mut registers), Some(expected));
            }
        };
        round();
        let before = ALLOCATIONS.get();
        assert!(before > 0, "the allocator counts nothing");
        for _ in 0..10 {
            round();
        }
        assert_eq!(ALLOCATIONS.get(), before, "with {tce:?}");
    }
}
