//! A guest that has an NVMe try to reach memory that it must not, and looks at what became of it.
//!
//! Each trial first shows that the device does reach the memory while it is mapped, where it ever
//! is. Then the mapping goes, and the same command is made again, with other data. All memory around
//! is watched, and so is the block of the disk that commands write to. Afterwards the controller is
//! reset and has to work with good mappings. A line says what was seen:
//!
//!     DMA-ISOLATION NAME device=WHAT memory=same|… disk=WHAT again=works
//!
//! The device: `done`, `status=0xHEX`, `fatal` (CSTS.CFS), `no-answer` or `gone`. The disk: `same`,
//! `zeros`, `memory` (what is in a watched page), `other`, or `unknown`. It ends with
//! `DMA-ISOLATION-DONE trials=COUNT` and powers off, with the controller running and its queues
//! mapped.
//!
//! `windows=1` on the command line adds trials of a dynamic DMA window.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod arena;
#[cfg(target_arch = "powerpc64")]
mod bench;
#[cfg(target_arch = "powerpc64")]
mod dynamic_window;
#[cfg(target_arch = "powerpc64")]
mod reads;
#[cfg(target_arch = "powerpc64")]
mod structures;
#[cfg(target_arch = "powerpc64")]
mod writes;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Console;
    use spapr_test_guests::dma_window::{DynamicWindows, Window};
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::nvme;
    use spapr_test_guests::pci::ConfigSpace;
    use spapr_test_guests::rtas;

    use crate::bench::Bench;
    use crate::{dynamic_window, reads, structures, writes};

    fn main(machine: &Machine<'static>) {
        let (bridge, function) = nvme::find(machine);
        let config = ConfigSpace::of(machine, &bridge, &function);
        let (Some(config), Some(registers), Some(hertz)) =
            (config, bridge.bar(&function, 0), machine.timebase_hertz())
        else {
            rtas::stop_with("the NVMe has no configuration space or no registers, or time no base");
        };
        config.enable(true);
        let window = Window::of(&bridge.window);
        // SAFETY: the device tree says that the registers are there, and the function decodes them.
        let mut bench = unsafe { Bench::new(registers.start, config, window, Clock::new(hertz)) };
        structures::before_any_mapping(&mut bench);
        bench.check_disk();
        reads::all(&mut bench);
        writes::all(&mut bench);
        structures::all(&mut bench);
        if machine.number_argument("windows") == Some(1) {
            let Some(windows) = DynamicWindows::of(machine, &bridge) else {
                rtas::stop_with("there are no dynamic windows");
            };
            dynamic_window::all(&mut bench, &windows);
        }
        writeln!(Console, "DMA-ISOLATION-DONE trials={}", bench.trials()).unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
