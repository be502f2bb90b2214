//! A guest that reads a block of its NVMe and starts the machine again, for ever; with `then=off` it powers
//! off instead. Each time it first says what it finds of the life before, which is to be nothing:
//!
//!     REBOOTS dirty=COUNT entries=COUNT command=NUMBER
//!
//! `dirty` are pages of memory that are not zero, of those that the guest writes to before it ends; `entries`
//! are live ones in the default DMA window, of those that it makes; `command` is the NVMe's command register,
//! in hexadecimal, that lets it decode its registers and do DMA.
//!
//! Then `REBOOTS-READ` says that the block is the disk's.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::{Arguments, Write};

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Line;
    use spapr_test_guests::disk::is_data;
    use spapr_test_guests::dma_memory::DmaMemory;
    use spapr_test_guests::dma_window::{PAGE_BYTES, Permission, Window};
    use spapr_test_guests::machine::{HostBridge, Machine, PciFunction};
    use spapr_test_guests::nvme::{self, BLOCK_BYTES, Command, Controller, Page, QueuePages};
    use spapr_test_guests::pci::ConfigSpace;
    use spapr_test_guests::rtas;

    /// Memory above the guest's image, of which the first pages are the queues and the block.
    const MEMORY: u64 = 64 << 20;
    /// Where it ends at the latest, far below the device tree of a machine with more.
    const MOST: u64 = 224 << 20;
    /// What is left at the end of RAM: the device tree of a small machine is there.
    const LEFT: u64 = 32 << 20;
    const QUEUES: u64 = 4;
    /// Entries of the window that are made.
    const ENTRIES: u64 = QUEUES + 1;
    const COMMAND: u32 = 0x04;
    /// I/O ports, memory, and DMA.
    const COMMAND_BITS: u32 = 0b111;
    const WRITTEN: u64 = 0x5a5a_0bad_5a5a_0bad;

    fn main(machine: &Machine<'static>) {
        let (bridge, function) = nvme::find(machine);
        let config = ConfigSpace::of(machine, &bridge, &function);
        let (Some(ram), Some(config)) = (machine.ram_bytes(), config) else {
            rtas::stop_with("the machine lacks something that this guest needs");
        };
        let end = ram.saturating_sub(LEFT).min(MOST);
        let bytes = end.saturating_sub(MEMORY) / PAGE_BYTES * PAGE_BYTES;
        if bytes < ENTRIES * PAGE_BYTES {
            rtas::stop_with("there is too little memory");
        }
        // SAFETY: the guest's image ends far below, and the device tree begins behind.
        let memory = unsafe { DmaMemory::new(MEMORY, bytes) };
        let window = Window::of(&bridge.window);
        let dirty = pages(memory).filter(|&(word, _)| memory.read(word) != 0);
        let live = (0..ENTRIES).filter(|index| window.entry(ioba(&window, *index)) & 3 != 0);
        say(format_args!(
            "REBOOTS dirty={} entries={} command={:x}",
            dirty.count(),
            live.count(),
            config.read(COMMAND) & COMMAND_BITS
        ));
        read_block(machine, (&bridge, &function, config), &window, memory);
        for (word, page) in pages(memory) {
            memory.write(word, WRITTEN ^ page);
        }
        if machine.argument("then") == Some("off") {
            return;
        }
        // With its DMA on and its entries live.
        rtas::reboot();
    }

    /// A word of each page, always in another place of it, and the page's number.
    fn pages(memory: DmaMemory) -> impl Iterator<Item = (u64, u64)> {
        let words = PAGE_BYTES / 8;
        (0..memory.words() / words).map(move |page| (page * words + page * 7 % words, page))
    }

    fn ioba(window: &Window, index: u64) -> u64 {
        window.start + index * PAGE_BYTES
    }

    fn read_block(
        machine: &Machine<'static>,
        (bridge, function, config): (&HostBridge<'static>, &PciFunction<'static>, ConfigSpace),
        window: &Window,
        memory: DmaMemory,
    ) {
        let (Some(registers), Some(hertz)) = (bridge.bar(function, 0), machine.timebase_hertz())
        else {
            rtas::stop_with("the NVMe has no registers, or the machine no clock");
        };
        let page = |index| Page {
            memory: memory.part(index * PAGE_BYTES, PAGE_BYTES),
            ioba: ioba(window, index),
        };
        for index in 0..ENTRIES {
            let Page { memory, ioba } = page(index);
            window.map(ioba, memory, Permission::ReadWrite);
        }
        let queues = QueuePages {
            admin_submission: page(0),
            admin_completion: page(1),
            io_submission: page(2),
            io_completion: page(3),
        };
        config.enable(true);
        let clock = Clock::new(hertz);
        // SAFETY: the device tree says that the registers are there, and the function decodes them; the pages
        // are the queues' alone.
        let mut controller = unsafe { Controller::new(registers.start, clock, &queues) };
        let block = page(QUEUES);
        let read = controller
            .stop()
            .and_then(|()| controller.start())
            .and_then(|()| controller.make_io_queues())
            .and_then(|()| controller.transfer(Command::read(0, 1, [block.ioba, 0])));
        if let Err(error) = read {
            rtas::stop_with(format_args!("the NVMe does not work: {error:?}"));
        }
        if !is_data(block.memory.part(0, BLOCK_BYTES), 0) {
            rtas::stop_with("what was read is not the disk's");
        }
        say(format_args!("REBOOTS-READ"));
    }

    fn say(what: Arguments<'_>) {
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        line.write_fmt(what).unwrap_or_default();
        line.print().unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
