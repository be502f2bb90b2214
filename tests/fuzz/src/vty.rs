//! The guest's terminal, beside a queue of bytes.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::{Result, Unstructured};
use spapr_devices::vty::{ConsoleSink, DEFAULT_UNIT_ADDRESS, SinkStatus, Vty};
use spapr_hypercalls::abi::{Arguments, ReturnCode};

/// Bytes of input that the terminal keeps.
const CAPACITY: usize = 4096;

#[derive(Default)]
struct Sink {
    written: Mutex<Vec<u8>>,
    busy: AtomicBool,
}

impl ConsoleSink for &Sink {
    fn try_write(&self, bytes: &[u8]) -> SinkStatus {
        if self.busy.load(Ordering::Relaxed) {
            return SinkStatus::Busy;
        }
        let mut written = self.written.lock().expect("nobody panicked");
        written.extend(bytes);
        SinkStatus::Accepted
    }
}

/// Input comes, and a guest reads and writes. All that is taken arrives once and in order.
pub(crate) fn terminal(bytes: &[u8]) {
    let sink = Sink::default();
    let vty = Vty::new(DEFAULT_UNIT_ADDRESS, &sink).expect("descriptors");
    let mut waiting = VecDeque::new();
    let mut input = Unstructured::new(bytes);
    while !input.is_empty() && step(&mut input, &vty, &sink, &mut waiting).is_ok() {}
}

fn step(
    input: &mut Unstructured<'_>,
    vty: &Vty<&Sink>,
    sink: &Sink,
    waiting: &mut VecDeque<u8>,
) -> Result<()> {
    sink.busy.store(input.ratio(1, 8)?, Ordering::Relaxed);
    let unit: u64 = match input.ratio(1, 8)? {
        true => input.arbitrary()?,
        false => *input.choose(&[0, u64::from(DEFAULT_UNIT_ADDRESS)])?,
    };
    let mut args: Arguments = [unit, 0, 0, 0, 0, 0, 0, 0, 0];
    match input.int_in_range(0..=3u8)? {
        0 => {
            let byte: u8 = input.arbitrary()?;
            let come = vec![byte; input.int_in_range(0..=5000)?];
            let taken = vty.queue_input(&come);
            assert_eq!(taken, come.len().min(CAPACITY - waiting.len()));
            waiting.extend(&come[..taken]);
        }
        1 => {
            let code = vty.get_term_char(&mut args);
            if code == ReturnCode::SUCCESS {
                let count = usize::try_from(args[0]).expect("at most 16");
                let got = [args[1].to_be_bytes(), args[2].to_be_bytes()].concat();
                let expected: Vec<u8> = waiting.drain(..waiting.len().min(16)).collect();
                assert_eq!(&got[..count], expected);
            }
        }
        _ => {
            args[1] = match input.ratio(1, 8)? {
                true => input.arbitrary()?,
                false => input.int_in_range(0..=17)?,
            };
            (args[2], args[3]) = (input.arbitrary()?, input.arbitrary()?);
            let before = sink.written.lock().expect("nobody panicked").len();
            let code = vty.put_term_char(&args);
            let after = sink.written.lock().expect("nobody panicked").len();
            let grown = (after - before) as u64;
            assert!(grown <= 16 && (grown == 0 || grown == args[1]));
            assert!(grown == 0 || code == ReturnCode::SUCCESS);
        }
    }
    Ok(())
}
