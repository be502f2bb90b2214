//! The command line of `cargo lab`.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::host::{CodeLog, DeviceKind, EmulatorRelease, HostKind, LparOption};
use crate::kernels::KernelArgs;
use crate::workspace::Workspace;
use crate::{bench, demo, exec, fuzz, order, package, prepare, shell, suite};

/// Emulated POWER hosts, to run, test and measure spapr-vmm on.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a host and show a guest with a passed-through NVMe, once for each way to serve its
    /// TCE hypercalls
    Demo(DemoArgs),
    /// Run the tests: on this machine, on ppc64le under qemu-user, of the lab, and in the emulated
    /// hosts. Those with libvirt and those that take long run when FILTER names them
    Test(TestArgs),
    /// Measure spapr-vmm beside QEMU and beside what the kernel alone costs, and write a report
    Bench(BenchArgs),
    /// Run fuzz targets on this machine: bytes that nobody thought of, in place of what guests, monitors, users
    /// and hosts pass
    Fuzz(FuzzArgs),
    /// Boot a host, run a shell script in it, and exit with the script's status
    Exec(ExecArgs),
    /// Boot a host and open a shell in it
    Shell(HostArgs),
    /// Make a deb and an rpm for ppc64le in target/package, with manual pages, completions, and files for systemd
    /// and udev
    Package(PackageArgs),
    /// Find out which functions spapr-vmm runs, and have the linker place them next to each other: writes
    /// vmm/text-order.ld. Run it again when the code has changed much: what each VMM keeps resident grows otherwise
    Order,
    /// Install what is missing on this machine, fetch all crates and packages, and make all images,
    /// so that later commands need no network
    Prepare(PrepareArgs),
}

