//! A controller's task management (SAM-5 7), and the events that it tells.
//!
//! What the host works on cannot be taken back. A function that ends commands is over when the host is done with
//! them, so none of them touches memory after that; what waits for the machine to go on is forgotten.

use std::collections::VecDeque;

use virtio_bindings::virtio_scsi::VIRTIO_SCSI_T_PARAM_CHANGE;
use virtio_queue::{Queue, QueueT};

use super::address::Address;
use super::control::{self, Asked, Function, Went};
use super::device::{CONTROL_QUEUE, Scsi};
use super::lun::Task;
use super::request::Answer;
use super::sense::Sense;
use crate::dma::DmaMemory;
use crate::virtio::device::{Done, ServeError, Served};
use crate::virtio::requests::{self, Request};

/// Which commands a function is about.
#[derive(Clone, Copy, Debug)]
struct Scope {
    target: u8,
    /// All units of the target, if none.
    lun: Option<u16>,
    /// All commands, if none.
    tag: Option<u64>,
    /// Those that came before.
    up_to: u64,
}

impl Scope {
    fn has_unit(&self, address: Address) -> bool {
        address.target == self.target && self.lun.is_none_or(|lun| lun == address.lun)
    }

    fn has_task(&self, task: &Task) -> bool {
        task.number <= self.up_to && self.tag.is_none_or(|tag| tag == task.tag)
    }
}

/// Functions that are not over.
#[derive(Default)]
pub(super) struct Management {
    waiting: Vec<(Request, Scope)>,
    over: VecDeque<Request>,
}

impl Management {
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.over.clear();
    }
}

impl Scsi {
    pub(super) fn serve_control(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        for _ in 0..queue.size() {
            // The same descriptors may be offered again meanwhile.
            if self.management.waiting.len() >= usize::from(queue.size()) {
                return Ok(Served::Full);
            }
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let asked = control::read(&request, memory)?;
            let written = match asked {
                Asked::Events => control::write_no_events(&request, memory)?,
                Asked::Other => Went::Rejected.write(&request, memory)?,
                Asked::Function { function, lun, tag } => match self.manage(function, lun, tag) {
                    Ok(went) => went.write(&request, memory)?,
                    Err(scope) => {
                        self.management.waiting.push((request, scope));
                        continue;
                    }
                },
            };
            queue.add_used(memory, request.head, written)?;
        }
        Ok(Served::Some)
    }

    /// Does a function; if it is not over yet, `Err` with the commands that it waits for.
    fn manage(&mut self, function: Function, lun: [u8; 8], tag: u64) -> Result<Went, Scope> {
        let Some(address) = Address::read(lun) else {
            return Ok(Went::NoUnit);
        };
        let is_there = match function {
            Function::ResetTarget => self.has_target(address.target),
            _ => self.place(address).is_some(),
        };
        if !is_there {
            return Ok(Went::NoUnit);
        }
        let is_of_task = matches!(function, Function::AbortTask | Function::QueryTask);
        let scope = Scope {
            target: address.target,
            lun: (function != Function::ResetTarget).then_some(address.lun),
            tag: is_of_task.then_some(tag),
            up_to: self.number,
        };
        let (answer, attention) = match function {
            Function::QueryTask | Function::QueryTaskSet => {
                return Ok(match self.has_tasks(&scope) {
                    true => Went::Succeeded,
                    false => Went::Complete,
                });
            }
            Function::AbortTask | Function::AbortTaskSet => (Answer::ABORTED, None),
            Function::ResetUnit => (Answer::RESET, Some(Sense::UNIT_RESET)),
            Function::ResetTarget => (Answer::RESET, Some(Sense::NEXUS_LOST)),
        };
        self.end_tasks(&scope, answer, attention);
        match self.has_tasks(&scope) {
            true => Err(scope),
            false => Ok(Went::Complete),
        }
    }

    fn has_tasks(&self, scope: &Scope) -> bool {
        let units = self.luns.iter();
        let mut works = units
            .filter(|lun| scope.has_unit(lun.unit.options.address))
            .filter_map(|lun| lun.work.as_ref());
        works.any(|work| work.tasks().any(|task| scope.has_task(task)))
    }

    /// Has commands come back with `answer`, those that wait at once.
    fn end_tasks(&mut self, scope: &Scope, answer: Answer, attention: Option<Sense>) {
        let mut withdrawn = Vec::new();
        for lun in &mut self.luns {
            if !scope.has_unit(lun.unit.options.address) {
                continue;
            }
            if let Some(attention) = attention {
                lun.unit.reset(attention);
            }
            let Some(work) = &mut lun.work else {
                continue;
            };
            withdrawn.extend(work.withdraw(|task| scope.has_task(task)));
            for task in work.tasks_mut().filter(|task| scope.has_task(task)) {
                task.ended.get_or_insert(answer);
            }
        }
        if withdrawn.is_empty() {
            return;
        }
        for task in withdrawn {
            self.end(task, answer);
        }
        // Others have waited with them.
        self.set_all_due();
    }

    /// Finds functions that are over since the host is done with their commands.
    pub(super) fn finish_functions(&mut self) {
        let waiting = std::mem::take(&mut self.management.waiting);
        for (request, scope) in waiting {
            match self.has_tasks(&scope) {
                true => self.management.waiting.push((request, scope)),
                false => self.management.over.push_back(request),
            }
        }
    }

    pub(super) fn next_function_done(
        &mut self,
        memory: &DmaMemory,
    ) -> Result<Option<Done>, ServeError> {
        let Some(request) = self.management.over.pop_front() else {
            return Ok(None);
        };
        Ok(Some(Done {
            queue: CONTROL_QUEUE,
            head: request.head,
            written: Went::Complete.write(&request, memory)?,
        }))
    }

    /// Tells the driver of units whose size is another.
    pub(super) fn tell_events(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        for lun in self.luns.iter_mut().filter(|lun| lun.size_has_changed) {
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let mut event = VIRTIO_SCSI_T_PARAM_CHANGE.to_le_bytes().to_vec();
            event.extend(lun.unit.options.address.bytes());
            event.extend(Sense::CAPACITY_CHANGED.reason().to_le_bytes());
            let (_, writable) = requests::split(&request.buffers)?;
            let room: u64 = writable.iter().map(|it| u64::from(it.len())).sum();
            if room < event.len() as u64 {
                return Err(ServeError::Request("no room for an event"));
            }
            requests::copy_to(writable, 0, memory, &event)?;
            queue.add_used(memory, request.head, event.len().to_le_bytes()[0].into())?;
            lun.size_has_changed = false;
        }
        // The driver's buffers wait for what is to be told.
        Ok(Served::Full)
    }
}
