//! A XIVE device that does what KVM's does and minds what KVM would not forgive.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

use parking_lot::{Mutex, MutexGuard};
use spapr_hypercalls::abi::{self, ReturnCode};
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::super::{Lisn, LisnBlock, Trigger};
use super::{EventData, PAGE_BYTES, Priority, QUEUE_BYTES, QueueFill, QueueName, Xive, XiveDevice};

thread_local! {
    /// The device's calls on this thread that are served before one fails; below 0 none does.
    static SPARED: Cell<i32> = const { Cell::new(-1) };
}

/// Has the `number`th of the following calls fail, from 1 on; 0 for none.
pub(super) fn fail_call(number: u32) {
    SPARED.set(i32::try_from(number).unwrap() - 1);
}

fn check() -> io::Result<()> {
    let spared = SPARED.get();
    SPARED.set((spared - 1).max(-1));
    if spared == 0 {
        return Err(io::Error::from_raw_os_error(libc::EIO));
    }
    Ok(())
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sources: BTreeMap<Lisn, (Trigger, Option<(QueueName, EventData)>)>,
    /// The state of sources, as far as something has set it.
    pub(super) pq: BTreeMap<Lisn, u64>,
    pub(super) queues: BTreeMap<QueueName, GuestPhysicalAddress>,
    pub(super) loads: Vec<(Lisn, u64)>,
    pub(super) stores: Vec<(Lisn, u64, u64)>,
    pub(super) synced: Vec<Lisn>,
}

/// The device of a machine with so many processors and so much memory.
#[derive(Debug)]
pub(super) struct FakeDevice {
    pub(super) servers: u32,
    pub(super) ram_bytes: u64,
    pub(super) state: Mutex<State>,
}

impl FakeDevice {
    pub(super) fn new(servers: u32, ram_bytes: u64) -> Self {
        Self {
            servers,
            ram_bytes,
            state: Mutex::default(),
        }
    }

    /// The state, which no two calls change at once.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.try_lock().expect("one call at a time")
    }

    fn assert_source(&self, lisn: Lisn) {
        assert!(self.state().sources.contains_key(&lisn), "{lisn}: SIGBUS");
    }

    fn assert_queue(&self, queue: QueueName) {
        assert!(queue.server < self.servers && queue.priority.get() < 7);
    }

    fn assert_offset(offset: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= PAGE_BYTES);
    }
}

impl XiveDevice for FakeDevice {
    fn make_sources(&self, block: LisnBlock, trigger: Trigger) -> io::Result<()> {
        check()?;
        let mut state = self.state();
        for lisn in block.iter() {
            state.sources.insert(lisn, (trigger, None));
        }
        Ok(())
    }

    fn target_source(&self, lisn: Lisn, queue: QueueName, data: EventData) -> io::Result<()> {
        self.assert_source(lisn);
        self.assert_queue(queue);
        check()?;
        let mut state = self.state();
        assert!(
            state.queues.contains_key(&queue),
            "KVM would take another queue"
        );
        state.sources.get_mut(&lisn).unwrap().1 = Some((queue, data));
        Ok(())
    }

    fn mask_source(&self, lisn: Lisn) -> io::Result<()> {
        self.assert_source(lisn);
        check()?;
        self.state().sources.get_mut(&lisn).unwrap().1 = None;
        Ok(())
    }

    fn sync_source(&self, lisn: Lisn) -> io::Result<()> {
        self.assert_source(lisn);
        check()?;
        self.state().synced.push(lisn);
        Ok(())
    }

    fn place_queue(&self, queue: QueueName, address: GuestPhysicalAddress) -> io::Result<()> {
        self.assert_queue(queue);
        assert!(address.0.is_multiple_of(QUEUE_BYTES));
        assert!(address.0 + QUEUE_BYTES <= self.ram_bytes, "outside RAM");
        let failed = check();
        if failed.is_err() && address.0 & QUEUE_BYTES != 0 {
            // The kernel may fail on its way.
            self.state().queues.remove(&queue);
        }
        failed?;
        self.state().queues.insert(queue, address);
        Ok(())
    }

    fn remove_queue(&self, queue: QueueName) -> io::Result<()> {
        self.assert_queue(queue);
        check()?;
        self.state().queues.remove(&queue);
        Ok(())
    }

    fn queue_fill(&self, queue: QueueName) -> io::Result<QueueFill> {
        self.assert_queue(queue);
        check()?;
        Ok(QueueFill {
            toggle: 1,
            index: 0x123,
        })
    }

    fn reset(&self) -> io::Result<()> {
        check()?;
        let mut state = self.state();
        state.queues.clear();
        for source in state.sources.values_mut() {
            source.1 = None;
        }
        Ok(())
    }

    fn load(&self, lisn: Lisn, offset: u64) -> u64 {
        self.assert_source(lisn);
        Self::assert_offset(offset);
        let mut state = self.state();
        state.loads.push((lisn, offset));
        let old = state.pq.get(&lisn).copied().unwrap_or(3);
        if offset & 0xfff >= 0xc00 {
            state.pq.insert(lisn, offset >> 8 & 3);
        }
        old
    }

    fn store(&self, lisn: Lisn, offset: u64, value: u64) {
        self.assert_source(lisn);
        Self::assert_offset(offset);
        self.state().stores.push((lisn, offset, value));
    }
}

/// What the guest is told is what the device does.
pub(super) fn assert_told_as_done(xive: &Xive<FakeDevice>) {
    let ask = |number, arguments: [u64; 3]| {
        let mut args = [0; 9];
        args[..3].copy_from_slice(&arguments);
        let code = xive.serve(number, &mut args).expect("one of XIVE's");
        (code, args)
    };
    let queues = xive.device().state().queues.clone();
    let sources = xive.device().state().sources.clone();
    for (lisn, (_, target)) in sources {
        let (code, args) = ask(abi::H_INT_GET_SOURCE_CONFIG, [0, lisn.0.into(), 0]);
        assert_eq!(code, ReturnCode::SUCCESS);
        let told = match target {
            Some((queue, data)) => [
                queue.server.into(),
                queue.priority.get().into(),
                data.get().into(),
            ],
            None => [0, 0xff, args[2]],
        };
        assert_eq!(&args[..3], &told);
    }
    for server in 0..xive.servers {
        for priority in (0..).map_while(Priority::new) {
            let name = [0, server.into(), priority.get().into()];
            let (_, args) = ask(abi::H_INT_GET_QUEUE_CONFIG, name);
            let told = (args[2] != 0).then_some(GuestPhysicalAddress(args[1]));
            let queue = QueueName { server, priority };
            assert_eq!(told, queues.get(&queue).copied());
        }
    }
}
