//! Several processors at once.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

const ROUNDS: u64 = 300;

/// Every live entry shows in the view, and the other way round.
fn assert_view_is_hardware(engine: &TestEngine) {
    let hardware = engine.fake().hardware(Ioba(0)).unwrap();
    for (index, live) in (0u64..).zip(hardware) {
        let tce = Tce(engine.get(index * 4096));
        let host = engine
            .memory
            .host_range(tce.address())
            .map(|range| range.start);
        let shown = host.filter(|_| !tce.permission().is_none());
        assert_eq!(live.map(|mapping| mapping.host), shown, "entry {index}");
    }
    engine.assert_no_violation();
}

/// Says that it is done when it goes.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_list_that_is_rewritten_while_it_is_read_never_parts_view_and_hardware() {
    let engine = lazy();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Valid, scattered, unmapping, outside of RAM: whatever the reader catches of each.
            let lists = [
                contiguous(MIB, 512),
                (0..512).map(|page| ((page * 7 % 1024) << 12) | 1).collect(),
                vec![0; 512],
                vec![0x40_0003; 512],
            ];
            for list in lists.iter().cycle() {
                engine.memory.write_list(GuestPhysicalAddress(LIST), list);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        // A failure below must not leave the writer at work for ever.
        let _done = Done(&done);
        for round in 0..ROUNDS {
            let at = round % 512 * 4096;
            let code = engine.call(abi::H_PUT_TCE_INDIRECT, &[LIOBN, at, LIST, 512]);
            assert!(code == SUCCESS || code == PARAMETER);
        }
    });
    assert_eq!(engine.put(0, 0x1003), SUCCESS);
    assert_view_is_hardware(&engine);
}

#[test]
fn processors_that_map_and_unmap_the_same_entries_never_part_view_and_hardware() {
    let engine = engine(ContainerVersion::V2, TcePolicy::User, LockPolicy::FirstMap);
    thread::scope(|scope| {
        for processor in 0..4u64 {
            let engine = &engine;
            scope.spawn(move || {
                let list = LIST + processor * 4096;
                let tces = contiguous(processor * MIB, 64);
                engine.memory.write_list(GuestPhysicalAddress(list), &tces);
                for round in 0..ROUNDS {
                    let ioba = (round * (processor + 1) % 512) << 12;
                    let code = match round % 3 {
                        0 => engine.call(abi::H_PUT_TCE_INDIRECT, &[LIOBN, ioba, list, 64]),
                        1 => engine.stuff(ioba, 32),
                        _ => engine.put(ioba, tces[0]),
                    };
                    assert_eq!(code, SUCCESS);
                }
            });
        }
    });
    assert_view_is_hardware(&engine);
    assert_eq!(engine.snapshot().locked.registrations, 4);
}
