//! Tests that run on one kind of host.

mod bad_arguments;
mod boot;
mod console;
mod dma;
mod locked_memory;
mod missing_support;
mod output;
mod passthrough_refused;
mod reboot;
mod teardown;
mod unprivileged;