/// How packages are made.
#[derive(Debug, Clone, Args)]
pub(crate) struct PackageArgs {
    /// Have dpkg-deb alone pack a deb, into target/package/quick: no cargo-deb and the like is built, and the list of
    /// crates is left out. For tests
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Which host to boot, and what to have in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostArgs {
    /// The host to boot: CPU and page size of its kernel
    #[arg(long, value_enum, default_value_t = HostKind::P9Pages64k)]
    pub(crate) host: HostKind,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    /// Have every kernel for guests in the host, as /lab/guests/RELEASE-PAGES/{vmlinux,initrd}
    #[arg(long)]
    pub(crate) all_guest_kernels: bool,
    /// One CPU whose clock counts executed instructions, so that costs repeat
    #[arg(long)]
    pub(crate) icount: bool,
    /// The emulator, by its Debian release
    #[arg(long, value_enum, value_name = "RELEASE", default_value_t = EmulatorRelease::Trixie)]
    pub(crate) emulator: EmulatorRelease,
    /// List the page sizes of the radix MMU, as real firmware does, so that the kernel has huge pages
    #[arg(long)]
    pub(crate) hugepages: bool,
    /// What a host that is an LPAR has: ddw=off (no dynamic DMA windows), window-size=SIZE and
    /// window-start=ADDRESS (its default DMA window); may be repeated
    #[arg(long, value_name = "OPTION=VALUE")]
    pub(crate) lpar: Vec<LparOption>,
    /// A further device, bound to vfio-pci; may be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) device: Vec<DeviceKind>,
    /// More programs to have in the host
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) with: Vec<Extra>,
    /// Do not build spapr-vmm, and do without it in the host
    #[arg(long)]
    pub(crate) without_vmm: bool,
    /// Whether it gives way to other programs of this machine
    #[arg(skip)]
    pub(crate) gives_way: bool,
    /// Code of which the emulator is to log what runs
    #[arg(skip)]
    pub(crate) code_log: Option<CodeLog>,
    /// Copy a file or folder of this machine to a place in the host
    #[arg(long, value_name = "SRC:DST", value_parser = parse_copy)]
    pub(crate) copy: Vec<Copy>,
    /// Bring a file or folder of the host back to this machine when the script has ended
    #[arg(long, value_name = "PATH:DEST", value_parser = parse_fetch)]
    pub(crate) fetch: Vec<Fetch>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Stop the host and fail when the script has not ended after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) timeout: Option<Duration>,
    /// The script, run with sh; several words are joined by spaces
    #[arg(last = true, required = true, num_args = 1.., value_name = "SCRIPT")]
    pub(crate) script: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// Take the newest packages that can be had in place of those last tested, and write to
    /// tests/lab/packages.lock which they are
    #[arg(long)]
    pub(crate) update: bool,
    /// Install this machine's missing tools and the Rust target, and do no more: what follows can then run
    /// beside other work of cargo's
    #[arg(long, conflicts_with = "update")]
    pub(crate) tools: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The host to boot: CPU and page size of its kernel
    #[arg(long, value_enum, default_value_t = HostKind::P9Pages64k)]
    pub(crate) host: HostKind,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    /// What a host that is an LPAR has, as for `exec`
    #[arg(long, value_name = "OPTION=VALUE")]
    pub(crate) lpar: Vec<LparOption>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    /// Run the in-host tests on these hosts only, and none of the tests outside
    #[arg(long, value_enum)]
    pub(crate) host: Vec<HostKind>,
    /// What hosts that are LPARs have, as for `exec`
    #[arg(long, value_name = "OPTION=VALUE", requires = "host")]
    pub(crate) lpar: Vec<LparOption>,
    /// A further device of each host, beside those that tests are for, as for `exec`
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) device: Vec<DeviceKind>,
    /// Run those with libvirt, too, in a host of their own beside the others
    #[arg(long, conflicts_with_all = ["host", "filter"])]
    pub(crate) with_libvirt: bool,
    /// Run only in-host tests whose name contains one of these, and none of the tests outside. `libvirt::`
    /// runs those with libvirt, `long::` those that take long, on hosts with each kernel
    pub(crate) filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The host to measure on
    #[arg(long, value_enum, default_value_t = HostKind::P9Pages64k, conflicts_with = "native")]
    pub(crate) host: HostKind,
    /// What a host that is an LPAR has, as for `exec`
    #[arg(long, value_name = "OPTION=VALUE", conflicts_with = "native")]
    pub(crate) lpar: Vec<LparOption>,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    /// Measure on this machine, with its own KVM, which takes a POWER machine
    #[arg(long)]
    pub(crate) native: bool,
    /// With --native: PCI device to pass through, bound to vfio-pci; without one no DMA is measured.
    /// A second one, in another group, lets processors map in more windows
    #[arg(long, value_name = "DDDD:BB:DD.F", requires = "native")]
    pub(crate) vfio: Vec<String>,
    /// Where the report goes: a folder
    #[arg(long, value_name = "FOLDER", default_value = "target/bench-report")]
    pub(crate) output: PathBuf,
    /// Measure only what has this in its title, as the steps show it; given several times, what has any of
    /// them
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// Tell which rows differ from those of an earlier run (its bench.json) by more than 2 %; status 1
    /// if some do
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Make the report from the results of an earlier run (its bench.json), and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["native", "only"])]
    pub(crate) from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Run these targets; all of them when none is named
    pub(crate) target: Vec<String>,
    /// How long each of them runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// How many run at a time
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = parse_jobs)]
    pub(crate) jobs: usize,
    /// Add what was found to reach something new to the inputs in the tree, tests/fuzz/corpus
    #[arg(long)]
    pub(crate) keep: bool,
    /// List the targets, and run none
    #[arg(long)]
    pub(crate) list: bool,
}

/// A program that is in the host only when asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Extra {
    /// Debian's qemu-system-ppc64, as a peer to measure against
    Qemu,
    /// The next Debian's, as qemu-system-ppc64-next
    NextQemu,
    /// Debian's libvirt, in a root folder of its own, with QEMU and Python (see `lab-libvirt`)
    Libvirt,
}

/// A file or folder that goes into the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) source: PathBuf,
    /// Absolute path in the host.
    pub(crate) destination: String,
}

/// A file or folder that comes out of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// Absolute path in the host.
    pub(crate) source: String,
    pub(crate) destination: PathBuf,
}

impl HostArgs {
    /// A host of this kind with nothing special.
    pub(crate) fn plain(host: HostKind) -> Self {
        Self {
            host,
            kernels: KernelArgs::default(),
            all_guest_kernels: false,
            icount: false,
            emulator: EmulatorRelease::Trixie,
            hugepages: false,
            lpar: Vec::new(),
            device: Vec::new(),
            with: Vec::new(),
            without_vmm: false,
            gives_way: false,
            code_log: None,
            copy: Vec::new(),
            fetch: Vec::new(),
        }
    }
}

