//! PAPR hypercalls and the TCE engine of a pseries machine.
//!
//! Everything here is pure logic: no ioctl, no file descriptor, no thread. What the engine needs of
//! the world (guest memory, the host's IOMMU, the kernel's TCE table) are the traits of [`world`],
//! so that all of it is tested on any machine.
//!
//! | module | what lives there |
//! |---|---|
//! | [`abi`] | hypercall numbers, return codes, argument registers |
//! | [`address`], [`tce`] | newtypes for addresses, LIOBNs, page sizes and entries |
//! | [`world`] | what the engine needs of its surroundings, as traits |
//! | [`engine`] | the hypercalls themselves; the way of one call is told there |
//! | `window`, `registry` | a window's geometry, and how a LIOBN is found |
//! | `binding`, `view` | a window's states, and the guest's view of its entries in each |
//! | [`locking`] | regions of RAM, locked as they are first mapped |
//! | [`policy`], [`stats`] | what the user chooses; what is counted |

#![forbid(unsafe_code)]

pub mod abi;
pub mod address;
mod binding;
pub mod engine;
pub mod locking;
pub mod policy;
mod registry;
pub mod stats;
mod sync;
pub mod tce;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod view;
mod window;
pub mod world;
