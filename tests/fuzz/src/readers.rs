//! Targets that read what users, libvirt and makers of kernels write.

use std::ffi::OsString;
use std::io::Write;
use std::sync::OnceLock;

use clap::{CommandFactory, Parser};
use spapr_vmm::boot::files::BootFile;
use spapr_vmm::boot::kernel::Kernel;
use spapr_vmm::boot::layout::{Layout, room_for_kernel};
use spapr_vmm::cli::config::{self, Asked, ConfigError};
use spapr_vmm::cli::{Command, CommandLine};
use spapr_vmm::memory::{Backing, GuestRam, LEAST_BYTES};
use spapr_vmm::qemu::command_line;
use spapr_vmm::spec::{ByteSize, MachineDescription};

/// Unpacked bytes that a kernel may have here: a bomb is to be stopped in no time.
const KERNEL_MOST_BYTES: u64 = 1 << 20;

/// Loads a kernel; what is loaded must be in memory, below what else is there.
pub(crate) fn kernel(bytes: &[u8]) {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    // What earlier kernels left in it is nothing to the next one.
    let ram = RAM
        .get_or_init(|| GuestRam::new(ByteSize(LEAST_BYTES), Backing::Anonymous).expect("memory"));
    let layout = Layout::for_memory(ram.bytes());
    let mut file = tempfile::NamedTempFile::new().expect("room for a file");
    file.write_all(bytes).expect("room for a file");
    let opened = BootFile::open(file.path()).expect("it is there");
    let most = room_for_kernel(ram.bytes()).min(KERNEL_MOST_BYTES);
    if let Ok(loaded) = Kernel::of(&opened, most).and_then(|kernel| kernel.load(ram, &layout)) {
        assert!(loaded.end <= layout.device_tree, "{loaded:?}");
        assert!(loaded.entry < loaded.end, "{loaded:?}");
    }
}

/// Words, one a line.
fn words(bytes: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty()).then(|| text.split('\n').collect())
}

/// Options of `spapr-vmm run`, as a machine that is to be made.
pub(crate) fn run_options(bytes: &[u8]) {
    let Some(words) = words(bytes) else {
        return;
    };
    let typed = ["spapr-vmm", "run"].into_iter().chain(words);
    match CommandLine::try_parse_from(typed).map(|line| line.command) {
        Ok(Command::Run(arguments)) => {
            let description = MachineDescription::from(&*arguments);
            assert_eq!(description.cpus, arguments.cpus);
        }
        Ok(_) => {}
        // What is wrong can be said.
        Err(error) => assert!(!error.render().to_string().is_empty()),
    }
}

/// A file of options; what is printed of them means the same.
pub(crate) fn run_config(bytes: &[u8]) {
    let read_file = |bytes: &[u8], more: &[&str]| {
        let mut file = tempfile::NamedTempFile::new().expect("room for a file");
        file.write_all(bytes).expect("room for a file");
        let words = ["spapr-vmm", "run", "--kernel", "k", "--config"].iter();
        let words = words.map(OsString::from).chain([file.path().into()]);
        let words = words.chain(more.iter().map(OsString::from));
        config::read(words, &mut CommandLine::command())
    };
    match read_file(bytes, &["--print-config"]) {
        Ok(Asked::Text(text)) => match read_file(text.as_bytes(), &["--print-config"]) {
            Ok(Asked::Text(again)) => assert_eq!(again, text),
            other => panic!("{other:?} of {text}"),
        },
        Ok(Asked::Command(_)) => panic!("it was to be printed"),
        Err(ConfigError::Typed(error)) => panic!("not told by its line: {error}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A command line for QEMU; what is refused is told by a name that the line has.
pub(crate) fn qemu_options(bytes: &[u8]) {
    let Some(words) = words(bytes) else {
        return;
    };
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let _ = command_line::answer(&words);
    match command_line::CommandLine::parse(words) {
        Ok(line) => drop(format!("{line:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