impl Cli {
    /// Runs the command and returns the exit status.
    pub(crate) fn run(self) -> Result<u8, Box<dyn Error>> {
        let name = match &self.command {
            Command::Demo(_) => "demo",
            Command::Test(_) => "test",
            Command::Bench(_) => "bench",
            Command::Fuzz(_) => "fuzz",
            Command::Exec(_) => "exec",
            Command::Shell(_) => "shell",
            Command::Package(_) => "package",
            Command::Order => "order",
            Command::Prepare(_) => "prepare",
        };
        let workspace = Workspace::open(name)?;
        Ok(match &self.command {
            Command::Demo(args) => demo::run(&workspace, args)?,
            Command::Test(args) => suite::run(&workspace, args)?,
            Command::Bench(args) => bench::run(&workspace, args)?,
            Command::Fuzz(args) => fuzz::run(&workspace, args)?,
            Command::Exec(args) => exec::run(&workspace, args)?,
            Command::Shell(args) => shell::run(&workspace, args)?,
            Command::Package(args) => package::run(&workspace, args)?,
            Command::Order => order::run(&workspace)?,
            Command::Prepare(args) => prepare::run(&workspace, args)?,
        })
    }
}

fn parse_copy(text: &str) -> Result<Copy, String> {
    let (source, destination) = text.rsplit_once(':').ok_or("write it as SRC:DST")?;
    let destination = absolute_in_host(destination)?;
    Ok(Copy {
        source: source.into(),
        destination,
    })
}

fn parse_fetch(text: &str) -> Result<Fetch, String> {
    let (source, destination) = text.split_once(':').ok_or("write it as PATH:DEST")?;
    Ok(Fetch {
        source: absolute_in_host(source)?,
        destination: destination.into(),
    })
}

fn absolute_in_host(path: &str) -> Result<String, String> {
    let plain = path.starts_with('/')
        && path.len() > 1
        && path.split('/').all(|part| part != "..")
        && !path.contains('\n');
    if plain {
        Ok(path.trim_end_matches('/').to_owned())
    } else {
        Err(format!(
            "{path:?} in the host must be an absolute path below / without '..'"
        ))
    }
}

fn parse_jobs(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|&count| count > 0);
    count.ok_or_else(|| format!("{text:?} is no number of targets"))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("{text:?} is not a number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_takes_the_documented_options() {
        let line = "cargo-lab exec --host p9-4k --icount --with qemu --device e1000 --device ich9-ahci \
                    --copy a:/b --fetch /s:t -- true";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Exec(args) = cli.command else {
            panic!("not exec")
        };
        assert_eq!(args.host.host, HostKind::P9Pages4k);
        assert!(args.host.icount);
        assert_eq!(args.host.with, [Extra::Qemu]);
        let devices = [DeviceKind::E1000, DeviceKind::Ich9Ahci];
        assert_eq!(args.host.device, devices);
        assert_eq!(
            args.host.copy,
            [Copy {
                source: "a".into(),
                destination: "/b".into()
            }]
        );
        assert_eq!(
            args.host.fetch,
            [Fetch {
                source: "/s".into(),
                destination: "t".into()
            }]
        );
        assert_eq!(args.script, ["true"]);
    }

    #[test]
    fn a_copy_out_of_the_hosts_root_is_refused() {
        assert!(parse_copy("a:b").is_err());
        assert!(parse_copy("a:/b/../../c").is_err());
        assert!(parse_copy("a").is_err());
    }

    #[test]
    fn command_lines_in_the_documents_are_read() {
        let (mut wrong, mut shown) = (Vec::new(), 0);
        for page in spapr_lab::documents::pages().unwrap() {
            let lines = spapr_lab::documents::command_lines(&page.contents(), "cargo lab");
            for line in lines.iter().filter(|line| !line.is_synopsis) {
                shown += 1;
                // What runs in a host is whatever the script says; a sentence may leave it out.
                let mut words = line.words.clone();
                if words.first().is_some_and(|word| word == "exec")
                    && !words.iter().any(|word| word == "--")
                {
                    words.extend(["--".to_owned(), "true".to_owned()]);
                }
                let words = std::iter::once("cargo lab".to_owned()).chain(words);
                if let Err(error) = Cli::try_parse_from(words)
                    && error.use_stderr()
                {
                    let (path, line, words) = (page.path.display(), line.line, &line.words);
                    wrong.push(format!("{path}:{line}: {words:?}: {error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(shown > 20, "{shown} command lines found");
    }

    #[test]
    fn an_lpar_is_given_what_it_has() {
        let line = "cargo-lab demo --host lpar9-64k --lpar ddw=off --lpar window-size=256M";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Demo(args) = cli.command else {
            panic!("not demo")
        };
        let expected = [
            LparOption::DynamicWindows(false),
            LparOption::WindowSize(256 << 20),
        ];
        assert_eq!(
            (args.host, &args.lpar[..]),
            (HostKind::Lpar9Pages64k, &expected[..])
        );
    }
}
