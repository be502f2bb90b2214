//! A network card of the machine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;
use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::filter::Filter;
use crate::guest_message;
use crate::net::{Backend, Mac, StreamError};
use crate::vhost::Vhost;

/// How a card is to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicOptions {
    /// How messages name it.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// The longest packets that the driver is told to send, in bytes; it chooses without.
    pub mtu: Option<u16>,
    /// The most entries of the queue for received frames, a power of two.
    pub receive_entries: u16,
    /// The most entries of the queue for frames to send, a power of two.
    pub transmit_entries: u16,
}

/// A card with what carries its frames. It outlasts a machine's life: the host's side stays open, since a sandbox has
/// no calls to open it anew.
pub struct Nic {
    options: NicOptions,
    has_offloads: bool,
    /// By which the host's kernel passes its frames: one for each pair of queues, or none.
    vhosts: Vec<Arc<Vhost>>,
    /// Signalled when the link has changed.
    event: Arc<EventFd>,
    /// Where what carries its frames is while no device has it: one for each pair of queues.
    backends: Mutex<Option<Vec<Backend>>>,
    /// What the driver wants, for whoever asks.
    filter: Mutex<Filter>,
    /// Its cable is plugged in.
    is_plugged: AtomicBool,
    /// Nothing carries its frames any more.
    is_lost: AtomicBool,
    link_has_changed: AtomicBool,
}

impl Nic {
    /// A card of that look, with what carries its frames.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(backend: Backend, options: NicOptions) -> io::Result<Self> {
        Ok(Self {
            has_offloads: backend.has_offloads(),
            vhosts: Vec::new(),
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            backends: Mutex::new(Some(vec![backend])),
            filter: Mutex::new(Filter::of_card(options.mac)),
            is_plugged: AtomicBool::new(true),
            is_lost: AtomicBool::new(false),
            link_has_changed: AtomicBool::new(false),
            options,
        })
    }

    /// The same with further pairs of queues, whose frames `more` carry: queues of the same interface.
    pub fn with_pairs(mut self, more: Vec<Backend>) -> Self {
        if let Some(all) = self.backends.get_mut() {
            all.extend(more);
        }
        self
    }

    /// The same, whose frames the host's kernel passes by `vhosts`, one for each pair, if it is in an interface.
    pub fn with_vhosts(mut self, vhosts: Vec<Vhost>) -> Self {
        self.vhosts = vhosts.into_iter().map(Arc::new).collect();
        self
    }

    /// By which the host's kernel passes its frames, if it does.
    pub(super) fn vhosts(&self) -> &[Arc<Vhost>] {
        &self.vhosts
    }

    /// How it looks.
    pub const fn options(&self) -> &NicOptions {
        &self.options
    }

    /// What its driver wants.
    pub fn filter(&self) -> Filter {
        self.filter.lock().clone()
    }

    /// Whether frames pass.
    pub fn is_up(&self) -> bool {
        self.is_plugged.load(Ordering::Acquire) && !self.is_lost.load(Ordering::Acquire)
    }

    /// Whether nothing carries its frames any more.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Plugs its cable in or out, and has its driver told.
    pub fn plug(&self, is_in: bool) {
        if self.is_plugged.swap(is_in, Ordering::AcqRel) != is_in {
            self.tell_of_link();
        }
    }

    /// Says that nothing carries its frames any more.
    #[cold]
    pub(super) fn lose(&self, why: &StreamError) {
        if !self.is_lost.swap(true, Ordering::AcqRel) {
            let name = &self.options.name;
            guest_message!(
                Level::Error,
                "{name}: the guest's network is gone, and its link is down: {why}"
            );
            self.tell_of_link();
        }
    }

    fn tell_of_link(&self) {
        self.link_has_changed.store(true, Ordering::Release);
        // It fails only where 2^64 - 2 changes have not been heard.
        let _ = self.event.write(1);
    }

    /// Whether the link has changed since this was last asked.
    pub(super) fn take_link_change(&self) -> bool {
        self.link_has_changed.swap(false, Ordering::AcqRel)
    }

    pub(super) const fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    pub(super) const fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    pub(super) fn set_filter(&self, filter: &Filter) {
        self.filter.lock().clone_from(filter);
    }

    pub(super) fn take_backends(&self) -> Option<Vec<Backend>> {
        self.backends.lock().take()
    }

    pub(super) fn put_backends(&self, backends: Vec<Backend>) {
        *self.backends.lock() = Some(backends);
    }
}
