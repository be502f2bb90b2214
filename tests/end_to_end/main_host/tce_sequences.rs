//! One guest makes the same TCE calls of the kernel's handlers, of both user paths, and of `auto`,
//! and is answered alike.
//!
//! Where the kernel's handlers are known to differ, and why, is in docs/hypercalls.md; each
//! difference has a test here.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, checks_where_lists_end};
use crate::harness::tce_handlers::Handler;

const KERNEL: [&str; 4] = ["--tce", "kernel", "--iommu", "v2"];
const USER_V2: [&str; 4] = ["--tce", "user", "--iommu", "v2"];
const USER_V1: [&str; 4] = ["--tce", "user", "--iommu", "v1"];
const AUTO: [&str; 2] = ["--tce", "auto"];

/// Calls of a sequence: 16 blocks, each phase of lengths four times or more.
const CALLS: u64 = 1600;
const BLOCKS: usize = 16;

fn run(options: &[&str], command_line: &str) -> Finished {
    let vmm = Vmm::bare_metal("tce-sequences-guest", command_line).nvme();
    let vmm = options.iter().fold(vmm, |vmm, option| vmm.argument(option));
    let finished = vmm.run().assert_powered_off();
    assert!(
        finished.console().contains("TCE-SEQUENCES-DONE"),
        "{finished}"
    );
    finished
}

/// The guest's lines that start so, without the start.
fn lines<'a>(finished: &'a Finished, start: &str) -> Vec<&'a str> {
    let lines = finished.console().lines();
    lines
        .filter_map(|line| Some(line.split_once(start)?.1.trim()))
        .collect()
}

/// What each block came to. A sequence in which nothing happens would be alike everywhere.
fn blocks(finished: &Finished) -> Vec<&str> {
    let blocks = lines(finished, "TCE-SEQUENCES-BLOCK ");
    assert_eq!(blocks.len(), BLOCKS, "{finished}");
    for block in &blocks {
        let count = |name: &str| -> u64 {
            let word = block.split(' ').find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.parse().ok()).expect("a count")
        };
        assert!((60..=95).contains(&count("succeeded=")), "{block}");
        assert!((1..=1152).contains(&count("live=")), "{block}");
    }
    blocks
}

/// The first call of `block`, or else the first entry after it, that differs between two ways.
fn first_difference(ways: [&[&str]; 2], command_line: &str, block: usize) -> Option<[String; 2]> {
    let command_line = format!("{command_line} print={block}");
    let [left, right] = ways.map(|options| run(options, &command_line));
    ["TCE-SEQUENCES-CALL ", "TCE-SEQUENCES-ENTRY "]
        .iter()
        .find_map(|start| {
            let (left, right) = (lines(&left, start), lines(&right, start));
            let length = left.len().max(right.len());
            let mut both = (0..length)
                .map(|index| [&left, &right].map(|all| all.get(index).copied().unwrap_or("none")));
            let different = both.find(|[left, right]| left != right)?;
            Some(different.map(str::to_owned))
        })
}

/// Fails unless all blocks are alike, and says which call it was.
#[track_caller]
fn assert_alike(expected: &Finished, found: &Finished, ways: [&[&str]; 2], command_line: &str) {
    let (left, right) = (blocks(expected), blocks(found));
    let differs = (0..BLOCKS).find(|&block| left[block] != right[block]);
    if let Some(block) = differs {
        let [before, after] = [left[block], right[block]];
        let first = first_difference(ways, command_line, block);
        panic!("{ways:?}, {command_line}, block {block}:\n{before}\n{after}\n{first:#?}\n{found}");
    }
}

/// The kernel's handlers, watched.
struct Handlers([Handler; 4]);

impl Handlers {
    fn watch() -> Self {
        Self(["put_tce", "put_tce_indirect", "stuff_tce", "get_tce"].map(Handler::watch))
    }

    /// How many calls each has answered.
    fn answered(&self) -> [u64; 4] {
        self.0.each_ref().map(|handler| handler.returns().answered)
    }
}

/// How many calls of each kind were answered here.
fn here(finished: &Finished) -> [u64; 4] {
    [
        "H_PUT_TCE",
        "H_PUT_TCE_INDIRECT",
        "H_STUFF_TCE",
        "H_GET_TCE",
    ]
    .map(|call| finished.tce_calls(call))
}

/// Runs the sequence and returns who answered: the kernel, then this side.
fn counted(options: &[&str], command_line: &str) -> (Finished, [u64; 4], [u64; 4]) {
    let handlers = Handlers::watch();
    let finished = run(options, command_line);
    let kernel = handlers.answered();
    let here = here(&finished);
    (finished, kernel, here)
}

