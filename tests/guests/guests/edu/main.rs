//! A guest with an edu, QEMU's device to teach with: it has it invert a number, reckon a factorial, and copy a page of
//! memory into its buffer and from there to another page, each page mapped in the default DMA window. Reckoning and
//! copying end with an interrupt, by MSI or, with `interrupt=line lisn=NUMBER` on the command line, by the line that is
//! that source. Then it raises twenty interrupts by itself. It says what came of it (idle are
//! interrupts that find nothing to do), and powers off or, with `then=reboot`, starts the machine again, for ever:
//!
//!     EDU controller=xive|xics identity=0xHEX inverted=0xHEX factorial=NUMBER copied=same|different interrupts=COUNT idle=COUNT left=STATUS
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod device;
#[cfg(target_arch = "powerpc64")]
mod source;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Line;
    use spapr_test_guests::dma_memory::DmaMemory;
    use spapr_test_guests::dma_window::{PAGE_BYTES, Permission, Window};
    use spapr_test_guests::machine::{HostBridge, Machine, PciFunction};
    use spapr_test_guests::pci::ConfigSpace;
    use spapr_test_guests::rtas;

    use crate::device::{Direction, Edu};
    use crate::source::Source;

    /// Device and vendor, as the first register of configuration space has them.
    const EDU: u32 = 0x11e8_1234;
    /// Where the pages are that it copies: above the guest's image, below the end of RAM.
    const PAGES: u64 = 128 << 20;
    /// Where the device finds them: it has 28 bits of address.
    const FROM: u64 = 1 << 20;
    const TO: u64 = 2 << 20;
    const NUMBER: u32 = 0x1234_5678;
    const FACTORIAL_OF: u32 = 12;
    const MORE_INTERRUPTS: u32 = 20;

    fn main(machine: &Machine<'static>) {
        let (bridge, function, config) = find(machine);
        config.enable(true);
        let (Some(registers), Some(hertz)) = (bridge.bar(&function, 0), machine.timebase_hertz())
        else {
            rtas::stop_with("the edu has no registers, or time no base");
        };
        let clock = Clock::new(hertz);
        let mut source = match (
            machine.argument("interrupt"),
            machine.number_argument("lisn"),
        ) {
            (Some("line"), Some(lisn)) => Source::of_line(machine, lisn),
            _ => Source::of_message(machine, &bridge, &function),
        };
        // SAFETY: the device tree says that the registers are there, and the function decodes them.
        let edu = unsafe { Edu::new(registers.start) };
        let inverted = edu.invert(NUMBER);
        edu.reckon_factorial(FACTORIAL_OF);
        source.take(clock, || edu.acknowledge());
        let factorial = edu.factorial();
        let copied = copy(&edu, &Window::of(&bridge.window), |edu| {
            source.take(clock, || edu.acknowledge());
        });
        for bit in 0..MORE_INTERRUPTS {
            edu.raise(1 << (bit % 8));
            source.take(clock, || edu.acknowledge());
        }
        let (interrupts, idle) = source.taken_and_idle();
        let controller = if machine.has_xive() { "xive" } else { "xics" };
        let copied = if copied { "same" } else { "different" };
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        write!(
            line,
            "EDU controller={controller} identity={:#010x} inverted={inverted:#010x} factorial={factorial} \
             copied={copied} interrupts={interrupts} idle={idle} left={}",
            edu.identity(),
            edu.status()
        )
        .unwrap_or_default();
        line.print().unwrap_or_default();
        if machine.argument("then") == Some("reboot") {
            rtas::reboot();
        }
    }

    fn find(
        machine: &Machine<'static>,
    ) -> (HostBridge<'static>, PciFunction<'static>, ConfigSpace) {
        let mut found = machine.host_bridges().find_map(|bridge| {
            let found = bridge.functions().find_map(|function| {
                let config = ConfigSpace::of(machine, &bridge, &function)?;
                (config.read(0) == EDU).then_some((function, config))
            });
            let (function, config) = found?;
            Some((bridge, function, config))
        });
        found
            .take()
            .unwrap_or_else(|| rtas::stop_with("there is no edu"))
    }

    /// Has it copy a page by its own buffer; whether the copy is like the page. `wait` waits for the end of each half.
    fn copy(edu: &Edu, window: &Window, mut wait: impl FnMut(&Edu)) -> bool {
        // SAFETY: the guest's image and the device tree are elsewhere.
        let pages = unsafe { DmaMemory::new(PAGES, 2 * PAGE_BYTES) };
        let (from, to) = (
            pages.part(0, PAGE_BYTES),
            pages.part(PAGE_BYTES, PAGE_BYTES),
        );
        let word = |index: u64| 0x0123_4567_89ab_cdef ^ ((index << 40) | (index * 0x1_0001));
        from.fill(word);
        to.fill(|_| 0);
        window.map(window.start + FROM, from, Permission::Read);
        window.map(window.start + TO, to, Permission::Write);
        edu.copy(Direction::FromMemory, window.start + FROM);
        wait(edu);
        edu.copy(Direction::ToMemory, window.start + TO);
        wait(edu);
        window.unmap(window.start + FROM);
        window.unmap(window.start + TO);
        to.first_difference(word).is_none()
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
