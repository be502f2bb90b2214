//! Tests that run inside an emulated host; `cargo lab test` takes them there.

mod host;
