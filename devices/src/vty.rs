//! The virtual terminal (vty) that a guest reaches by H_PUT_TERM_CHAR and H_GET_TERM_CHAR
//! (PAPR "Virtual Terminal (Vterm)", 16.6).

use std::collections::VecDeque;
use std::io;

use parking_lot::Mutex;
use spapr_hypercalls::abi::{Arguments, ReturnCode};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Unit address of the default vty, as QEMU numbers it (`/vdevice/vty@71000000`).
pub const DEFAULT_UNIT_ADDRESS: u32 = 0x7100_0000;

/// Bytes that one hypercall moves: two doublewords.
const MAX_CHUNK: usize = 16;
/// Input that waits for the guest at most, in bytes.
const INPUT_CAPACITY: usize = 4096;

/// What became of bytes offered to a [`ConsoleSink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkStatus {
    /// All were taken.
    Accepted,
    /// None was taken; the reader at the other end is behind.
    Busy,
}

/// Where the guest's console output goes.
pub trait ConsoleSink: Send + Sync {
    /// Takes all of `bytes` or nothing, at once: it is called on a vCPU's thread and must never
    /// wait for a reader. A sink that has failed for good takes everything and drops it.
    fn try_write(&self, bytes: &[u8]) -> SinkStatus;
}

/// One virtual terminal.
///
/// Its only lock guards the input queue and is held for a copy of some bytes, never across
/// input or output.
pub struct Vty<S> {
    unit_address: u32,
    sink: S,
    input: Mutex<VecDeque<u8>>,
    interrupt: EventFd,
    room: EventFd,
}

