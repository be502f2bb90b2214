//! Locks and atomics: the machine's, or with `--cfg shuttle` a model checker's that has every order of
//! their uses tried (`engine/interleavings`).
//!
//! The lock is parking_lot's: the standard library's asks, whenever it is taken and let go, whether its
//! thread panics. A panic while one is held is none of the state's fault: every step leaves it valid.

#[cfg(not(shuttle))]
mod chosen {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};
}

#[cfg(shuttle)]
mod chosen {
    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};

    /// The checker's lock with parking_lot's ways.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        /// The checker knows no time: whoever waits gets it.
        #[expect(clippy::unnecessary_wraps, reason = "as parking_lot's")]
        pub(crate) fn try_lock_for(&self, _: std::time::Duration) -> Option<MutexGuard<'_, T>> {
            Some(self.lock())
        }
    }
}

pub(crate) use chosen::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Mutex, MutexGuard};
