//! The hypercalls of XIVE exploitation mode (PAPR, "Hypervisor Call Functions", H_INT_*).
//!
//! An argument that is wrong gets the code that names it (H_P2, H_P3 …), and nothing has changed
//! then. What the kernel refuses though it is right gets H_HARDWARE.

use std::io;

use log::Level;
use spapr_hypercalls::abi::{self, Arguments, ReturnCode};
use spapr_hypercalls::address::GuestPhysicalAddress;

use super::super::{Lisn, Trigger};
use super::book::Source;
use super::{
    EventData, PAGE_BYTES, PAGE_SHIFT, Priority, QUEUE_BYTES, QUEUE_SHIFT, QueueName, Xive,
    XiveDevice, management_page, trigger_page,
};
use crate::guest_message;

/// H_INT_GET_SOURCE_INFO: the management page is used by H_INT_ESB.
const BY_HYPERCALL: u64 = 1 << 3;
/// H_INT_GET_SOURCE_INFO: the source is level-triggered.
const LEVEL: u64 = 1 << 2;

/// H_INT_SET_SOURCE_CONFIG: the event data is set as well.
const SET_DATA: u64 = 1 << 1;
/// H_INT_SET_SOURCE_CONFIG: the source is masked.
const MASK: u64 = 1;
/// The priority of a source that is masked.
const MASKED: u64 = 0xff;

/// Queue configuration: the processor is notified of every event.
const ALWAYS_NOTIFY: u64 = 1;
/// H_INT_GET_QUEUE_CONFIG: how far the queue is filled is asked for, too.
const WITH_FILL: u64 = 1;
/// Where the queue's toggle bit then is in the flags.
const TOGGLE_SHIFT: u32 = 62;

/// H_INT_ESB: a store, not a load.
const STORE: u64 = 1;

/// The bits of an offset in a management page that say what an access does.
const OFFSET_MASK: u64 = 0xfff;
/// Offsets in a management page below this, loaded from, end an interrupt (`XIVE_ESB_LOAD_EOI` in
/// arch/powerpc/include/asm/xive-regs.h).
const LOAD_EOI_END: u64 = 0x400;
/// Loaded from, gives the source's state (`XIVE_ESB_GET`).
const GET: u64 = 0x800;
/// Loaded from, has the source accept events (`XIVE_ESB_SET_PQ_00`).
const SET_PQ_00: u64 = 0xc00;
/// Loaded from, has the source accept none (`XIVE_ESB_SET_PQ_01`).
const SET_PQ_01: u64 = 0xd00;
/// The bits of a source's state, and the state that accepts no events.
const PQ: u64 = 3;
const OFF: u64 = 1;

/// What is not there: pages of a source that is used by hypercall, notification pages of queues.
const NO_PAGE: u64 = u64::MAX;

/// What a hypercall answers when it fails.
type Failure = ReturnCode;

impl<D: XiveDevice> Xive<D> {
    /// Serves hypercall `number`, with its results in `args`; `None` when it is none of XIVE's.
    ///
    /// H_INT_SET_OS_REPORTING_LINE and H_INT_GET_OS_REPORTING_LINE are answered H_FUNCTION: KVM
    /// reports no processor's state to memory.
    #[inline]
    pub fn serve(&self, number: u64, args: &mut Arguments) -> Option<ReturnCode> {
        match number {
            abi::H_INT_GET_SOURCE_INFO..=abi::H_INT_RESET => self.serve_own(number, args),
            _ => None,
        }
    }

    /// A call with a number in the controller's range. Not inlined: it takes registers that every other call would
    /// have to save.
    #[inline(never)]
    fn serve_own(&self, number: u64, args: &mut Arguments) -> Option<ReturnCode> {
        let result = match number {
            abi::H_INT_GET_SOURCE_INFO => self.get_source_info(args),
            abi::H_INT_SET_SOURCE_CONFIG => self.set_source_config(args),
            abi::H_INT_GET_SOURCE_CONFIG => self.get_source_config(args),
            abi::H_INT_GET_QUEUE_INFO => self.get_queue_info(args),
            abi::H_INT_SET_QUEUE_CONFIG => self.set_queue_config(args),
            abi::H_INT_GET_QUEUE_CONFIG => self.get_queue_config(args),
            abi::H_INT_SET_OS_REPORTING_LINE | abi::H_INT_GET_OS_REPORTING_LINE => {
                Err(ReturnCode::FUNCTION)
            }
            abi::H_INT_ESB => self.esb(args),
            abi::H_INT_SYNC => self.sync(args),
            abi::H_INT_RESET => self.reset_all(args),
            _ => return None,
        };
        Some(match result {
            Ok(()) => ReturnCode::SUCCESS,
            Err(code) => code,
        })
    }

