//! Getting a vCPU out of KVM_RUN from another thread.
//!
//! Two things together leave no gap: `kvm_run.immediate_exit`, which makes the next KVM_RUN return
//! at once, and a signal, which ends the one that is running (Documentation/virt/kvm/api.rst, 5).

use std::mem::offset_of;
use std::os::raw::{c_int, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use kvm_bindings::powerpc64::kvm_run;
use log::Level;
use parking_lot::Mutex;
use spapr_devices::guest_message;
use spapr_devices::vfio::host_page_bytes;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{self, SIGRTMIN, register_signal_handler};

use crate::mapping::SharedMapping;
use crate::vcpu::Vcpu;

/// Why a vCPU cannot be kicked.
#[derive(Debug, thiserror::Error)]
pub enum KickError {
    /// The signal's handler could not be installed.
    #[error("cannot handle signal {signal}, which gets vCPUs out of KVM")]
    Handler {
        /// The signal's number.
        signal: c_int,
        /// Why.
        #[source]
        source: errno::Error,
    },
    /// The vCPU's shared page could not be mapped.
    #[error("cannot map the page that KVM shares for a vCPU")]
    Map(#[source] errno::Error),
    /// The vCPU thread cannot receive the signal.
    #[error("cannot unblock signal {signal}, which gets vCPUs out of KVM: {reason}")]
    Unblock {
        /// The signal's number.
        signal: c_int,
        /// Why.
        reason: String,
    },
}

/// Gets one vCPU out of KVM_RUN. Clones are for the same vCPU, and any thread may have one; it may
/// outlive the vCPU and its thread.
///
/// The thread that asks sets a flag of its own and then calls [`kick`](Self::kick). The vCPU's
/// thread, when KVM_RUN returns EINTR, calls [`acknowledge`](Self::acknowledge) and then looks at
/// the flags: in this order, no kick is lost.
#[derive(Clone, Debug)]
pub struct VcpuKick(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A mapping of its own of the vCPU's `kvm_run`, so that nothing here aliases the one that
    /// the vCPU hands out references to. It keeps the vCPU's file alive.
    run: SharedMapping,
    /// The thread to signal: one that runs the vCPU now. A thread takes itself out, under the
    /// lock, before it ends, so that no signal goes to one that has taken over its id.
    thread: Mutex<Option<libc::pid_t>>,
}

impl VcpuKick {
    /// A kick for `vcpu`. The first one installs a handler that does nothing for the signal
    /// (SIGRTMIN), so that it interrupts KVM_RUN and nothing else happens.
    ///
    /// # Errors
    /// [`KickError::Handler`] or [`KickError::Map`].
    pub fn new(vcpu: &Vcpu) -> Result<Self, KickError> {
        install_handler()?;
        let page = usize::try_from(host_page_bytes())
            .map_err(|_| KickError::Map(errno::Error::new(libc::ENOMEM)))?;
        let run = SharedMapping::new(&vcpu.0, page).map_err(KickError::Map)?;
        Ok(Self::with_mapping(run))
    }

    fn with_mapping(run: SharedMapping) -> Self {
        Self(Arc::new(Shared {
            run,
            thread: Mutex::new(None),
        }))
    }

    /// Makes the calling thread the one that kicks go to, until what is returned is dropped.
    ///
    /// # Errors
    /// [`KickError::Unblock`].
    pub fn enter_thread(&self) -> Result<RunningThread, KickError> {
        let signal = SIGRTMIN();
        signal::unblock_signal(signal).map_err(|error| KickError::Unblock {
            signal,
            reason: error.to_string(),
        })?;
        // SAFETY: gettid touches no memory of ours.
        self.set_thread(Some(unsafe { libc::gettid() }));
        Ok(RunningThread {
            kick: self.clone(),
            not_send: std::marker::PhantomData,
        })
    }

    /// Makes the vCPU's KVM_RUN, running or next, return EINTR.
    pub fn kick(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.0.thread.lock();
        if let Some(thread) = *thread {
            // SAFETY: signals a thread of this process, which is alive because it takes itself out
            // under the lock that is held here. The signal's handler does nothing.
            let sent =
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGRTMIN()) };
            if sent != 0 {
                // EAGAIN, when the user has more signals queued than RLIMIT_SIGPENDING allows.
                guest_message!(
                    Level::Error,
                    "vCPU thread {thread} cannot be signalled: {}",
                    errno::Error::last()
                );
            }
        }
    }

    /// Lets the vCPU run again. For the vCPU's thread, before it looks why it was kicked.
    pub fn acknowledge(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    #[cfg(test)]
    fn is_pending(&self) -> bool {
        self.immediate_exit().load(Ordering::SeqCst) != 0
    }

    fn immediate_exit(&self) -> &std::sync::atomic::AtomicU8 {
        self.0.run.byte(offset_of!(kvm_run, immediate_exit))
    }

    fn set_thread(&self, thread: Option<libc::pid_t>) {
        *self.0.thread.lock() = thread;
    }
}

/// Says that this thread runs a vCPU: kicks go to it until this is dropped, on the same thread.
#[derive(Debug)]
pub struct RunningThread {
    kick: VcpuKick,
    not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        self.kick.set_thread(None);
    }
}

/// Installs the handler for the signal, once. Without SA_RESTART: KVM_RUN is to return.
fn install_handler() -> Result<(), KickError> {
    static INSTALLED: OnceLock<errno::Result<()>> = OnceLock::new();
    extern "C" fn do_nothing(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

    let signal = SIGRTMIN();
    INSTALLED
        .get_or_init(|| register_signal_handler(signal, do_nothing))
        .map_err(|source| KickError::Handler { signal, source })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    fn kick_over_a_file() -> VcpuKick {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(0x1_0000).unwrap();
        install_handler().unwrap();
        VcpuKick::with_mapping(SharedMapping::new(&file, 0x1000).unwrap())
    }

    #[test]
    fn a_kick_sets_immediate_exit_until_acknowledged() {
        let kick = kick_over_a_file();
        assert!(!kick.is_pending());
        kick.kick();
        assert_eq!(kick.0.run.byte(1).load(Ordering::SeqCst), 1);
        assert!(kick.clone().is_pending());
        kick.acknowledge();
        assert!(!kick.is_pending());
    }

    #[test]
    fn a_kick_interrupts_a_blocking_call_of_the_thread() {
        let kick = kick_over_a_file();
        let (tell_entered, entered) = mpsc::channel();
        let thread = thread::spawn({
            let kick = kick.clone();
            move || {
                let _running = kick.enter_thread().unwrap();
                tell_entered.send(()).unwrap();
                // SAFETY: poll of no descriptors touches no memory.
                let returned = unsafe { libc::poll(std::ptr::null_mut(), 0, 60_000) };
                (returned, errno::Error::last().errno())
            }
        });
        entered.recv().unwrap();
        // The thread may not be in the call yet, as it would with KVM_RUN but for immediate_exit.
        while !thread.is_finished() {
            kick.kick();
            thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(thread.join().unwrap(), (-1, libc::EINTR));
    }

    #[test]
    fn a_kick_after_the_thread_ended_only_sets_the_flag() {
        let kick = kick_over_a_file();
        thread::spawn({
            let kick = kick.clone();
            move || drop(kick.enter_thread().unwrap())
        })
        .join()
        .unwrap();
        kick.kick();
        assert!(kick.is_pending());
        assert!(kick.0.thread.lock().is_none());
    }
}
