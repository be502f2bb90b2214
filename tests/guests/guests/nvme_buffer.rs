//! A guest that gives its NVMe both submission queues in the controller's own memory buffer (BAR 2), at its bus address,
//! and reads a block through its default DMA window, or with `window=limited` through one at limited addresses. It says where
//! the buffer and the window are on the bus, and that the block is the disk's:
//!
//!     NVME-BUFFER bus=0xHEX window=0xHEX read=data
//!
//! An NVMe from before version 1.4 takes bus addresses for its buffer's by its own BAR.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Line;
    use spapr_test_guests::disk::is_data;
    use spapr_test_guests::dma_memory::DmaMemory;
    use spapr_test_guests::dma_window::{DynamicWindows, PAGE_BYTES, Permission, Window};
    use spapr_test_guests::machine::{HostBridge, Machine};
    use spapr_test_guests::nvme::{self, BLOCK_BYTES, Command, Controller, Page, QueuePages};
    use spapr_test_guests::pci::ConfigSpace;
    use spapr_test_guests::rtas;

    /// The completion queues and the block: above the guest's image.
    const MEMORY: u64 = 64 << 20;
    const PAGES: u64 = 3;
    const REGISTERS: u32 = 0;
    const BUFFER: u32 = 2;

    /// A page of the function's buffer, at an address in it.
    fn page_of_buffer(address: u64, ioba: u64) -> Page {
        // SAFETY: the function decodes its buffer, which is no memory of Rust's.
        let memory = unsafe { DmaMemory::new(address, PAGE_BYTES) };
        Page { memory, ioba }
    }

    fn main(machine: &Machine<'static>) {
        let (bridge, function) = nvme::find(machine);
        let bars = [REGISTERS, BUFFER].map(|index| bridge.bar(&function, index));
        let bus = function.bus_address(BUFFER);
        let config = ConfigSpace::of(machine, &bridge, &function);
        let clock = machine.timebase_hertz().map(Clock::new);
        let ([Some(registers), Some(buffer)], Some(bus), Some(config), Some(clock)) =
            (bars, bus, config, clock)
        else {
            rtas::stop_with(
                "the NVMe has no registers or no buffer, or the machine lacks something",
            );
        };
        config.enable(true);
        let window = match machine.argument("window") {
            Some("limited") => limited_window(machine, &bridge),
            _ => Window::of(&bridge.window),
        };
        // SAFETY: the guest's image ends below, and the device tree begins far behind.
        let memory = unsafe { DmaMemory::new(MEMORY, PAGES * PAGE_BYTES) };
        let in_memory = |index: u64| {
            let ioba = window.start + index * PAGE_BYTES;
            let memory = memory.part(index * PAGE_BYTES, PAGE_BYTES);
            window.map(ioba, memory, Permission::ReadWrite);
            Page { memory, ioba }
        };
        let in_buffer = |index: u64| {
            let offset = index * PAGE_BYTES;
            page_of_buffer(buffer.start + offset, bus + offset)
        };
        let queues = QueuePages {
            admin_submission: in_buffer(0),
            admin_completion: in_memory(0),
            io_submission: in_buffer(1),
            io_completion: in_memory(1),
        };
        // SAFETY: the device tree says that the registers are there, and the function decodes them; the pages are the
        // queues' alone.
        let mut controller = unsafe { Controller::new(registers.start, clock, &queues) };
        let block = in_memory(2);
        let read = controller
            .stop()
            .and_then(|()| controller.start())
            .and_then(|()| controller.make_io_queues())
            .and_then(|()| controller.transfer(Command::read(0, 1, [block.ioba, 0])));
        let is_data = is_data(block.memory.part(0, BLOCK_BYTES), 0);
        let start = window.start;
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        let said = match read {
            Err(error) => write!(
                line,
                "NVME-BUFFER bus={bus:#x} window={start:#x} error={error:?}"
            ),
            Ok(()) if is_data => {
                write!(line, "NVME-BUFFER bus={bus:#x} window={start:#x} read=data")
            }
            Ok(()) => write!(
                line,
                "NVME-BUFFER bus={bus:#x} window={start:#x} read=other"
            ),
        };
        said.unwrap_or_default();
        line.print().unwrap_or_default();
    }

    fn limited_window(machine: &Machine<'static>, bridge: &HostBridge<'static>) -> Window {
        let Some(windows) = DynamicWindows::of(machine, bridge) else {
            rtas::stop_with("there are no dynamic windows");
        };
        // Pages of 4 KiB, 16 MiB.
        let made = windows
            .reset_limited()
            .and_then(|()| windows.create(12, 24));
        made.unwrap_or_else(|status| rtas::stop_with(format_args!("no limited window: {status}")))
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