    /// (flags, lisn) → flags, management page, trigger page, page shift.
    fn get_source_info(&self, args: &mut Arguments) -> Result<(), Failure> {
        known_flags(args[0], 0)?;
        let (lisn, source) = self.source(args[1])?;
        // The line is sampled at the end of an interrupt, so that has to come here.
        let info = match source.trigger {
            Trigger::Level => [BY_HYPERCALL | LEVEL, NO_PAGE, NO_PAGE],
            Trigger::Edge => [0, management_page(lisn).0, trigger_page(lisn).0],
        };
        args[..3].copy_from_slice(&info);
        args[3] = PAGE_SHIFT.into();
        Ok(())
    }

    /// (flags, lisn, server, priority, event data)
    fn set_source_config(&self, args: &Arguments) -> Result<(), Failure> {
        let &[flags, lisn, server, priority, data, ..] = args;
        known_flags(flags, SET_DATA | MASK)?;
        let mut book = self.book();
        let lisn = known_lisn(lisn)?;
        let source = book.source(lisn).ok_or(ReturnCode::P2)?;
        let data = if flags & SET_DATA == 0 {
            source.data
        } else {
            EventData::new(data).ok_or(ReturnCode::P5)?
        };
        let queue = if priority == MASKED {
            None
        } else {
            let queue = self.queue_name(server, priority, ReturnCode::P3, ReturnCode::P4)?;
            // Without one, KVM would send the events to whichever processor has a queue, and warn in
            // the host's log (`kvmppc_xive_select_target` in arch/powerpc/kvm/book3s_xive.c).
            book.queue(queue).ok_or(ReturnCode::P4)?;
            (flags & MASK == 0).then_some(queue)
        };
        if queue.is_some() && (source.queue, source.data) == (queue, data) {
            return Ok(());
        }
        let queue = match queue {
            Some(queue) => Some(book.queue_with_room(queue).ok_or(ReturnCode::RESOURCE)?),
            None => None,
        };
        match queue {
            Some(queue) => {
                book.count_targeted(queue);
                self.device.target_source(lisn, queue, data)
            }
            None => self.device.mask_source(lisn),
        }
        .map_err(|error| refused("H_INT_SET_SOURCE_CONFIG", &error))?;
        if let Some(source) = book.source_mut(lisn) {
            source.queue = queue;
            source.data = data;
        }
        Ok(())
    }

    /// (flags, lisn) → server, priority, event data.
    fn get_source_config(&self, args: &mut Arguments) -> Result<(), Failure> {
        known_flags(args[0], 0)?;
        let (_, source) = self.source(args[1])?;
        let target = match source.queue {
            Some(queue) => [queue.server.into(), queue.priority.get().into()],
            None => [0, MASKED],
        };
        args[..2].copy_from_slice(&target);
        args[2] = source.data.get().into();
        Ok(())
    }

    /// (flags, server, priority) → notification page, its shift. KVM's queues have none: their
    /// processors are always notified.
    fn get_queue_info(&self, args: &mut Arguments) -> Result<(), Failure> {
        known_flags(args[0], 0)?;
        self.queue_name(args[1], args[2], ReturnCode::P2, ReturnCode::P3)?;
        args[0] = NO_PAGE;
        args[1] = 0;
        Ok(())
    }

    /// (flags, server, priority, address, shift); a shift of 0 removes the queue.
    fn set_queue_config(&self, args: &Arguments) -> Result<(), Failure> {
        let &[flags, server, priority, address, shift, ..] = args;
        known_flags(flags, ALWAYS_NOTIFY)?;
        let queue = self.queue_name(server, priority, ReturnCode::P2, ReturnCode::P3)?;
        let address = if shift == 0 {
            None
        } else {
            if shift != u64::from(QUEUE_SHIFT) {
                return Err(ReturnCode::P5);
            }
            // KVM has no queues whose notifications are coalesced.
            if flags & ALWAYS_NOTIFY == 0 {
                return Err(ReturnCode::PARAMETER);
            }
            Some(self.queue_address(address).ok_or(ReturnCode::P4)?)
        };
        let mut book = self.book();
        let configured = match address {
            Some(address) => self.device.place_queue(queue, address),
            None => self.device.remove_queue(queue),
        };
        match (configured, address) {
            (Ok(()), Some(address)) => book.add_queue(queue, address),
            (Ok(()), None) => book.remove_queue(queue),
            (Err(error), _) => {
                // It may be where it was, or nowhere.
                if self.device.remove_queue(queue).is_ok() {
                    book.remove_queue(queue);
                }
                return Err(refused("H_INT_SET_QUEUE_CONFIG", &error));
            }
        }
        Ok(())
    }

