//! A machine from its first life to its last, for every front end: making it, its guest's reboots, its end,
//! and what is counted of it.
//!
//! | file | what it is for |
//! |---|---|
//! | `lives` | the loop of a machine's lives, whatever machines and front ends are |
//! | `machines` | the machine, and what all its lives share: terminal, threads, counters |
//! | `error` | why a session failed |

mod error;
mod lives;
mod machines;

pub use error::SessionError;
pub use lives::{FrontEnd, LifeError, Machines, Next, live, outcome};
pub use machines::{Fixtures, Lives, Session};
