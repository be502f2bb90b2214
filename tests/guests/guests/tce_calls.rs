//! A guest that makes the TCE hypercalls that are typed on its terminal, one line each, numbers in
//! hexadecimal:
//!
//!     put IOBA TCE            H_PUT_TCE
//!     get IOBA                H_GET_TCE
//!     list IOBA TCE COUNT     H_PUT_TCE_INDIRECT of pages that follow each other
//!     stuff IOBA COUNT        H_STUFF_TCE with 0
//!     repeat IOBA TCE COUNT   H_PUT_TCE so often; the last code
//!     msi COUNT               ibm,change-msi: so many MSI-X vectors for the bridge's first device
//!     off                     powers off
//!
//! Each is answered by a line `TCE-CALL NUMBER CODE VALUE`: calls are numbered from 1, the code is
//! decimal (of ibm,change-msi: its status), the value is r4 afterwards, of H_GET_TCE the entry, in
//! hexadecimal.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;
    use core::ptr;

    use spapr_test_guests::console::Line;
    use spapr_test_guests::hypercall::{Answer, call, number};
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::rtas;

    /// Where the list is: above the guest's image.
    const LIST: u64 = 32 << 20;
    const LONGEST: u64 = 512;
    const PAGE_BYTES: u64 = 4096;
    /// The machine's default terminal.
    const TERMINAL: u64 = 0;

    /// Characters typed and not read yet: one H_GET_TERM_CHAR gives up to 16.
    #[derive(Default)]
    struct Keyboard {
        bytes: [u8; 16],
        next: usize,
        end: usize,
    }

    impl Keyboard {
        /// The next character; waits for it.
        fn read(&mut self) -> u8 {
            while self.next == self.end {
                // SAFETY: reading from the terminal changes no memory.
                let answer = unsafe { call(number::H_GET_TERM_CHAR, [TERMINAL]) };
                let [length, first, second, ..] = answer.registers;
                self.bytes[..8].copy_from_slice(&first.to_be_bytes());
                self.bytes[8..].copy_from_slice(&second.to_be_bytes());
                self.next = 0;
                self.end = if answer.code == 0 {
                    usize::try_from(length).unwrap_or(0).min(16)
                } else {
                    0
                };
            }
            self.next += 1;
            self.bytes[self.next - 1]
        }

        /// A line without its end, as far as there is room for it.
        fn read_line<'a>(&mut self, line: &'a mut [u8; 80]) -> &'a str {
            let mut length = 0;
            loop {
                match self.read() {
                    b'\n' | b'\r' => break,
                    byte if length < line.len() => {
                        line[length] = byte;
                        length += 1;
                    }
                    _ => {}
                }
            }
            core::str::from_utf8(&line[..length]).unwrap_or("")
        }
    }

    fn main(machine: &Machine<'static>) {
        let Some(bridge) = machine.host_bridges().next() else {
            rtas::stop_with("there is no PCI host bridge");
        };
        let liobn = u64::from(bridge.window.liobn);
        print(0, 0, 0);
        let mut keyboard = Keyboard::default();
        for count in 1u64.. {
            let mut line = [0; 80];
            let line = keyboard.read_line(&mut line);
            let mut words = line.split_ascii_whitespace();
            let name = words.next().unwrap_or("");
            let mut numbers = [0; 3];
            for (number, word) in numbers.iter_mut().zip(words) {
                *number = u64::from_str_radix(word, 16).unwrap_or(u64::MAX);
            }
            let [ioba, second, third] = numbers;
            let answer = match name {
                "put" => make(number::H_PUT_TCE, [liobn, ioba, second, 0]),
                "get" => make(number::H_GET_TCE, [liobn, ioba, 0, 0]),
                "list" => {
                    fill(second, third);
                    make(number::H_PUT_TCE_INDIRECT, [liobn, ioba, LIST, third])
                }
                "stuff" => make(number::H_STUFF_TCE, [liobn, ioba, 0, second]),
                "repeat" => {
                    for _ in 1..third {
                        make(number::H_PUT_TCE, [liobn, ioba, second, 0]);
                    }
                    make(number::H_PUT_TCE, [liobn, ioba, second, 0])
                }
                "msi" => {
                    print(count, change_msi(machine, bridge.buid, ioba), 0);
                    continue;
                }
                "off" => return,
                _ => rtas::stop_with("what was typed is no call"),
            };
            print(count, answer.code, answer.registers[0]);
        }
    }

    fn print(count: u64, code: i64, value: u64) {
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        write!(line, "TCE-CALL {count} {code} {value:x}").unwrap_or_default();
        line.print().unwrap_or_default();
    }

    /// Writes the list: `count` pages from that of `entry` on.
    fn fill(entry: u64, count: u64) {
        for index in 0..count.min(LONGEST) {
            let address = usize::try_from(LIST + index * 8).unwrap_or(0);
            let place = ptr::with_exposed_provenance_mut::<u64>(address);
            let entry = entry.wrapping_add(index * PAGE_BYTES);
            // SAFETY: aligned, in RAM, and outside of all that Rust knows.
            unsafe { place.write_volatile(entry.to_be()) };
        }
    }

    /// The status of ibm,change-msi for MSI-X.
    fn change_msi(machine: &Machine<'static>, buid: u64, count: u64) -> i64 {
        const MSI_X: u32 = 4;
        const NO_SUCH_DEVICE: i32 = -3;
        let Some(token) = machine.rtas_token("ibm,change-msi") else {
            rtas::stop_with("there is no ibm,change-msi");
        };
        let word = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let mut status = NO_SUCH_DEVICE;
        for device in 0..32 {
            let arguments = [
                device << 11,
                word(buid >> 32),
                word(buid),
                MSI_X,
                word(count),
                0,
            ];
            let mut returns = [0; 4];
            // SAFETY: the service changes no memory but the returns.
            unsafe { rtas::call(token, &arguments, &mut returns) };
            status = returns[0].cast_signed();
            if status != NO_SUCH_DEVICE {
                break;
            }
        }
        status.into()
    }

    fn make(number: u64, arguments: [u64; 4]) -> Answer {
        // SAFETY: TCE calls change no memory, and no device here makes use of what they map.
        unsafe { call(number, arguments) }
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