impl<S: ConsoleSink> Vty<S> {
    /// A terminal at `unit_address` (the `reg` of its node in the device tree).
    ///
    /// # Errors
    /// That of eventfd(2).
    pub fn new(unit_address: u32, sink: S) -> io::Result<Self> {
        Ok(Self {
            unit_address,
            sink,
            input: Mutex::new(VecDeque::with_capacity(INPUT_CAPACITY)),
            interrupt: EventFd::new(EFD_NONBLOCK)?,
            room: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// The `reg` of the terminal's node in the device tree.
    pub const fn unit_address(&self) -> u32 {
        self.unit_address
    }

    /// Signalled when there is input for the guest; the machine connects it to the terminal's
    /// interrupt source.
    pub const fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Signalled when a queue that had refused input has room again.
    pub const fn room(&self) -> &EventFd {
        &self.room
    }

    /// Queues input for the guest and interrupts it. Returns how many bytes were taken: all, or
    /// as many as there was room for; the caller offers the rest again after [`Vty::room`].
    pub fn queue_input(&self, bytes: &[u8]) -> usize {
        let mut input = self.input.lock();
        let taken = bytes.len().min(INPUT_CAPACITY - input.len());
        input.extend(&bytes[..taken]);
        drop(input);
        if taken > 0 {
            signal(&self.interrupt);
        }
        taken
    }

    /// Output that does not come by hypercall (RTAS display-character).
    pub fn write(&self, bytes: &[u8]) -> SinkStatus {
        self.sink.try_write(bytes)
    }

    /// H_PUT_TERM_CHAR: unit address, length up to 16, and the bytes in two doublewords, most
    /// significant byte first. H_BUSY when the sink is full: the guest tries again.
    #[inline(never)]
    pub fn put_term_char(&self, arguments: &Arguments) -> ReturnCode {
        if !self.answers_to(arguments[0]) {
            return ReturnCode::PARAMETER;
        }
        let Ok(length @ 0..=MAX_CHUNK) = usize::try_from(arguments[1]) else {
            return ReturnCode::PARAMETER;
        };
        let mut bytes = [0; MAX_CHUNK];
        bytes[..8].copy_from_slice(&arguments[2].to_be_bytes());
        bytes[8..].copy_from_slice(&arguments[3].to_be_bytes());
        if length == 0 {
            return ReturnCode::SUCCESS;
        }
        match self.sink.try_write(&bytes[..length]) {
            SinkStatus::Accepted => ReturnCode::SUCCESS,
            SinkStatus::Busy => ReturnCode::BUSY,
        }
    }

    /// H_GET_TERM_CHAR: unit address in; length and up to 16 bytes in two doublewords out. A
    /// length of 0 says that there is no input.
    #[inline(never)]
    pub fn get_term_char(&self, arguments: &mut Arguments) -> ReturnCode {
        if !self.answers_to(arguments[0]) {
            return ReturnCode::PARAMETER;
        }
        let mut bytes = [0; MAX_CHUNK];
        let mut input = self.input.lock();
        let was_full = input.len() == INPUT_CAPACITY;
        let available = input.len().min(MAX_CHUNK);
        let mut length = 0u64;
        for (byte, queued) in bytes.iter_mut().zip(input.drain(..available)) {
            *byte = queued;
            length += 1;
        }
        drop(input);
        if was_full {
            signal(&self.room);
        }
        let value = u128::from_be_bytes(bytes);
        arguments[0] = length;
        arguments[1] = u64::try_from(value >> 64).unwrap_or_default();
        arguments[2] = u64::try_from(value & u128::from(u64::MAX)).unwrap_or_default();
        ReturnCode::SUCCESS
    }

    /// Unit address 0 means the default terminal, as in QEMU (`vty_lookup`): kvm-unit-tests use it.
    const fn answers_to(&self, unit_address: u64) -> bool {
        unit_address == 0 || unit_address == self.unit_address as u64
    }
}

/// A counter of 2^64-2 unread signals is the only failure, and it means that one is pending.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Recorder {
        written: Mutex<Vec<u8>>,
        full: std::sync::atomic::AtomicBool,
    }

    impl ConsoleSink for Recorder {
        fn try_write(&self, bytes: &[u8]) -> SinkStatus {
            if self.full.load(std::sync::atomic::Ordering::Relaxed) {
                return SinkStatus::Busy;
            }
            self.written.lock().extend(bytes);
            SinkStatus::Accepted
        }
    }

    fn vty() -> Vty<Recorder> {
        Vty::new(DEFAULT_UNIT_ADDRESS, Recorder::default()).unwrap()
    }

    fn put(reg: u64, length: u64, text: [u8; 16]) -> Arguments {
        let mut arguments = [0; 9];
        arguments[0] = reg;
        arguments[1] = length;
        arguments[2] = u64::from_be_bytes(text[..8].try_into().unwrap());
        arguments[3] = u64::from_be_bytes(text[8..].try_into().unwrap());
        arguments
    }

    #[test]
    fn output_comes_out_in_order_on_both_names_of_the_terminal() {
        let vty = vty();
        assert_eq!(
            vty.put_term_char(&put(0, 16, *b"Hello, pseries! ")),
            ReturnCode::SUCCESS
        );
        assert_eq!(
            vty.put_term_char(&put(0x7100_0000, 3, *b"yesXXXXXXXXXXXXX")),
            ReturnCode::SUCCESS
        );
        assert_eq!(vty.sink.written.lock().as_slice(), b"Hello, pseries! yes");
    }

    #[test]
    fn a_stuck_reader_makes_the_guest_retry() {
        let vty = vty();
        vty.sink
            .full
            .store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(vty.put_term_char(&put(0, 1, [b'x'; 16])), ReturnCode::BUSY);
        assert_eq!(
            vty.put_term_char(&put(0, 0, [b'x'; 16])),
            ReturnCode::SUCCESS
        );
        assert!(vty.sink.written.lock().is_empty());
    }

    #[test]
    fn other_terminals_and_long_lengths_are_refused() {
        let vty = vty();
        assert_eq!(
            vty.put_term_char(&put(1, 1, [0; 16])),
            ReturnCode::PARAMETER
        );
        assert_eq!(
            vty.put_term_char(&put(0, 17, [0; 16])),
            ReturnCode::PARAMETER
        );
        assert_eq!(
            vty.put_term_char(&put(0, u64::MAX, [0; 16])),
            ReturnCode::PARAMETER
        );
        assert_eq!(
            vty.put_term_char(&put(0x1_7100_0000, 1, [0; 16])),
            ReturnCode::PARAMETER
        );
        let mut arguments = [7; 9];
        assert_eq!(vty.get_term_char(&mut arguments), ReturnCode::PARAMETER);
        assert_eq!(arguments, [7; 9]);
    }

    #[test]
    fn input_interrupts_and_a_full_queue_tells_when_it_has_room() {
        let vty = vty();
        assert_eq!(vty.queue_input(&[b'a'; 5000]), INPUT_CAPACITY);
        assert_eq!(vty.interrupt().read().unwrap(), 1);
        assert_eq!(vty.queue_input(b"b"), 0);
        assert!(vty.interrupt().read().is_err());
        assert!(vty.room().read().is_err());
        let mut arguments = [0; 9];
        assert_eq!(vty.get_term_char(&mut arguments), ReturnCode::SUCCESS);
        assert_eq!(arguments[0], 16);
        assert_eq!(vty.room().read().unwrap(), 1);
        assert_eq!(vty.queue_input(&[b'b'; 32]), 16);
    }

    proptest! {
        #[test]
        fn every_byte_of_input_reaches_the_guest_once(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)
        ) {
            let vty = vty();
            let mut got: Vec<u8> = Vec::new();
            for chunk in &chunks {
                prop_assert_eq!(vty.queue_input(chunk), chunk.len());
            }
            loop {
                let mut arguments = [0; 9];
                prop_assert_eq!(vty.get_term_char(&mut arguments), ReturnCode::SUCCESS);
                if arguments[0] == 0 {
                    break;
                }
                let bytes = [arguments[1].to_be_bytes(), arguments[2].to_be_bytes()].concat();
                got.extend(&bytes[..usize::try_from(arguments[0]).unwrap()]);
            }
            prop_assert_eq!(got, chunks.concat());
        }

        #[test]
        fn no_arguments_write_more_than_sixteen_bytes(arguments in any::<[u64; 9]>()) {
            let vty = vty();
            vty.put_term_char(&arguments);
            prop_assert!(vty.sink.written.lock().len() <= 16);
        }
    }
}
