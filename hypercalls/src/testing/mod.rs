//! Models of the world around the engine: guest memory with holes, and a host that does what VFIO
//! and KVM do, keeps score, refuses when told to, and notes what must never happen.
//!
//! They allocate when they are made and in set-up calls only, so that a test can count what the
//! engine itself allocates.

mod agreeing;
mod handlers;
mod host;
mod memory;

pub use self::agreeing::{AgreeingHost, NoTable};
pub use self::handlers::FakeHandlers;
pub use self::host::{ContainerVersion, FakeHost, FakeTable, Fault, Mapping};
pub use self::memory::FakeMemory;
