//! A guest that makes and removes its NVMe's DMA windows in every order and of every size, sensible or not, and says
//! what it got:
//!
//!     WINDOW-ORDERS made=COUNT refused=COUNT most=COUNT
//!
//! `most` is how many windows of its own it had at a time. Then it maps a page in the default window, which is back,
//! and in one of its own, prints `WINDOW-ORDERS-DONE`, and powers off with both as they are; with `default=gone` it has
//! removed the default one before. `page=SHIFT` is the page size of the windows that are to be had, 16 without it. With
//! `rounds=COUNT` it first goes through the orders so many times, and says `WINDOW-ORDERS-ROUND` each time.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::{Arguments, Write};

    use spapr_test_guests::console::Line;
    use spapr_test_guests::dma_memory::DmaMemory;
    use spapr_test_guests::dma_window::{DynamicWindows, PAGE_BYTES, Permission, Window};
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::nvme;
    use spapr_test_guests::rtas;

    /// Memory above the guest's image, for a page of the window's.
    const MEMORY: u64 = 64 << 20;
    const MEMORY_BYTES: u64 = 64 << 10;
    /// What any host has room for, beside a default window.
    const SMALL: u32 = 20;
    const LARGE: u32 = 28;
    /// The page sizes that there are codes for (PAPR 7.3.10.4), and one that there is none for.
    const PAGE_SHIFTS: [u32; 10] = [12, 16, 21, 24, 25, 26, 27, 28, 34, 30];
    /// Sizes of windows round those of pages, of memory and of registers, and what is none.
    const WINDOW_SHIFTS: [u32; 16] = [
        0,
        11,
        12,
        16,
        21,
        24,
        28,
        30,
        31,
        34,
        40,
        62,
        63,
        64,
        0x8000_0000,
        u32::MAX,
    ];
    /// Windows that the guest can have, and one more.
    const PLACES: usize = 3;

    /// The guest's own windows, and how it fared.
    struct Orders {
        windows: DynamicWindows,
        page_shift: u32,
        default: Window,
        own: [Option<Window>; PLACES],
        made: u32,
        refused: u32,
        most: usize,
    }

    impl Orders {
        fn create(&mut self, page_shift: u32, window_shift: u32) {
            match self.windows.create(page_shift, window_shift) {
                Ok(window) => {
                    self.made += 1;
                    match self.own.iter_mut().find(|place| place.is_none()) {
                        Some(place) => *place = Some(window),
                        None => rtas::stop_with("there are too many windows"),
                    }
                    self.most = self.most.max(self.own.iter().flatten().count());
                }
                Err(_) => self.refused += 1,
            }
        }

        fn remove_default(&mut self) {
            let default = self.default;
            self.remove(&default);
        }

        fn remove(&mut self, window: &Window) {
            if self.windows.remove(window).is_err() {
                self.refused += 1;
            }
        }

        fn remove_own(&mut self) {
            for place in 0..PLACES {
                if let Some(window) = self.own[place].take() {
                    self.remove(&window);
                }
            }
        }

        fn reset(&mut self) {
            if let Err(status) = self.windows.reset() {
                rtas::stop_with(format_args!("ibm,reset-pe-dma-window returned {status}"));
            }
            self.own = [None; PLACES];
        }

        /// Two windows of the guest's own, with the default one and without; the other order of removal each time.
        fn in_odd_orders(&mut self) {
            let page = self.page_shift;
            for default_goes_at in 0..4 {
                for shapes in [
                    [(page, LARGE), (page, LARGE)],
                    [(page, LARGE), (12, SMALL)],
                    [(12, SMALL), (page, LARGE)],
                    [(12, SMALL), (12, SMALL)],
                ] {
                    for (step, (page_shift, window_shift)) in shapes.into_iter().enumerate() {
                        if default_goes_at == step {
                            self.remove_default();
                        }
                        self.create(page_shift, window_shift);
                    }
                    if default_goes_at == 2 {
                        self.remove_default();
                        self.create(12, SMALL);
                    }
                    if default_goes_at != 1 {
                        self.remove_own();
                        self.create(page, LARGE);
                    }
                    self.reset();
                }
            }
        }

        /// One of each size in pages of each size, beside the default window and in its place.
        fn of_all_sizes(&mut self) {
            for in_its_place in [false, true] {
                for page_shift in PAGE_SHIFTS {
                    for window_shift in WINDOW_SHIFTS {
                        if in_its_place {
                            self.remove_default();
                        }
                        self.create(page_shift, window_shift);
                        self.remove_own();
                    }
                    self.reset();
                }
            }
        }
    }

    fn main(machine: &Machine<'static>) {
        let (bridge, _) = nvme::find(machine);
        let Some(windows) = DynamicWindows::of(machine, &bridge) else {
            rtas::stop_with("there are no dynamic windows");
        };
        let default = Window::of(&bridge.window);
        let page_shift = machine.number_argument("page").unwrap_or(16);
        let Ok(page_shift) = u32::try_from(page_shift) else {
            rtas::stop_with("page= is the shift of a page");
        };
        let mut orders = Orders {
            windows,
            page_shift,
            default,
            own: [None; PLACES],
            made: 0,
            refused: 0,
            most: 0,
        };
        for _ in 0..machine.number_argument("rounds").unwrap_or(0) {
            orders.in_odd_orders();
            say(format_args!("WINDOW-ORDERS-ROUND"));
        }
        orders.in_odd_orders();
        orders.of_all_sizes();
        say(format_args!(
            "WINDOW-ORDERS made={} refused={} most={}",
            orders.made, orders.refused, orders.most
        ));
        // SAFETY: the guest's image ends far below, and the device tree begins behind.
        let memory = unsafe { DmaMemory::new(MEMORY, MEMORY_BYTES) };
        let page = memory.part(0, PAGE_BYTES);
        default.map(default.start, page, Permission::ReadWrite);
        if machine.argument("default") == Some("gone") {
            orders.remove_default();
        }
        match orders.windows.create(orders.page_shift, LARGE) {
            Ok(window) => window.map(window.start, memory, Permission::ReadWrite),
            Err(status) => {
                rtas::stop_with(format_args!("ibm,create-pe-dma-window returned {status}"));
            }
        }
        say(format_args!("WINDOW-ORDERS-DONE"));
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
