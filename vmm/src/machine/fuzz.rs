//! Machines on a KVM that is none, and what a guest on their first processor does, as a fuzzer's bytes have it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use clap::Parser;
use spapr_devices::rtas::SERVICES;
use spapr_hypercalls::abi;
use spapr_kvm::fake::{self, Does};
use vm_memory::{Be32, Be64, Bytes, GuestAddress};

use super::host::Host;
use super::{Kept, Machine, MachineError, RunningMachine};
use crate::boot::kernel::samples;
use crate::cli::{Command, CommandLine};
use crate::console::{Console, Terminal};
use crate::partition::lasting::Lasting;
use crate::partition::processor_threads::ProcessorThreads;
use crate::spec::MachineDescription;
use crate::stats::Statistics;

/// What a guest does in one run at the most.
const MOST_STEPS: usize = 48;
/// How long a run may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where arguments of RTAS calls, lists and areas are put.
const SCRATCH: u64 = 0x200_0000;
/// Doublewords of it that are filled.
const SCRATCH_DOUBLEWORDS: u64 = 64;
/// The machine's RAM.
const RAM_BYTES: u64 = 128 << 20;
/// The first host bridge's unit ID, LIOBN and memory windows, as the machine numbers them.
const BUID: u64 = 0x0800_0000_2000_0000;
const LIOBN: u64 = 0x8000_0000;
const MEMORY_WINDOWS: [u64; 2] = [0x2000_8000_0000, 0x2100_0000_0000];

/// The hypercalls that there are in this program, and one that there is not.
const CALLS: [u64; 26] = [
    abi::H_PUT_TCE,
    abi::H_GET_TCE,
    abi::H_PUT_TCE_INDIRECT,
    abi::H_STUFF_TCE,
    abi::H_PUT_TERM_CHAR,
    abi::H_GET_TERM_CHAR,
    abi::H_SET_MODE,
    abi::H_REGISTER_VPA,
    abi::H_REGISTER_PROC_TBL,
    abi::H_GET_CPU_CHARACTERISTICS,
    abi::H_SIGNAL_SYS_RESET,
    abi::H_SET_SPRG0,
    abi::KVMPPC_H_RTAS,
    abi::H_INT_GET_SOURCE_INFO,
    abi::H_INT_SET_SOURCE_CONFIG,
    abi::H_INT_GET_SOURCE_CONFIG,
    abi::H_INT_GET_QUEUE_INFO,
    abi::H_INT_SET_QUEUE_CONFIG,
    abi::H_INT_GET_QUEUE_CONFIG,
    abi::H_INT_SET_OS_REPORTING_LINE,
    abi::H_INT_GET_OS_REPORTING_LINE,
    abi::H_INT_ESB,
    abi::H_INT_SYNC,
    abi::H_INT_RESET,
    abi::KVMPPC_H_RTAS,
    0x7ffc,
];

/// A folder with what machines are made from: a kernel, and the node of a host's processor.
pub struct Folder(PathBuf);

impl Folder {
    /// Fills `folder`, which is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn fill(folder: &Path) -> io::Result<Self> {
        let folder = Self(folder.to_owned());
        fs::write(folder.kernel(), samples::kernel())?;
        fs::create_dir_all(folder.processor())?;
        folder.describe("timebase-frequency", &512_000_000u32.to_be_bytes())?;
        Ok(folder)
    }

    fn kernel(&self) -> PathBuf {
        self.0.join("vmlinux")
    }

    fn processor(&self) -> PathBuf {
        self.0.join("cpus/PowerPC,POWER9@0")
    }

    fn describe(&self, property: &str, value: &[u8]) -> io::Result<()> {
        fs::write(self.processor().join(property), value)
    }

    /// A machine with two processors, a device behind a host bridge, and no more memory than it must have.
    fn description(&self) -> MachineDescription {
        let kernel = self.kernel().into_os_string();
        let words = [
            "spapr-vmm",
            "run",
            "--memory",
            "128M",
            "--cpus",
            "2",
            "--rng",
        ];
        let more = ["--iommu-platform", "--kernel"];
        let typed = words
            .into_iter()
            .chain(more)
            .map(Into::into)
            .chain([kernel]);
        match CommandLine::try_parse_from(typed).map(|line| line.command) {
            Ok(Command::Run(arguments)) => MachineDescription::from(&*arguments),
            other => panic!("not what was typed: {other:?}"),
        }
    }

    fn make(
        &self,
        host: &fake::Host,
        description: &MachineDescription,
        lasting: &Lasting,
    ) -> std::result::Result<Machine, MachineError> {
        let open = || Ok(host.kvm());
        let cpus = self.0.join("cpus");
        let host = Host {
            open: &open,
            cpus: &cpus,
        };
        Machine::on(&host, description, lasting, Kept::default())
    }
}

