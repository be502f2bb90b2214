//! Fixed calls in which Linux's handlers differ from what is right, or could be thought to.
//!
//! | `case=` | calls |
//! |---|---|
//! | `stray` | a list of three entries of which the second has no permission and names no RAM |
//! | `list-beyond-end` | a list of two entries from the window's last entry on; the second entry of the list names no RAM |
//! | `range-beyond-end` | ranges and a list that begin in the window and end beyond it: not for the kernel's handlers, which would write there |
//!
//! Each call prints `TCE-SEQUENCES-CASE NAME code=CODE`, and what its entries are then.

use spapr_test_guests::hypercall::code;
use spapr_test_guests::rtas;

use crate::calls::{Call, LIST, PAGE_BYTES, READ_WRITE, Window, write_to_list};
use crate::report::print;

/// An entry that maps page `index` of those used here.
const fn page(index: u64) -> u64 {
    ((64 << 20) + index * PAGE_BYTES) | READ_WRITE
}

/// Makes the calls of a case.
pub(crate) fn make(name: &str, window: Window) {
    // So that the window is there and the memory is locked.
    if window.put(window.ioba(0), page(0)).make().code != code::H_SUCCESS {
        rtas::stop_with("the first entry cannot be written");
    }
    let last = window.entries - 1;
    match name {
        "stray" => {
            write_list(&[page(1), window.ram_bytes, page(2)]);
            let call = window.put_list(window.ioba(20), LIST, 3);
            show(name, window, call, &[20, 21, 22]);
        }
        "list-beyond-end" => {
            write_list(&[page(1), window.ram_bytes | READ_WRITE]);
            let call = window.put_list(window.ioba(last), LIST, 2);
            show(name, window, call, &[last]);
        }
        "range-beyond-end" => {
            window.put(window.ioba(last), page(3)).make();
            write_list(&[page(1), page(2)]);
            for call in [
                window.put_list(window.ioba(last), LIST, 2),
                window.stuff(window.ioba(last), 0, 2),
                window.stuff(window.ioba(0), 0, window.entries + 1),
                window.stuff(window.ioba(last), 0, u64::MAX),
            ] {
                show(name, window, call, &[0, last]);
            }
        }
        _ => rtas::stop_with(format_args!("there is no case {name}")),
    }
}

fn write_list(entries: &[u64]) {
    for (index, entry) in (0..).zip(entries) {
        write_to_list(index, *entry);
    }
}

fn show(name: &str, window: Window, call: Call, entries: &[u64]) {
    print(format_args!(
        "TCE-SEQUENCES-CASE {name} code={}",
        call.make().code
    ));
    for index in entries {
        let entry = window.get_entry(*index).registers[0];
        print(format_args!("TCE-SEQUENCES-ENTRY {index} {entry:#x}"));
    }
}
