//! Random sequences of calls, sensible and not, against a plain model: the same codes, the same
//! tables, and hardware that maps exactly what the guest's view shows, whatever the host refuses.
//!
//! `PROPTEST_CASES` raises the number of sequences; a failing one is printed with its seed.

use proptest::prelude::*;

use super::*;
use crate::testing::Mapping;

/// Where the guest keeps its lists.
const STORAGE: u64 = 0x4_0000;

fn ram() -> Vec<GuestRange> {
    // A hole, two pieces that meet in guest addresses but not in the host's, and an end that is
    // whole for 4 KiB pages alone.
    vec![
        piece(0, 3 * MIB),
        piece(4 * MIB, 2 * MIB),
        piece(6 * MIB, MIB + 0x9000),
    ]
}

/// What the guest can name: bridge, LIOBN, geometry.
fn windows() -> [(u8, u64, Geometry); 6] {
    let small = |bus_offset, entries| Geometry {
        bus_offset: Ioba(bus_offset),
        page_shift: PageShift::SIZE_4K,
        entries,
    };
    let large = |bus_offset, entries| Geometry {
        bus_offset: Ioba(bus_offset),
        page_shift: PageShift::SIZE_64K,
        entries,
    };
    [
        (0, 0x8000_0000, small(0, 600)),
        (0, 0x8000_0001, large(1 << 59, 48)),
        (1, 0x8000_0100, large(0x20_0000, 40)),
        (1, 0x8000_0101, small(1 << 59, 64)),
        (4, 0x8000_0400, small(0x1000, 64)),
        (4, 0x8000_0401, small(1 << 59, 16)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        liobn: u64,
        ioba: u64,
        tce: u64,
    },
    Get {
        liobn: u64,
        ioba: u64,
    },
    Indirect {
        liobn: u64,
        ioba: u64,
        list: Vec<u64>,
        at: u64,
        count: Option<u64>,
    },
    Stuff {
        liobn: u64,
        ioba: u64,
        value: u64,
        count: u64,
    },
    AddWindow {
        which: usize,
    },
    Activate {
        which: usize,
    },
    RemoveWindow {
        which: usize,
    },
    Reset,
    Prepare,
    Fail(Fault),
}

/// A window, and a LIOBN and a bus address that mostly name an entry of it. Half of the entries are
/// among the first few, so that calls meet what calls before them left.
fn place() -> impl Strategy<Value = (usize, u64, u64)> {
    // Dynamic windows come and go: most calls name the default ones, which are there.
    let which = prop_oneof![3 => (0..3usize).prop_map(|bridge| bridge * 2), 1 => 0..6usize];
    let inside = (which, any::<bool>(), 0..600u64).prop_map(|(which, is_near, page)| {
        let (_, liobn, geometry) = windows()[which];
        let page = page % if is_near { 24 } else { geometry.entries };
        (
            which,
            liobn,
            geometry.bus_offset.0 + (page << geometry.page_shift.get()),
        )
    });
    let ends = (0..6usize, 0..4u64).prop_map(|(which, page)| {
        let (_, liobn, geometry) = windows()[which];
        let page = geometry.entries + page - 2;
        (
            which,
            liobn,
            geometry.bus_offset.0 + (page << geometry.page_shift.get()),
        )
    });
    let odd_liobn = prop_oneof![
        Just(0),
        Just(0x8000_0200),
        Just(0x8000_0002),
        Just(1 << 32 | 0x8000_0000)
    ];
    prop_oneof![
        60 => inside.clone(),
        4 => ends,
        1 => (inside.clone(), odd_liobn).prop_map(|((which, _, ioba), liobn)| (which, liobn, ioba)),
        1 => (inside.clone(), any::<u64>()).prop_map(|((which, l, _), ioba)| (which, l, ioba)),
        1 => (inside, 1..0x1000u64).prop_map(|((which, l, ioba), off)| (which, l, ioba + off)),
    ]
}

/// Entries whose meaning depends on the window's page size.
#[derive(Clone, Debug)]
enum Segment {
    /// Pages that follow each other.
    Pages {
        first: u64,
        permission: u64,
        count: u64,
    },
    /// Around the ends of a piece of RAM, or off page boundaries.
    Edge { address: u64, permission: u64 },
    /// As they are.
    Raw(Vec<u64>),
}

impl Segment {
    fn entries(&self, which: usize) -> Vec<u64> {
        let shift = windows()[which].2.page_shift.get();
        match *self {
            Self::Pages {
                first,
                permission,
                count,
            } => {
                let first = (first << 12 >> shift) << shift;
                (0..count)
                    .map(|page| (first + (page << shift)) | permission)
                    .collect()
            }
            Self::Edge {
                address,
                permission,
            } => vec![address & !3 | permission],
            Self::Raw(ref entries) => entries.clone(),
        }
    }
}

fn segment() -> impl Strategy<Value = Segment> {
    let edge = prop_oneof![
        Just(0x2f_f000u64),
        Just(0x30_0000),
        Just(0x40_0000),
        Just(0x5f_0000),
        Just(0x70_0000),
        Just(0x70_8000),
        Just(0x70_9000),
        // In RAM, but on no page boundary, or on that of the smaller pages alone.
        Just(0x1c_0004),
        Just(0x1c_0800),
        (0x1c0..0x2d0u64).prop_map(|page| page << 12),
        any::<u64>(),
    ];
    // RAM that holds whole pages of both sizes: three quarters of the first piece's last MiB, and
    // the second piece and the third, which meet at 6 MiB.
    let pages = prop_oneof![0x1c0..0x2d0u64, 0x400..0x6c0u64, 0x5e0..0x600u64];
    prop_oneof![
        40 => (pages, 1..4u64, prop_oneof![1..4u64, 1..30u64])
            .prop_map(|(first, permission, count)| Segment::Pages { first, permission, count }),
        12 => prop_oneof![1..3usize, 1..24usize].prop_map(|count| Segment::Raw(vec![0; count])),
        2 => (0..1u64 << 62).prop_map(|poison| Segment::Raw(vec![poison << 2])),
        2 => (edge, 0..4u64).prop_map(|(address, permission)| Segment::Edge { address, permission }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![6 => 0..8u64, 6 => 0..48u64, 1 => 0..700u64, 1 => any::<u64>()];
    let put = (place(), segment()).prop_map(|((which, liobn, ioba), segment)| Step::Put {
        liobn,
        ioba,
        tce: segment.entries(which)[0],
    });
    let list_at = prop_oneof![
        24 => Just(STORAGE),
        1 => Just(STORAGE + 8),
        1 => (0..0x800u64).prop_map(|page| page << 12),
    ];
    let list_count = prop_oneof![24 => Just(None), 1 => (0..600u64).prop_map(Some)];
    let segments = prop::collection::vec(segment(), 0..4);
    let indirect = (place(), segments, list_at, list_count).prop_map(
        |((which, liobn, ioba), segments, at, count)| {
            let list = segments
                .iter()
                .flat_map(|segment| segment.entries(which))
                .collect();
            Step::Indirect {
                liobn,
                ioba,
                list,
                at,
                count,
            }
        },
    );
    let value = prop_oneof![12 => Just(0), 1 => any::<u64>(), 1 => Just(0xbad_0000)];
    let stuff = (place(), value, count).prop_map(|((_, liobn, ioba), value, count)| Step::Stuff {
        liobn,
        ioba,
        value,
        count,
    });
    let error = prop_oneof![Just(ENOMEM), Just(HostError::Refused(22))];
    let fail = (0..6u64, error, any::<bool>()).prop_map(|(after, error, leaves_traces)| {
        Step::Fail(Fault {
            after,
            error,
            leaves_traces,
        })
    });
    prop_oneof![
        16 => put,
        3 => place().prop_map(|(_, liobn, ioba)| Step::Get { liobn, ioba }),
        16 => indirect,
        8 => stuff,
        4 => (0..6usize).prop_map(|which| Step::AddWindow { which }),
        1 => (0..6usize).prop_map(|which| Step::Activate { which }),
        1 => (0..6usize).prop_map(|which| Step::RemoveWindow { which }),
        1 => Just(Step::Reset),
        1 => Just(Step::Prepare),
        2 => fail,
    ]
}

/// A window as the model knows it: its table, if the guest has the window.
struct Model {
    tables: [Option<Vec<u64>>; 6],
    /// Windows that the host refused to unmap: the view may show more than is live.
    dirty: [bool; 6],
}

/// What a call should write, or its refusal.
type Expected = Result<Option<(usize, usize, Vec<u64>)>, ReturnCode>;

impl Model {
    fn new() -> Self {
        let mut model = Self {
            tables: Default::default(),
            dirty: [false; 6],
        };
        model.reset();
        model
    }

    fn reset(&mut self) {
        for (which, (_, liobn, geometry)) in windows().iter().enumerate() {
            let is_default = liobn & 1 == 0;
            self.tables[which] =
                is_default.then(|| vec![0; usize::try_from(geometry.entries).unwrap()]);
        }
    }

    /// The window and first entry of a range, every page of which is in the window.
    fn range(&self, liobn: u64, ioba: u64, count: u64) -> Option<(usize, usize)> {
        let which = windows().iter().position(|(_, name, _)| *name == liobn)?;
        self.tables[which].as_ref()?;
        let geometry = windows()[which].2;
        let page = u128::from(geometry.page_shift.bytes());
        let start = u128::from(geometry.bus_offset.0);
        let end = start + u128::from(geometry.entries) * page;
        let first = u128::from(ioba);
        let last = first + u128::from(count.max(1)) * page;
        let valid = first % page == 0 && first >= start && last <= end;
        valid.then(|| (which, usize::try_from((first - start) / page).unwrap()))
    }

    fn can_map(which: usize, tce: u64) -> bool {
        let page = u128::from(windows()[which].2.page_shift.bytes());
        let address = u128::from(tce & !3);
        let holds = |piece: &GuestRange| {
            let start = u128::from(piece.start.0);
            address >= start && address + page <= start + u128::from(piece.bytes)
        };
        tce & 3 == 0 || address.is_multiple_of(page) && ram().iter().any(holds)
    }

    fn write(&self, liobn: u64, ioba: u64, values: &[u64]) -> Expected {
        let (which, first) = self
            .range(liobn, ioba, values.len() as u64)
            .ok_or(PARAMETER)?;
        if values.iter().any(|&tce| !Self::can_map(which, tce)) {
            return Err(PARAMETER);
        }
        Ok(Some((which, first, values.to_vec())))
    }

    fn expected(&self, step: &Step, memory: &FakeMemory) -> Expected {
        match *step {
            Step::Put { liobn, ioba, tce } => self.write(liobn, ioba, &[tce]),
            Step::Stuff {
                liobn,
                ioba,
                value,
                count,
            } => {
                let (which, first) = self.range(liobn, ioba, count).ok_or(PARAMETER)?;
                if value & 3 != 0 {
                    return Err(PARAMETER);
                }
                Ok(Some((
                    which,
                    first,
                    vec![value; usize::try_from(count).unwrap()],
                )))
            }
            Step::Indirect {
                liobn,
                ioba,
                ref list,
                at,
                count,
            } => {
                let count = usize::try_from(count.unwrap_or(list.len() as u64)).unwrap();
                if count > 512 || at % 4096 != 0 {
                    return Err(PARAMETER);
                }
                let mut values = vec![0; count];
                let read = memory.read_doublewords(GuestPhysicalAddress(at), &mut values);
                read.map_err(|_| PARAMETER)?;
                self.write(liobn, ioba, &values)
            }
            _ => Ok(None),
        }
    }
}

struct Machine {
    engine: TestEngine,
    model: Model,
}

impl Machine {
    fn new(policy: Policy) -> Self {
        let versions = [
            ContainerVersion::V2,
            ContainerVersion::V2,
            ContainerVersion::V1,
        ];
        let defaults = [windows()[0], windows()[2], windows()[4]];
        let bridges = defaults
            .iter()
            .zip(versions)
            .map(|((number, _, geometry), version)| HostBridge {
                number: *number,
                host: FakeHost::new(version),
                default_window: *geometry,
            });
        let memory = FakeMemory::new(ram(), GuestPhysicalAddress(STORAGE), 2);
        let engine = Engine::new(memory, &ram(), policy, bridges.collect()).unwrap();
        Self {
            engine,
            model: Model::new(),
        }
    }

    fn hosts(&self) -> impl Iterator<Item = &FakeHost> {
        [0, 1, 4]
            .into_iter()
            .filter_map(|number| self.engine.host(number))
    }

    fn failures(&self) -> (u64, u64) {
        self.hosts().fold((0, 0), |(all, unmaps), host| {
            let (more, more_unmaps) = host.failures();
            (all + more, unmaps + more_unmaps)
        })
    }

    /// A hypercall's way: the kernel if a table is bound, else the engine.
    fn hypercall(&self, number: u64, registers: &mut Arguments) -> ReturnCode {
        let [liobn, ioba, third, ..] = *registers;
        for host in self.hosts() {
            if number == abi::H_PUT_TCE {
                let memory = &self.engine.memory;
                if let Some(code) = host.kernel_put(liobn, Ioba(ioba), Tce(third), memory) {
                    return code;
                }
            } else if number == abi::H_GET_TCE {
                match host.kernel_get(liobn, Ioba(ioba)) {
                    Some(Ok(tce)) => {
                        registers[0] = tce.0;
                        return SUCCESS;
                    }
                    Some(Err(code)) => return code,
                    None => {}
                }
            }
        }
        match self.engine.handle(number, registers) {
            Some(Answer::Code(code)) => code,
            other => panic!("{number:#x} is answered {other:?}"),
        }
    }

    fn call(&self, number: u64, arguments: [u64; 4]) -> ReturnCode {
        let mut registers = [0; 9];
        registers[..4].copy_from_slice(&arguments);
        self.hypercall(number, &mut registers)
    }

    fn entry(&self, liobn: u64, ioba: u64) -> Result<u64, ReturnCode> {
        let mut registers = [liobn, ioba, 0, 0, 0, 0, 0, 0, 0];
        match self.hypercall(abi::H_GET_TCE, &mut registers) {
            SUCCESS => Ok(registers[0]),
            code => Err(code),
        }
    }

    fn view(&self, which: usize) -> Option<Vec<u64>> {
        let (_, liobn, geometry) = windows()[which];
        let page = |index| geometry.bus_offset.0 + (index << geometry.page_shift.get());
        let view: Result<_, _> = (0..geometry.entries)
            .map(|index| self.entry(liobn, page(index)))
            .collect();
        view.ok()
    }

    fn run(&mut self, step: &Step) {
        if let Step::Indirect { list, .. } = step {
            let fits = &list[..list.len().min(1024)];
            self.engine
                .memory
                .write_list(GuestPhysicalAddress(STORAGE), fits);
        }
        let expected = self.model.expected(step, &self.engine.memory);
        let failures_before = self.failures();
        let code = match *step {
            Step::Put { liobn, ioba, tce } => self.call(abi::H_PUT_TCE, [liobn, ioba, tce, 0]),
            Step::Indirect {
                liobn,
                ioba,
                ref list,
                at,
                count,
            } => {
                let count = count.unwrap_or(list.len() as u64);
                self.call(abi::H_PUT_TCE_INDIRECT, [liobn, ioba, at, count])
            }
            Step::Stuff {
                liobn,
                ioba,
                value,
                count,
            } => self.call(abi::H_STUFF_TCE, [liobn, ioba, value, count]),
            Step::Get { liobn, ioba } => return self.check_get(liobn, ioba),
            Step::Fail(fault) => return self.hosts().for_each(|host| host.inject(fault)),
            _ => return self.change_windows(step, failures_before),
        };
        let (failed, unmaps_failed) = self.failures();
        let has_failed = failed > failures_before.0;
        match expected {
            Err(refusal) => assert_eq!(code, refusal, "{step:x?}"),
            Ok(None) => unreachable!("{step:?} is no call that writes"),
            Ok(Some((which, first, values))) => {
                let table = self.model.tables[which].as_mut().unwrap();
                let range = first..first + values.len();
                if code == SUCCESS {
                    table[range].copy_from_slice(&values);
                } else {
                    assert!(has_failed, "{code:?} without a refusal: {step:x?}");
                    let only_clears = values.iter().all(|tce| tce & 3 == 0);
                    assert!(code == EXHAUSTED || only_clears && code == ReturnCode::HARDWARE);
                    let view = self.view(which).unwrap();
                    let table = self.model.tables[which].as_mut().unwrap();
                    let is_cleared = view[range.clone()].iter().all(|&tce| tce == 0);
                    let is_untouched = view[range.clone()] == table[range.clone()];
                    let is_dirty = unmaps_failed > failures_before.1;
                    assert!(is_cleared || is_untouched || is_dirty, "{step:x?}");
                    self.model.dirty[which] |= is_dirty;
                    table[range.clone()].copy_from_slice(&view[range]);
                }
            }
        }
    }

    fn check_get(&self, liobn: u64, ioba: u64) {
        let expected = self.model.range(liobn, ioba, 1);
        let expected = expected.map(|(which, at)| self.model.tables[which].as_ref().unwrap()[at]);
        assert_eq!(self.entry(liobn, ioba), expected.ok_or(PARAMETER));
    }

    fn change_windows(&mut self, step: &Step, failures_before: (u64, u64)) {
        let name = |which: usize| Liobn(u32::try_from(windows()[which].1).unwrap());
        let outcome = match *step {
            Step::AddWindow { which } => {
                let outcome = self.engine.add_window(name(which), windows()[which].2);
                assert_eq!(outcome.is_ok(), self.model.tables[which].is_none());
                if outcome.is_ok() {
                    let entries = usize::try_from(windows()[which].2.entries).unwrap();
                    self.model.tables[which] = Some(vec![0; entries]);
                }
                return;
            }
            Step::Activate { which } => self.engine.activate(name(which)).map(drop),
            Step::RemoveWindow { which } => {
                self.model.tables[which] = None;
                self.engine.remove_window(name(which))
            }
            Step::Prepare => {
                let outcome = self.engine.prepare();
                if outcome.is_err() {
                    self.model.reset();
                }
                outcome
            }
            _ => {
                self.model.reset();
                self.engine.reset_windows()
            }
        };
        let (failed, unmaps_failed) = self.failures();
        if unmaps_failed > failures_before.1 {
            self.model.dirty = [true; 6];
        }
        // A window that once was not emptied can keep memory in use.
        let is_excused = failed > failures_before.0 || self.model.dirty.contains(&true);
        if !matches!(outcome, Ok(()) | Err(WindowError::NoWindow(_))) {
            assert!(is_excused, "{outcome:?} without a refusal: {step:?}");
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        for host in self.hosts() {
            assert_eq!(host.violations(), Vec::<String>::new());
        }
        for (which, (number, liobn, geometry)) in windows().iter().enumerate() {
            assert_eq!(self.view(which), self.model.tables[which]);
            let empty = vec![0; usize::try_from(geometry.entries).unwrap()];
            let table = self.model.tables[which].as_ref().unwrap_or(&empty);
            let hardware = self
                .engine
                .host(*number)
                .unwrap()
                .hardware(geometry.bus_offset);
            let Some(hardware) = hardware else {
                assert!(
                    table.iter().all(|tce| tce & 3 == 0),
                    "mappings without a host window"
                );
                continue;
            };
            // Its removal and its clearing were refused.
            let is_lingering = self.model.dirty[which] && self.is_unlocked(*liobn);
            for (&tce, &live) in table.iter().zip(&hardware) {
                let shown = self.shown(tce);
                if self.model.dirty[which] {
                    assert!(
                        live.is_none() || live == shown || is_lingering,
                        "{live:?} {tce:#x}"
                    );
                } else {
                    assert_eq!(live, shown, "view and hardware differ at {tce:#x}");
                }
            }
        }
        self.check_locked_bytes();
    }

    fn is_unlocked(&self, liobn: u64) -> bool {
        let windows = self.engine.snapshot().windows;
        let window = windows
            .iter()
            .find(|window| u64::from(window.liobn.0) == liobn);
        window.is_some_and(|window| window.state == WindowState::Unlocked)
    }

    fn shown(&self, tce: u64) -> Option<Mapping> {
        let tce = Tce(tce);
        let permission = tce.permission();
        if permission.is_none() {
            return None;
        }
        let host = self.engine.memory.host_range(tce.address())?.start;
        Some(Mapping { host, permission })
    }

    fn check_locked_bytes(&self) {
        let mut registered: Vec<_> = self.hosts().flat_map(FakeHost::registered).collect();
        registered.sort_by_key(|range| range.start);
        registered.dedup();
        let bytes: u64 = registered.iter().map(|range| range.bytes).sum();
        assert_eq!(self.engine.snapshot().locked.bytes, bytes);
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    let tce = prop_oneof![Just(TcePolicy::Auto), Just(TcePolicy::User)];
    let lock = prop_oneof![4 => Just(LockPolicy::FirstMap), 1 => Just(LockPolicy::Attach)];
    (tce, lock).prop_map(|(tce, lock)| Policy {
        tce,
        lock,
        region: RegionSize::new(MIB),
    })
}

proptest! {
    // Shorter sequences are nice to have, not worth minutes of shrinking.
    #![proptest_config(ProptestConfig { max_shrink_time: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_leaves_view_and_hardware_equal(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut machine = Machine::new(policy);
        for step in &steps {
            machine.run(step);
            machine.check();
        }
        machine.hosts().for_each(FakeHost::clear_faults);
        let was_dirty = machine.model.dirty.contains(&true);
        // A host that refuses nothing any more lets everything go.
        machine.engine.reset_windows().unwrap();
        if !was_dirty {
            prop_assert_eq!(machine.engine.snapshot().locked.bytes, 0);
        }
        for host in machine.hosts() {
            for (_, _, geometry) in windows() {
                prop_assert!(host.hardware(geometry.bus_offset).is_none());
            }
        }
    }
}

#[test]
fn the_sequences_reach_every_outcome_and_mostly_succeed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let sequences = prop::collection::vec(step(), 40..60);
    let mut sum = Counters::default();
    for _ in 0..40 {
        let mut machine = Machine::new(Policy {
            region: RegionSize::new(MIB),
            ..Policy::default()
        });
        let steps = sequences.new_tree(&mut runner).unwrap().current();
        steps.iter().for_each(|step| machine.run(step));
        for Counters {
            put,
            put_indirect,
            stuff,
            map_calls,
            refused_to_guest,
            refused_by_host,
            unmap_failures,
            ..
        } in machine
            .engine
            .snapshot()
            .windows
            .iter()
            .map(|window| window.counters)
        {
            sum.put += put + put_indirect + stuff;
            sum.map_calls += map_calls;
            sum.refused_to_guest += refused_to_guest;
            sum.refused_by_host += refused_by_host;
            sum.unmap_failures += unmap_failures;
        }
    }
    assert!(sum.map_calls > 300 && sum.refused_to_guest > 50, "{sum:?}");
    assert!(
        sum.refused_by_host > 20 && sum.unmap_failures > 5,
        "{sum:?}"
    );
    assert!(sum.refused_to_guest * 2 < sum.put, "{sum:?}");
}