/// Makes a machine on a host that describes its processors by `bytes`: a word each for what Linux shows as files, of
/// which some are missing or have another length.
///
/// # Panics
/// When a machine that cannot be made leaves something behind, or is refused for another reason than the processor's.
pub fn host_device_tree(folder: &Folder, bytes: &[u8]) {
    const PROPERTIES: [&str; 8] = [
        "timebase-frequency",
        "clock-frequency",
        "cpu-version",
        "ibm,dec-bits",
        "d-cache-size",
        "d-cache-block-size",
        "i-cache-size",
        "i-cache-block-size",
    ];
    let mut input = Unstructured::new(bytes);
    for property in PROPERTIES {
        let length = match input.ratio(1, 16).unwrap_or_default() {
            true => input.int_in_range(0..=9).unwrap_or_default(),
            false => 4,
        };
        let value = match input.bytes(length) {
            Ok(value) => value.to_vec(),
            Err(_) => 0x0200_0000u32.to_be_bytes().to_vec(),
        };
        let is_there = property == PROPERTIES[0] || !input.ratio(1, 8).unwrap_or_default();
        match is_there {
            true => folder.describe(property, &value).expect("room"),
            // It may be missing already.
            false => drop(fs::remove_file(folder.processor().join(property))),
        }
    }
    let host = fake::Host::new();
    let description = folder.description();
    let lasting = Lasting::new(&description).expect("random bytes");
    match folder.make(&host, &description, &lasting) {
        Ok(machine) => drop(machine),
        Err(MachineError::Processor(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(host.alive(), []);
}

/// Has the guest of a machine make the hypercalls and accesses that `bytes` are read as.
///
/// # Panics
/// When the run hangs, a processor fails, or something is left behind.
pub fn guest(folder: &Folder, bytes: &[u8]) {
    let host = fake::Host::new();
    let description = folder.description();
    let lasting = Lasting::new(&description).expect("random bytes");
    let machine = folder.make(&host, &description, &lasting);
    let machine = machine.expect("nothing is refused");
    let console = Console::with(io::sink(), None, "nowhere".to_owned());
    let mut console = console.expect("a console");
    let terminal = Terminal::start(&mut console, description.vty).expect("a terminal");
    let threads = ProcessorThreads::spawn(description.cpus, None).expect("threads");
    let running = machine.start(&terminal, &lasting, &Arc::new(threads), false);
    let running = running.expect("it starts");
    let mut input = Unstructured::new(bytes);
    let steps = steps(&mut input).unwrap_or_default();
    // Zeros where the bytes have ended.
    let _ = fill_scratch(&mut input, &running);
    for what in steps {
        host.guest(0).make(what);
    }
    wait(&running, &host.guest(0));
    let (_, released) = running.stop(Instant::now(), &mut Statistics::default());
    released.expect("nothing stands in the way");
    assert_eq!(host.alive(), []);
}

/// Waits until the guest has done what it was told, or cannot.
fn wait(running: &RunningMachine, guest: &fake::Guest) {
    let end = Instant::now() + PATIENCE;
    let processors = &running.partition.processors;
    while !guest.is_idle() && running.lifecycle().ended().is_none() {
        if processors.is_stopped(0) == Some(true) {
            return;
        }
        assert!(Instant::now() < end, "it hangs");
        thread::sleep(Duration::from_micros(50));
    }
}

/// Fills memory with an argument block of RTAS, and what it may point to.
fn fill_scratch(input: &mut Unstructured<'_>, running: &RunningMachine) -> Result<()> {
    let memory = running.partition.ram.mmap();
    for place in 0..SCRATCH_DOUBLEWORDS {
        let word = Be64::from(match input.ratio(1, 4)? {
            true => input.arbitrary()?,
            false => input.int_in_range(0..=RAM_BYTES >> 12)? << 12 | 3,
        });
        let place = GuestAddress(SCRATCH + 8 * place);
        memory.write_obj(word, place).expect("RAM");
    }
    // The first page begins with a call; what else is there can be one, too.
    let service = SERVICES[input.choose_index(SERVICES.len())?];
    let [high, low] = [BUID >> 32, BUID & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0));
    let first: u32 = input.int_in_range(0..=8)?;
    let second = *input.choose(&[high, low, 0, 1])?;
    let words = [
        service.token,
        6,
        9,
        first << 11,
        high,
        low,
        second,
        4,
        first,
    ];
    for (place, word) in (SCRATCH..).step_by(4).zip(words) {
        let word = Be32::from(word);
        memory.write_obj(word, GuestAddress(place)).expect("RAM");
    }
    Ok(())
}

/// What the guest does: before what memory holds, so that few bytes do something.
fn steps(input: &mut Unstructured<'_>) -> Result<Vec<Does>> {
    let count = input.int_in_range(0..=MOST_STEPS)?;
    (0..count).map(|_| step(input)).collect()
}

fn step(input: &mut Unstructured<'_>) -> Result<Does> {
    Ok(match input.int_in_range(0..=15u8)? {
        0 => Does::Read {
            address: place(input)?,
            bytes: *input.choose(&[1, 2, 4, 8])?,
        },
        1 | 2 => Does::Write {
            address: place(input)?,
            data: argument(input)?,
        },
        _ => {
            let nr = match input.ratio(1, 32)? {
                true => input.arbitrary()?,
                false => *input.choose(&CALLS)?,
            };
            let mut args = [0; 9];
            for argument_ in &mut args[..6] {
                *argument_ = argument(input)?;
            }
            if nr == abi::KVMPPC_H_RTAS {
                args[0] = SCRATCH + 4 * input.int_in_range(0..=4u64)?;
            }
            Does::Hypercall { nr, args }
        }
    })
}

/// Where there may be a device.
fn place(input: &mut Unstructured<'_>) -> Result<u64> {
    match input.ratio(1, 8)? {
        true => input.arbitrary(),
        false => Ok(input.choose(&MEMORY_WINDOWS)? + input.int_in_range(0..=0x2_0000u64)?),
    }
}

fn argument(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=9u8)? {
        0..=2 => input.int_in_range(0..=8)?,
        3 | 4 => LIOBN,
        5 => input.int_in_range(0..=0x40_0000u64)? << 12 | input.int_in_range(0..=3u64)?,
        6 => SCRATCH + 8 * input.int_in_range(0..=SCRATCH_DOUBLEWORDS)?,
        7 => *input.choose(&[
            16,
            0x1000,
            0x1100,
            0x1200,
            0x1300,
            1 << 45,
            3 << 45,
            5 << 45,
            0x1d,
        ])?,
        8 => 1 << input.int_in_range(0..=63u32)?,
        _ => input.arbitrary()?,
    })
}
