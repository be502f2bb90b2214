//! What the bare-metal guests are made of: a small runtime below them, and what they share.
//!
//! A guest is an ELF file that a pseries VMM boots in place of a kernel. It has no operating system
//! and no C library; it runs in real mode on one processor, and talks by hypercall. (Those that
//! want more processors start them.)
//!
//! | file | what |
//! |---|---|
//! | `entry` | from the machine's first instruction to `guest_main`, in Rust |
//! | `modes` | from whatever modes a processor enters in to those of compiled code |
//! | `exception` | what happens on an interrupt: recover from a probed access, else say so and stop |
//! | `open_firmware` | the device tree of a machine that starts with Open Firmware |
//! | `processors` | more than one processor |
//! | `access` | loads and stores that may fail |
//! | `hypercall` | `sc 1` |
//! | `console` | text to the terminal |
//! | `rtas` | calls of run-time abstraction services |
//! | `clock` | the time base |
//! | `pci` | configuration space |
//! | `dma_memory` | memory that devices read and write |
//! | `dma_window` | DMA windows: the calls that map in them, and those that make them |
//! | `disk` | what is on the lab's NVMe |
//! | `nvme` | a driver for an NVMe controller |
//! | `memory` | the memory functions that compiled code expects |
//! | `fdt`, `flatten` | reading and writing the device tree |
//! | `machine` | what a guest wants to know of the tree |
//! | `random` | pseudo-random numbers that a seed repeats |
//! | `digest` | one number that stands for many |
//!
//! Those above `fdt` exist on bare metal only (feature `bare-metal`, target ppc64le).

#![cfg_attr(not(test), no_std)]

pub mod digest;
pub mod fdt;
pub mod flatten;
pub mod machine;
pub mod random;

#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod access;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod clock;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod console;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod disk;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod dma_memory;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod dma_window;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod entry;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod exception;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod hypercall;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
mod memory;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
mod modes;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod nvme;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
mod open_firmware;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod pci;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod processors;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod rtas;
