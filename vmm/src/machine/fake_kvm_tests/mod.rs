//! Machines on a KVM without a kernel: how they are made and given back, and what their processors do about
//! what a guest does.

mod making;
mod processor;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use spapr_kvm::fake;
use spapr_kvm::fake::{Answer, Does, Guest};
use tempfile::TempDir;

use super::host::Host;
use super::{Kept, Machine, MachineError, RunningMachine};
use crate::boot::kernel::samples;
use crate::cli::{Command, CommandLine};
use crate::console::{Console, Terminal};
use crate::lifecycle::End;
use crate::partition::Partition;
use crate::partition::lasting::Lasting;
use crate::partition::processor_threads::ProcessorThreads;
use crate::spec::MachineDescription;
use crate::stats::Statistics;

/// A host, and a machine to be made on it.
struct Bench {
    host: fake::Host,
    description: MachineDescription,
    folder: TempDir,
}

impl Bench {
    /// Of a machine with two processors and 128 MiB, without devices.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = folder.path().join("vmlinux");
        fs::write(&kernel, samples::kernel()).expect("a kernel");
        let cpu = folder.path().join("PowerPC,POWER9@0");
        fs::create_dir(&cpu).expect("a folder");
        fs::write(cpu.join("timebase-frequency"), 512_000_000u32.to_be_bytes()).expect("a file");
        let kernel = kernel.to_str().expect("a path of ours");
        let typed = ["spapr-vmm", "run", "--kernel", kernel];
        let rest = ["--memory", "128M", "--cpus", "2"];
        let read = CommandLine::try_parse_from(typed.iter().chain(&rest));
        let Command::Run(arguments) = read.expect("a command").command else {
            panic!("not what was typed");
        };
        Self {
            host: fake::Host::new(),
            description: MachineDescription::from(&*arguments),
            folder,
        }
    }

    fn lasting(&self) -> Lasting {
        Lasting::new(&self.description).expect("random bytes")
    }

    fn make(&self) -> Result<Machine, MachineError> {
        let open = || Ok(self.host.kvm());
        let host = Host {
            open: &open,
            cpus: self.folder.path(),
        };
        Machine::on(&host, &self.description, &self.lasting(), Kept::default())
    }

    /// Starts the machine, and waits until its first processor is in the guest.
    fn start(&self) -> Run {
        let run = self.start_paused(false);
        assert!(run.guest(0).is_done(), "it is not in the guest");
        run
    }

    fn start_paused(&self, paused: bool) -> Run {
        let machine = self.make().expect("a machine");
        let mut console =
            Console::with(std::io::sink(), None, "nowhere".to_owned()).expect("a console");
        let terminal = Terminal::start(&mut console, self.description.vty).expect("a terminal");
        let threads = ProcessorThreads::spawn(self.description.cpus, None).expect("threads");
        let running = machine.start(&terminal, &self.lasting(), &Arc::new(threads), paused);
        Run {
            running: running.expect("it starts"),
            host: self.host.clone(),
            _terminal: terminal,
            _console: console,
        }
    }
}

/// A machine that runs.
struct Run {
    running: RunningMachine,
    host: fake::Host,
    _terminal: Terminal,
    _console: Console,
}

impl Run {
    fn guest(&self, server: u32) -> Guest {
        self.host.guest(server)
    }

    fn partition(&self) -> &Arc<Partition> {
        &self.running.partition
    }

    /// Has processor `server` make a call, and returns r3 and r4 to r12 after it.
    fn call(&self, server: u32, nr: u64, args: &[u64]) -> (i64, [u64; 9]) {
        let guest = self.guest(server);
        let answers = guest.answers().len();
        let mut all = [0; 9];
        all[..args.len()].copy_from_slice(args);
        guest.make(Does::Hypercall { nr, args: all });
        assert!(guest.is_done(), "{:?}", self.running.lifecycle().ended());
        match guest.answers().get(answers..) {
            Some([Answer::Hypercall { ret, args, .. }]) => (ret.cast_signed(), *args),
            other => panic!("{other:?}"),
        }
    }

    /// How the run ended, which it must soon.
    fn end(&self) -> End {
        let patience = Instant::now() + Duration::from_secs(30);
        while Instant::now() < patience {
            if let Some(end) = self.running.lifecycle().ended() {
                return end;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("the run does not end");
    }

    /// Stops it. What was counted.
    fn stop(self) -> Statistics {
        let mut statistics = Statistics::default();
        let (_, released) = self.running.stop(Instant::now(), &mut statistics);
        released.expect("nothing stands in the way");
        statistics
    }
}

/// A file of this name in the bench's folder is no processor any more.
fn forget_processors(folder: &Path) {
    fs::remove_dir_all(folder.join("PowerPC,POWER9@0")).expect("it was there");
}
