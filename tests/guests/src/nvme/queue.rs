//! A submission queue and its completion queue, each in one page (NVMe 1.4, section 4.1).

use super::registers::Registers;
use super::{Command, NvmeError, Page};
use crate::clock::Clock;
use crate::rtas;

/// Entries of each queue.
pub(super) const ENTRIES: u64 = 16;

/// Words of 8 bytes of a submission and of a completion.
const SUBMISSION_WORDS: u64 = 8;
const COMPLETION_WORDS: u64 = 2;

/// The queues.
#[derive(Debug)]
pub(super) struct QueuePair {
    number: u16,
    submission: Page,
    completion: Page,
    /// Where the next submission goes.
    tail: u64,
    /// Where the next completion comes.
    head: u64,
    /// The phase tag that a new completion has.
    phase: u64,
    identifier: u16,
}

/// The fields of a completion's second word: submission queue and its head, then these.
struct Completion {
    identifier: u64,
    phase: u64,
    /// Type and code, without "do not retry" and "more".
    status: u16,
}

impl Completion {
    fn of(word: u64) -> Self {
        let status = word >> 49 & 0x7ff;
        Self {
            identifier: word >> 32 & 0xffff,
            phase: word >> 48 & 1,
            status: u16::try_from(status).unwrap_or(u16::MAX),
        }
    }
}

impl QueuePair {
    pub(super) fn new(number: u16, submission: Page, completion: Page) -> Self {
        Self {
            number,
            submission,
            completion,
            tail: 0,
            head: 0,
            phase: 1,
            identifier: 0,
        }
    }

    pub(super) fn submission_ioba(&self) -> u64 {
        self.submission.ioba
    }

    pub(super) fn completion_ioba(&self) -> u64 {
        self.completion.ioba
    }

    /// Makes the queues as those of a controller that has just been told of them.
    pub(super) fn clear(&mut self) {
        self.submission.memory.fill(|_| 0);
        self.completion.memory.fill(|_| 0);
        (self.tail, self.head, self.phase) = (0, 0, 1);
    }

    /// Submits a command and waits for its completion.
    pub(super) fn make(
        &mut self,
        registers: &Registers,
        clock: Clock,
        command: Command,
        limit_ns: u64,
    ) -> Result<(), NvmeError> {
        self.identifier = self.identifier.wrapping_add(1);
        let words = command.submission(self.identifier);
        for (index, word) in (self.tail * SUBMISSION_WORDS..).zip(words) {
            self.submission.memory.write(index, word);
        }
        self.tail = (self.tail + 1) % ENTRIES;
        registers.ring_submission(self.number, self.tail);
        let completion = self.wait(registers, clock, limit_ns)?;
        if completion.identifier != u64::from(self.identifier) {
            rtas::stop_with("a completion is not that of the command");
        }
        match completion.status {
            0 => Ok(()),
            status => Err(NvmeError::Status(status)),
        }
    }

    /// Takes the next completion.
    fn wait(
        &mut self,
        registers: &Registers,
        clock: Clock,
        limit_ns: u64,
    ) -> Result<Completion, NvmeError> {
        let started = clock.now();
        let index = self.head * COMPLETION_WORDS + 1;
        loop {
            let completion = Completion::of(self.completion.memory.read(index));
            if completion.phase == self.phase {
                // What the controller wrote before the completion is read after it.
                core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
                self.head = (self.head + 1) % ENTRIES;
                self.phase ^= u64::from(self.head == 0);
                registers.ring_completion(self.number, self.head);
                return Ok(completion);
            }
            let status = registers.status();
            if status.is_gone() {
                return Err(NvmeError::Gone);
            }
            if status.is_fatal() {
                return Err(NvmeError::Fatal);
            }
            if clock.nanoseconds(clock.now() - started) > limit_ns {
                return Err(NvmeError::NoAnswer);
            }
        }
    }
}
