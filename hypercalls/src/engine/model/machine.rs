//! The engine, its hosts and KVM's handlers, beside the model.

use super::reference::Model;
use super::step::{STORAGE, Step, ram, windows};
use super::*;
use crate::testing::{FakeHandlers, Mapping};
use crate::world::BulkCall;

/// How often a call is made at the most: here, in the kernel, and for each block of 256 KiB of 7 MiB.
const MOST_TIMES: u32 = 2 + 4 * 7;

pub(crate) struct Machine {
    pub(crate) engine: TestEngine,
    pub(crate) model: Model,
    handlers: FakeHandlers,
    /// Bulk calls that the kernel's handlers carried out.
    pub(crate) in_kernel: u64,
}

impl Machine {
    pub(crate) fn new(policy: Policy) -> Self {
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
        let handlers = FakeHandlers::default();
        let engine = Engine::new(memory, &ram(), policy, bridges.collect())
            .unwrap()
            .with_kernel_handlers(handlers.clone());
        engine.prepare().unwrap();
        Self {
            engine,
            model: Model::new(),
            handlers,
            in_kernel: 0,
        }
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &FakeHost> {
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

    /// A hypercall's way: the kernel if a table is bound and the handler enabled, else the engine,
    /// which may send it back to the kernel once, and once more for each block that it locks.
    fn hypercall(&mut self, number: u64, registers: &mut Arguments) -> ReturnCode {
        for _ in 0..MOST_TIMES {
            if let Some(code) = self.in_kernel(number, registers) {
                return code;
            }
            match self.engine.handle(number, registers) {
                Some(Answer::Code(code)) => return code,
                Some(Answer::MakeAgain) => {}
                other => panic!("{number:#x} is answered {other:?}"),
            }
        }
        panic!("{number:#x} is to be made more than {MOST_TIMES} times");
    }

    /// The kernel's handlers; `None` when they leave a call to user space.
    fn in_kernel(&mut self, number: u64, registers: &mut Arguments) -> Option<ReturnCode> {
        let [liobn, ioba, third, count, ..] = *registers;
        let ioba = Ioba(ioba);
        let always = self.engine.policy.tce.bulk_calls_in_kernel();
        let is_on = |call: BulkCall| {
            call.number() == number && (always || self.handlers.is_in_kernel(call))
        };
        if BulkCall::ALL.into_iter().any(is_on) {
            let memory = &self.engine.memory;
            let count = usize::try_from(count).ok().filter(|&count| count <= 512)?;
            let mut values = vec![third; count];
            if number == abi::H_PUT_TCE_INDIRECT {
                memory
                    .read_doublewords(GuestPhysicalAddress(third), &mut values)
                    .ok()
                    .filter(|()| third % 4096 == 0)?;
            } else if third & 3 != 0 {
                return None;
            }
            let done = self
                .hosts()
                .any(|host| host.kernel_bulk(liobn, ioba, &values, memory));
            self.in_kernel += u64::from(done);
            return done.then_some(SUCCESS);
        }
        for host in self.hosts() {
            if number == abi::H_PUT_TCE {
                let memory = &self.engine.memory;
                let code = host.kernel_put(liobn, ioba, Tce(third), memory);
                if code.is_some() {
                    return code;
                }
            } else if number == abi::H_GET_TCE
                && let Some(found) = host.kernel_get(liobn, ioba)
            {
                return Some(found.map_or_else(
                    |code| code,
                    |tce| {
                        registers[0] = tce.0;
                        SUCCESS
                    },
                ));
            }
        }
        None
    }

    fn call(&mut self, number: u64, arguments: [u64; 4]) -> ReturnCode {
        let mut registers = [0; 9];
        registers[..4].copy_from_slice(&arguments);
        self.hypercall(number, &mut registers)
    }

    fn entry(&mut self, liobn: u64, ioba: u64) -> Result<u64, ReturnCode> {
        let mut registers = [liobn, ioba, 0, 0, 0, 0, 0, 0, 0];
        match self.hypercall(abi::H_GET_TCE, &mut registers) {
            SUCCESS => Ok(registers[0]),
            code => Err(code),
        }
    }

    fn view(&mut self, which: usize) -> Option<Vec<u64>> {
        let (_, liobn, geometry) = windows()[which];
        let page = |index| geometry.bus_offset.0 + (index << geometry.page_shift.get());
        let view: Result<_, _> = (0..geometry.entries)
            .map(|index| self.entry(liobn, page(index)))
            .collect();
        view.ok()
    }

    pub(crate) fn run(&mut self, step: &Step) {
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
            Step::TakeBack => {
                self.handlers.sleep();
                return self.engine.take_back_calls();
            }
            Step::Populate => {
                self.engine.populate_some();
                return;
            }
            Step::RefuseHandOver(refuses) => return self.handlers.refuse(refuses),
            _ => return self.change_windows(step, failures_before),
        };
        match expected {
            Err(refusal) => assert_eq!(code, refusal, "{step:x?}"),
            Ok(None) => unreachable!("{step:?} is no call that writes"),
            Ok(Some((which, first, values))) if code == SUCCESS => {
                let table = self.model.tables[which].as_mut().unwrap();
                table[first..first + values.len()].copy_from_slice(&values);
            }
            Ok(Some(write)) => self.check_failed_write(step, code, write, failures_before),
        }
    }

    /// A call that the guest may make fails only as the host fails, and leaves its entries as they were, or clear.
    fn check_failed_write(
        &mut self,
        step: &Step,
        code: ReturnCode,
        (which, first, values): (usize, usize, Vec<u64>),
        failures_before: (u64, u64),
    ) {
        let (failed, unmaps_failed) = self.failures();
        let has_failed = failed > failures_before.0;
        assert!(has_failed, "{code:?} without a refusal: {step:x?}");
        let only_clears = values.iter().all(|tce| tce & 3 == 0);
        assert!(code == EXHAUSTED || only_clears && code == ReturnCode::HARDWARE);
        let view = self.view(which).unwrap();
        let table = self.model.tables[which].as_mut().unwrap();
        let range = first..first + values.len();
        let is_cleared = view[range.clone()].iter().all(|&tce| tce == 0);
        let is_untouched = view[range.clone()] == table[range.clone()];
        let is_dirty = unmaps_failed > failures_before.1;
        assert!(is_cleared || is_untouched || is_dirty, "{step:x?}");
        self.model.dirty[which] |= is_dirty;
        table[range.clone()].copy_from_slice(&view[range]);
    }

    fn check_get(&mut self, liobn: u64, ioba: u64) {
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
            Step::MakeWindow { which } => {
                let (number, _, geometry) = windows()[which];
                let host = self.engine.host(number).unwrap();
                host.put_windows_at(geometry.bus_offset);
                let (page_shift, entries) = (geometry.page_shift, geometry.entries);
                let made = self.engine.make_window(name(which), page_shift, entries);
                if self.model.tables[which].is_some() {
                    assert_eq!(made, Err(WindowError::Occupied(name(which))));
                    return;
                }
                if let Ok(made) = made {
                    assert_eq!(made, geometry);
                    let entries = usize::try_from(entries).unwrap();
                    self.model.tables[which] = Some(vec![0; entries]);
                }
                made.map(drop)
            }
            Step::Activate { which } => self.engine.activate(name(which), Use::NotYet).map(drop),
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
                let outcome = self.engine.reset_windows();
                if self.engine.policy.lock == LockPolicy::FirstMap {
                    // As for the next life of a machine.
                    self.engine.prepare().unwrap();
                }
                outcome
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

    /// What must hold after every step: in the window that it named, or in all of them.
    pub(crate) fn check_after(&mut self, step: &Step) {
        let named = match *step {
            Step::Put { liobn, .. }
            | Step::Get { liobn, .. }
            | Step::Indirect { liobn, .. }
            | Step::Stuff { liobn, .. } => Some(liobn),
            _ => None,
        };
        self.check(|liobn| named.is_none_or(|named| named == liobn));
    }

    /// What must hold at any time in the windows chosen by LIOBN.
    pub(crate) fn check(&mut self, is_chosen: impl Fn(u64) -> bool) {
        for host in self.hosts() {
            assert_eq!(host.violations(), Vec::<String>::new());
        }
        for (which, (number, liobn, geometry)) in windows().iter().enumerate() {
            if !is_chosen(*liobn) {
                continue;
            }
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
        // The kernel takes pieces of two containers that are the same, and none that overlap.
        for pair in registered.windows(2) {
            assert!(pair[0].start.0 + pair[0].bytes <= pair[1].start.0);
        }
        let bytes: u64 = registered.iter().map(|range| range.bytes).sum();
        assert_eq!(self.engine.snapshot().locked.bytes, bytes);
    }
}
