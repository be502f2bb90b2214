//! The process that is killed.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use spapr_devices::dma::DmaMemory;
use spapr_devices::image::{
    Backing, Completion, Engine, EngineOptions, Format, Image, ImageOptions, Operation,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::model::{DISK_BYTES, SECTOR_BYTES, Step, sector};

/// Operations under way at most, each with memory of its own.
const SLOTS: usize = 8;
const SLOT_BYTES: usize = 1 << 20;

/// What it writes to, and how.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) image: PathBuf,
    pub(crate) format: String,
    /// The number of the first operation.
    pub(crate) first: u64,
    /// By io_uring, where there is one.
    pub(crate) by_ring: bool,
    /// It ends by itself after so many.
    pub(crate) operations: Option<u64>,
}

impl Means {
    /// Has `command` know them.
    pub(crate) fn give(&self, command: &mut Command) {
        let operations = self
            .operations
            .map_or(String::new(), |count| count.to_string());
        command
            .env("KILLED_IMAGE", &self.image)
            .env("KILLED_FORMAT", &self.format)
            .env("KILLED_FIRST", self.first.to_string())
            .env("KILLED_BY_RING", self.by_ring.to_string())
            .env("KILLED_OPERATIONS", operations);
    }

    /// Those that this process was given, if it is one.
    pub(crate) fn of_environment() -> Option<Self> {
        let text = |name: &str| env::var(name).expect("given with the image");
        Some(Self {
            image: env::var_os("KILLED_IMAGE")?.into(),
            format: text("KILLED_FORMAT"),
            first: text("KILLED_FIRST").parse().expect("a number"),
            by_ring: text("KILLED_BY_RING") == "true",
            operations: text("KILLED_OPERATIONS").parse().ok(),
        })
    }
}

/// The number of the operation up to which all is flushed, as a line says it.
pub(crate) fn flushed_line(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("flushed up to ")?;
    rest.strip_suffix('.')?.parse().ok()
}

fn open(image: &Path, format: &str, read_only: bool, by_ring: bool) -> (Engine, GuestMemoryMmap) {
    let options = ImageOptions {
        format: Some(match format {
            "raw" => Format::Raw,
            _ => Format::Qcow2,
        }),
        read_only,
        backing: Backing::OfHeader,
        ..ImageOptions::new(image.to_owned())
    };
    // The one that was killed may not be quite gone.
    let image = (0..1000)
        .find_map(|_| {
            let opened = Image::open(options.clone());
            if opened.is_err() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            opened.ok()
        })
        .expect("it cannot be opened");
    let ranges = [(GuestAddress(0), SLOTS * SLOT_BYTES)];
    let ram = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
    let memory = DmaMemory::by_guest_address(ram.clone());
    let options = EngineOptions {
        slots: SLOTS,
        event: Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor")),
        uses_ring: by_ring,
        prepare_thread: || Ok(()),
    };
    let engine = Engine::new(Arc::new(image), memory, options).expect("an engine");
    (engine, ram)
}

/// Waits until at most `left` operations are under way; takes the slots of the others.
fn wait(engine: &mut Engine, left: usize, free: &mut Vec<usize>) {
    let mut done = Vec::new();
    loop {
        engine.collect(&mut done).expect("it cannot tell");
        for Completion { slot, result } in done.drain(..) {
            result
                .map_err(|failure| failure.error)
                .expect("an operation failed");
            free.push(slot);
        }
        if engine.in_flight() <= left {
            return;
        }
        let mut polled = libc::pollfd {
            fd: engine.event().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer is to one structure.
        let ready = unsafe { libc::poll(&raw mut polled, 1, 20_000) };
        assert_eq!(ready, 1, "nothing is done");
        engine.event().read().expect("it was signalled");
    }
}

/// Writes until it is killed, or has done its operations.
pub(crate) fn run(means: &Means) {
    let (mut engine, ram) = open(&means.image, &means.format, false, means.by_ring);
    let mut free: Vec<usize> = (0..SLOTS).collect();
    let mut under_way: Vec<std::ops::Range<u64>> = Vec::new();
    let last = means.operations.map(|count| means.first + count);
    for number in means.first.. {
        let is_last = last.is_some_and(|last| number >= last);
        let step = Step::of(number);
        let sectors = step.sectors();
        let overlap =
            |other: &std::ops::Range<u64>| other.start < sectors.end && sectors.start < other.end;
        // What is under way at once may be done in any order.
        if step == Step::Flush || free.is_empty() || under_way.iter().any(overlap) {
            wait(&mut engine, 0, &mut free);
            under_way.clear();
        }
        let slot = free.pop().expect("one is free");
        let (offset, bytes) = (sectors.start * 512, (sectors.end - sectors.start) * 512);
        let at = (slot * SLOT_BYTES) as u64;
        // Every third write lasts without a flush, though nobody counts on it.
        let durable = number.is_multiple_of(3);
        let operation = match step {
            Step::Write { .. } => Operation::Write { durable },
            Step::Zero { .. } => Operation::Zero {
                unmaps: number.is_multiple_of(2),
                durable,
            },
            Step::Discard { .. } => Operation::Discard,
            Step::Flush => Operation::Flush,
        };
        let mut ranges = Vec::new();
        if let Step::Write { .. } = step {
            for (place, sector_number) in sectors.clone().enumerate() {
                let address = GuestAddress(at + (place * SECTOR_BYTES) as u64);
                let data = sector(number, sector_number);
                ram.write_slice(&data, address).expect("memory");
            }
            ranges.push((GuestAddress(at), usize::try_from(bytes).expect("small")));
        }
        let given = engine.give(slot, operation, offset, bytes, ranges.into_iter());
        given.expect("memory of ours");
        engine.start().expect("a ring");
        under_way.push(sectors);
        if step == Step::Flush {
            wait(&mut engine, 0, &mut free);
            under_way.clear();
            // Whole, or not at all.
            let line = format!("flushed up to {number}.\n");
            io::stdout()
                .lock()
                .write_all(line.as_bytes())
                .expect("a reader");
            io::stdout().flush().expect("a reader");
            if is_last {
                return;
            }
        }
    }
}

/// The disk's bytes.
pub(crate) fn read_all(means: &Means) -> Vec<u8> {
    let (mut engine, ram) = open(&means.image, &means.format, true, false);
    let mut free: Vec<usize> = (0..SLOTS).collect();
    let mut all = Vec::new();
    while (all.len() as u64) < DISK_BYTES {
        let slot = free.pop().expect("one is free");
        let ranges = [(GuestAddress(0), SLOT_BYTES)].into_iter();
        let (offset, bytes) = (all.len() as u64, SLOT_BYTES as u64);
        let given = engine.give(slot, Operation::Read, offset, bytes, ranges);
        given.expect("memory of ours");
        engine.start().expect("a ring");
        wait(&mut engine, 0, &mut free);
        let mut piece = vec![0; SLOT_BYTES];
        ram.read_slice(&mut piece, GuestAddress(0)).expect("memory");
        all.extend(piece);
    }
    all
}
