//! The direction of imports between rooms: the top modules of each crate of the product. A room that knows
//! another is not known by it, over however many others. `cargo test --test rooms -- --nocapture` shows
//! them all.

mod errors;
mod graph;
mod imports;

use std::path::Path;

use graph::Graph;

/// The crates of the product, in the order in which they may know each other.
const CRATES: [&str; 4] = ["hypercalls", "devices", "vmm/kvm", "vmm"];

fn rooms_of(name: &str) -> Graph {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    imports::of_crate(&root.join(name).join("src"))
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "libtest shows it to whoever wants to see it"
)]
fn no_room_is_known_by_one_that_it_knows() {
    let mut circles = Vec::new();
    for name in CRATES {
        let rooms = rooms_of(name);
        println!("{name}\n{rooms}");
        let own = rooms.circles().into_iter();
        circles.extend(own.map(|circle| format!("{name}: {}", circle.join(" → "))));
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// A crate's name in source, by its folder.
fn name_of(folder: &str) -> String {
    let last = folder.rsplit('/').next().unwrap_or(folder);
    format!("spapr_{last}")
}

/// A crate's source names only crates that stand before it.
#[test]
fn crates_know_each_other_in_one_direction() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (place, name) in CRATES.iter().enumerate() {
        let used = imports::crates_used(&root.join(name).join("src"));
        for other in &CRATES[place..] {
            let other = name_of(other);
            // Documentation tests of a crate name it; so do a crate's own programs, which are no rooms.
            let itself = other == name_of(name);
            assert!(itself || !used.contains(&other), "{name} knows {other}");
        }
    }
}