    /// (flags, server, priority) → flags, address, shift, index of the next entry.
    fn get_queue_config(&self, args: &mut Arguments) -> Result<(), Failure> {
        let &mut [flags, server, priority, ..] = args;
        known_flags(flags, WITH_FILL)?;
        let queue = self.queue_name(server, priority, ReturnCode::P2, ReturnCode::P3)?;
        let book = self.book();
        let Some(address) = book.queue(queue) else {
            args[..4].fill(0);
            return Ok(());
        };
        let mut config = [ALWAYS_NOTIFY, address.0, QUEUE_SHIFT.into(), 0];
        if flags & WITH_FILL != 0 {
            let fill = self
                .device
                .queue_fill(queue)
                .map_err(|error| refused("H_INT_GET_QUEUE_CONFIG", &error))?;
            config[0] |= u64::from(fill.toggle & 1) << TOGGLE_SHIFT;
            config[3] = fill.index.into();
        }
        args[..4].copy_from_slice(&config);
        Ok(())
    }

    /// (flags, lisn, offset, value) → value.
    fn esb(&self, args: &mut Arguments) -> Result<(), Failure> {
        let &mut [flags, lisn, offset, value, ..] = args;
        known_flags(flags, STORE)?;
        let (lisn, source) = self.source(lisn)?;
        if offset >= PAGE_BYTES || !offset.is_multiple_of(size_of::<u64>() as u64) {
            return Err(ReturnCode::P3);
        }
        args[0] = if flags & STORE != 0 {
            self.device.store(lisn, offset, value);
            u64::MAX
        } else if source.trigger == Trigger::Level {
            self.load_level(lisn, offset)
        } else {
            self.device.load(lisn, offset)
        };
        Ok(())
    }

    /// Loads from the management page of a level-triggered source. When it accepts events from then
    /// on, its lines are sampled.
    fn load_level(&self, lisn: Lisn, offset: u64) -> u64 {
        let (value, accepts) = self.load_and_look(lisn, offset);
        if accepts {
            self.sample(lisn);
        }
        value
    }

    fn load_and_look(&self, lisn: Lisn, offset: u64) -> (u64, bool) {
        // Locked, so that no other processor masks the source between the two loads.
        let _book = self.book();
        match offset & OFFSET_MASK {
            // To the hardware the source is an edge-triggered one, and would interrupt again for
            // events that came meanwhile. What counts is the line. One that the guest has masked
            // stays so until it unmasks it.
            ..LOAD_EOI_END if self.device.load(lisn, GET) & PQ == OFF => (0, false),
            ..LOAD_EOI_END => {
                self.device.load(lisn, SET_PQ_00);
                (0, true)
            }
            SET_PQ_00..SET_PQ_01 => (self.device.load(lisn, offset), true),
            _ => (self.device.load(lisn, offset), false),
        }
    }

    /// (flags, lisn)
    fn sync(&self, args: &Arguments) -> Result<(), Failure> {
        known_flags(args[0], 0)?;
        let book = self.book();
        let lisn = known_lisn(args[1])?;
        book.source(lisn).ok_or(ReturnCode::P2)?;
        self.device
            .sync_source(lisn)
            .map_err(|error| refused("H_INT_SYNC", &error))
    }

    /// (flags)
    fn reset_all(&self, args: &Arguments) -> Result<(), Failure> {
        known_flags(args[0], 0)?;
        let mut book = self.book();
        self.device
            .reset()
            .map_err(|error| refused("H_INT_RESET", &error))?;
        book.reset();
        Ok(())
    }

    /// The source that an argument names; sources that there are stay.
    fn source(&self, argument: u64) -> Result<(Lisn, Source), Failure> {
        let lisn = known_lisn(argument)?;
        let source = self.book().source(lisn).copied().ok_or(ReturnCode::P2)?;
        Ok((lisn, source))
    }

    /// The queue that two arguments name, or the code for the one that is wrong.
    fn queue_name(
        &self,
        server: u64,
        priority: u64,
        wrong_server: Failure,
        wrong_priority: Failure,
    ) -> Result<QueueName, Failure> {
        let server = u32::try_from(server)
            .ok()
            .filter(|&server| server < self.servers)
            .ok_or(wrong_server)?;
        let priority = Priority::new(priority).ok_or(wrong_priority)?;
        Ok(QueueName { server, priority })
    }

    /// The address of a queue, if it is aligned and all of the queue is RAM.
    fn queue_address(&self, address: u64) -> Option<GuestPhysicalAddress> {
        let start = GuestPhysicalAddress(address);
        let mut ram = self.ram.iter();
        let is_ram = ram.any(|block| block.contains(start, QUEUE_BYTES));
        (address.is_multiple_of(QUEUE_BYTES) && is_ram).then_some(start)
    }
}

fn known_flags(flags: u64, known: u64) -> Result<(), Failure> {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(ReturnCode::PARAMETER)
    }
}

fn known_lisn(argument: u64) -> Result<Lisn, Failure> {
    u32::try_from(argument)
        .map(Lisn)
        .map_err(|_| ReturnCode::P2)
}

/// What the guest is answered when the kernel refused what was right.
fn refused(hypercall: &str, error: &io::Error) -> Failure {
    guest_message!(Level::Warn, "{hypercall} failed: {error}");
    ReturnCode::HARDWARE
}
