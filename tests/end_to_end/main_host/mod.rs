//! Tests that run on one kind of host.

mod bad_arguments;
mod boot;
mod bulk_calls;
mod console;
mod device_notices;
mod devices;
mod disturbed_monitor;
mod dma;
mod dma_isolation;
mod dma_windows;
mod interrupt_controllers;
mod iommu;
mod kexec;
mod locked_memory;
mod memory_limit;
mod missing_support;
mod monitor;
mod output;
mod passthrough_refused;
mod raw_terminal;
mod refused_at_run_time;
mod refused_at_start;
mod sandbox;
mod tce_sequences;
mod teardown;
mod unprivileged;