#[test]
fn the_kernels_handlers_both_user_paths_and_auto_answer_alike() {
    for seed in [1, 2] {
        let command_line = format!("seed={seed} calls={CALLS}");
        let (kernel, answered, left) = counted(&KERNEL, &command_line);
        // What is wrong with an entry, and the first mapping of each region, comes here.
        for (count, left) in answered.into_iter().zip(left) {
            assert!(count > 150 && count > 3 * left, "{answered:?}\n{kernel}");
        }
        let (user, answered, _) = counted(&USER_V2, &command_line);
        assert_eq!(answered, [0; 4], "{user}");
        assert_eq!(user.number("/windows/0/container"), 2, "{user}");
        assert_alike(&kernel, &user, [&KERNEL, &USER_V2], &command_line);

        let (user, answered, _) = counted(&USER_V1, &command_line);
        assert_eq!(answered, [0; 4], "{user}");
        assert_eq!(user.number("/windows/0/container"), 1, "{user}");
        assert_alike(&kernel, &user, [&KERNEL, &USER_V1], &command_line);

        let (auto, answered, here) = counted(&AUTO, &command_line);
        // Singles in the kernel, ranges here; lists on both sides, back and forth, as time will have it,
        // where the kernel may have them.
        let [put, list, stuff, get] = answered;
        assert!(put > 150 && get > 150, "{answered:?}\n{auto}");
        assert!(stuff == 0 && here[2] > 30, "{answered:?}\n{auto}");
        assert!(here[1] > 30, "{answered:?}\n{auto}");
        let may_have_lists = checks_where_lists_end();
        assert_eq!(list > 30, may_have_lists, "{answered:?}\n{auto}");
        for count in ["handed_over", "taken_back"] {
            let changes = auto.number(&format!("/bulk_calls/H_PUT_TCE_INDIRECT/{count}"));
            assert_eq!(changes > 1, may_have_lists, "{auto}");
        }
        assert_alike(&kernel, &auto, [&KERNEL, &AUTO], &command_line);
    }
    assert_nothing_is_left();
}

#[test]
fn both_user_paths_answer_alike_what_the_kernel_is_not_asked() {
    let command_line = format!("seed=4 calls={CALLS} also=beyond-end,clears,strays");
    let [v2, v1] = [USER_V2, USER_V1].map(|options| run(&options, &command_line));
    assert_alike(&v2, &v1, [&USER_V2, &USER_V1], &command_line);
    assert_nothing_is_left();
}

#[test]
fn a_handler_that_differs_in_one_kind_of_call_is_found() {
    let command_line = format!("seed=5 calls={CALLS} also=strays");
    let [kernel, user] = [KERNEL, USER_V2].map(|options| run(&options, &command_line));
    let (left, right) = (blocks(&kernel), blocks(&user));
    let block = (0..BLOCKS).find(|&block| left[block] != right[block]);
    let block = block.unwrap_or_else(|| panic!("no difference\n{kernel}\n{user}"));
    let first = first_difference([&KERNEL, &USER_V2], &command_line, block);
    let [kernel, user] = first.expect("the call is among those printed");
    assert!(kernel.contains("H_PUT_TCE_INDIRECT"), "{kernel}");
    assert!(kernel.contains(" code=-4 "), "{kernel}");
    assert_eq!(kernel.replace(" code=-4 ", " code=0 "), user);
}

/// The codes of a case's calls, and the entries after them.
fn case(options: &[&str], name: &str) -> (Vec<String>, Vec<String>) {
    let finished = run(options, &format!("case={name}"));
    let owned = |start: &str| -> Vec<String> {
        let lines = lines(&finished, start);
        lines.into_iter().map(str::to_owned).collect()
    };
    let codes = owned(&format!("TCE-SEQUENCES-CASE {name} code="));
    (codes, owned("TCE-SEQUENCES-ENTRY "))
}

fn owned<const N: usize>(lines: [&str; N]) -> Vec<String> {
    lines.map(str::to_owned).to_vec()
}

/// The list's second entry has no permission, and its address is no RAM.
#[test]
fn the_kernel_refuses_half_done_a_list_that_clears_with_an_address_that_is_no_ram() {
    let entries = ["20 0x4001003", "21 0x0", "22 0x0"];
    assert_eq!(case(&KERNEL, "stray"), (owned(["-4"]), owned(entries)));
    let entries = ["20 0x4001003", "21 0x40000000", "22 0x4002003"];
    for options in [&USER_V2[..], &USER_V1, &AUTO] {
        assert_eq!(case(options, "stray"), (owned(["0"]), owned(entries)));
    }
}

/// A list that ends beyond the window and names no RAM there. The kernel's handler gets as far as
/// the entry, and leaves the call to us: it has not looked at the end.
#[test]
fn the_kernel_does_not_look_at_the_end_of_a_list() {
    let refused = (owned(["-4"]), owned(["262143 0x0"]));
    let handler = Handler::watch("put_tce_indirect");
    assert_eq!(case(&KERNEL, "list-beyond-end"), refused);
    let returns = handler.returns();
    assert_eq!((returns.answered, returns.left), (0, 1), "{returns:?}");
    for options in [&USER_V2[..], &USER_V1, &AUTO] {
        assert_eq!(case(options, "list-beyond-end"), refused);
    }
}

/// Nothing of a range is cleared or mapped whose end is beyond the window. The kernel is not asked:
/// it would go on behind its tables.
#[test]
fn this_side_refuses_ranges_that_end_beyond_the_window() {
    let codes = owned(["-4"; 4]);
    let entries: Vec<String> = [["0 0x4000003", "262143 0x4003003"]; 4]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    for options in [&USER_V2[..], &USER_V1, &AUTO] {
        assert_eq!(
            case(options, "range-beyond-end"),
            (codes.clone(), entries.clone())
        );
    }
}
