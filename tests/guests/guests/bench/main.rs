//! A guest that measures what hypercalls cost it, on any pseries VMM.
//!
//! Command line: `parts=NAME,…` (all that follow, if not given), `samples=COUNT` of each row (at most
//! 512; long lists are measured less often), `settle=MILLISECONDS` of making the same calls
//! unmeasured. The parts:
//!
//! | part | what |
//! |---|---|
//! | `exit` | a hypercall that nobody knows |
//! | `first` | the first mapping of all |
//! | `single` | H_PUT_TCE, H_GET_TCE |
//! | `rtas` | reading configuration space |
//! | `indirect`, `stuff` | H_PUT_TCE_INDIRECT, H_STUFF_TCE |
//! | `cold` | the first calls of these, with none before; the rows' names begin with `cold-` |
//! | `regions` | the first mapping in each further 256 MiB of memory |
//! | `stall-put`, `stall-list` | the longest call while all memory is mapped for the first time |
//! | `stall-stuff` | H_STUFF_TCE of a whole window |
//! | `windows` | dynamic DMA windows of growing size |
//! | `processors` | 1 to 4 processors at once, in windows of their own and in one |
//!
//! The guest prints `BENCH-START ticks=TICKS hertz=HERTZ`, the ticks of the time base from its first
//! instruction to this line, then a line for each row, times in ticks,
//!
//!     BENCH row=NAME n=NUMBER samples=COUNT failed=COUNT digest=HEX mean=TICKS ticks=T,T,…
//!
//! where the list is the quantiles 0, 5, 10, …, 95, 99, 100 %, and the digest stands for all return
//! codes of the calls measured and for the entries as H_GET_TCE reads them afterwards. `BENCH-DONE`
//! is last.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod calls;
#[cfg(target_arch = "powerpc64")]
mod dynamic_windows;
#[cfg(target_arch = "powerpc64")]
mod lists;
#[cfg(target_arch = "powerpc64")]
mod many;
#[cfg(target_arch = "powerpc64")]
mod meter;
#[cfg(target_arch = "powerpc64")]
mod singles;
#[cfg(target_arch = "powerpc64")]
mod stall;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::{Console, Line};
    use spapr_test_guests::entry;
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::rtas;

    use crate::calls::{Lists, Window, page};
    use crate::meter::{Meter, WarmUp};
    use crate::{dynamic_windows, lists, many, singles, stall};

    const ALL: &str = "exit,first,single,rtas,indirect,stuff,regions,windows,processors";

    fn main(machine: &Machine<'static>) {
        let Some(hertz) = machine.timebase_hertz() else {
            rtas::stop_with("there is no time base");
        };
        let clock = Clock::new(hertz);
        let mut line = Line::default();
        let ticks = clock.now() - entry::ticks();
        // A terminal that does not take it shows in what is missing.
        write!(line, "BENCH-START ticks={ticks} hertz={hertz}").unwrap_or_default();
        line.print().unwrap_or_default();
        let meter = Meter {
            clock,
            samples: machine.number_argument("samples").unwrap_or(128),
            warm_up: WarmUp::Milliseconds(machine.number_argument("settle").unwrap_or(0)),
        };
        let parts = machine.argument("parts").unwrap_or(ALL);
        let bridge = machine.host_bridges().next();
        for part in parts.split(',') {
            match (part, &bridge) {
                ("exit", _) => singles::exit(&meter),
                (_, None) => rtas::stop_with("there is no PCI host bridge"),
                ("rtas", Some(bridge)) => singles::read_config(&meter, machine, bridge),
                ("windows", Some(bridge)) => dynamic_windows::measure(&meter, machine, bridge),
                ("processors", Some(_)) => many::measure(machine),
                (part, Some(bridge)) => {
                    let window = Window::of(&bridge.window);
                    let list = Lists::fill();
                    if part != "first" && !part.starts_with("stall") {
                        // It locks memory, which takes the host's kernel long and through paths that
                        // later calls do not take.
                        window.put(page(0));
                        window.put(0);
                    }
                    match part {
                        "first" => singles::first(&meter, window),
                        "regions" => singles::regions(&meter, window, machine.ram_bytes()),
                        "single" => singles::measure(&meter, window),
                        "indirect" => lists::indirect(&meter, window, list),
                        "stuff" => lists::stuff(&meter, window, list),
                        "cold" => lists::cold(&meter, window, list),
                        "stall-put" => stall::puts(&meter, window, machine.ram_bytes()),
                        "stall-list" => stall::list(&meter, window, machine.ram_bytes()),
                        "stall-stuff" => stall::stuff(&meter, window, bridge.window.bytes),
                        _ => rtas::stop_with("what is to be measured is not known"),
                    }
                }
            }
        }
        writeln!(Console, "BENCH-DONE").unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
