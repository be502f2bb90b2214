//! Rooms and what each of them knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Which room knows which others.
#[derive(Debug, Default)]
pub(crate) struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// There is a room.
    pub(crate) fn add_room(&mut self, room: &str) {
        self.0.entry(room.to_owned()).or_default();
    }

    /// `room` knows `other`.
    pub(crate) fn add(&mut self, room: &str, other: &str) {
        if room != other {
            let known = self.0.entry(room.to_owned()).or_default();
            known.insert(other.to_owned());
        }
    }

    /// Without what is no room.
    pub(crate) fn of_rooms_alone(mut self) -> Self {
        let rooms: BTreeSet<String> = self.0.keys().cloned().collect();
        for known in self.0.values_mut() {
            known.retain(|other| rooms.contains(other));
        }
        self
    }

    /// All circles: each a way from a room that comes back to it, the shortest from the first of its rooms.
    pub(crate) fn circles(&self) -> Vec<Vec<&str>> {
        let circle_from = |room| self.way(room, room);
        let mut circles: Vec<Vec<&str>> = self.0.keys().filter_map(|it| circle_from(it)).collect();
        circles.retain(|circle| circle.iter().all(|room| *room >= circle[0]));
        circles
    }

    /// The shortest way from what `start` knows to `end`, with both.
    fn way<'a>(&'a self, start: &'a str, end: &str) -> Option<Vec<&'a str>> {
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                let last = *way.last()?;
                for next in self.0.get(last).into_iter().flatten() {
                    let mut way = way.clone();
                    way.push(next);
                    if next == end {
                        return Some(way);
                    }
                    if seen.insert(next) {
                        longer.push(way);
                    }
                }
            }
            ways = longer;
        }
        None
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (room, known) in &self.0 {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            writeln!(f, "    {room} → {}", known.join(", "))?;
        }
        Ok(())
    }
}

#[test]
fn pairs_and_longer_circles_are_found_once_and_ways_are_not() {
    let mut graph = Graph::default();
    for (room, other) in [
        ("a", "b"),
        ("b", "c"),
        ("a", "c"),
        ("c", "d"),
        ("d", "b"),
        ("e", "f"),
        ("f", "e"),
        ("e", "e"),
    ] {
        graph.add(room, other);
    }
    let circles = graph.circles();
    assert_eq!(circles, [&["b", "c", "d", "b"][..], &["e", "f", "e"]]);
}
