//! What a run of the benchmark finds, as `spapr-bench` writes it and `cargo lab bench` reads it.

pub mod results;
pub mod row;
