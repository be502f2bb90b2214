//! What the bare-metal guests are made of: a small runtime below them, and what they share.
//!
//! A guest is an ELF file that a pseries VMM boots in place of a kernel. It has no operating system
//! and no C library; it runs in real mode on one processor, and talks by hypercall.
//!
//! | file | what |
//! |---|---|
//! | `entry` | from the machine's first instruction to `guest_main`, in Rust |
//! | `exception` | what happens on an interrupt: recover from a probed access, else say so and stop |
//! | `access` | loads and stores that may fail |
//! | `hypercall` | `sc 1` |
//! | `console` | text to the terminal |
//! | `rtas` | calls of run-time abstraction services |
//! | `memory` | the memory functions that compiled code expects |
//! | `fdt` | reading the device tree |
//! | `machine` | what a guest wants to know of the tree |
//! | `random` | pseudo-random numbers that a seed repeats |
//! | `digest` | one number that stands for many |
//!
//! The first seven exist on bare metal only (feature `bare-metal`, target ppc64le).

#![cfg_attr(not(test), no_std)]

pub mod digest;
pub mod fdt;
pub mod machine;
pub mod random;

#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod access;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod console;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod entry;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod exception;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod hypercall;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
mod memory;
#[cfg(all(target_arch = "powerpc64", feature = "bare-metal"))]
pub mod rtas;
