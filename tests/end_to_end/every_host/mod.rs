//! Tests that run on each kind of host: CPU and page size may make a difference.

mod dma;
mod host;
mod hostile_guest;
