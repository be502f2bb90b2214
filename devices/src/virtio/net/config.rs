//! What a driver reads of a card: features and configuration (virtio 5.1.3, 5.1.4); what follows from those that it
//! accepts.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

use crate::net::{Mac, Offloads};
use crate::virtio::device;

/// Bytes of the configuration (`struct virtio_net_config`, as far as `mtu`).
const BYTES: usize = 12;
/// The link is up (VIRTIO_NET_S_LINK_UP).
const LINK_UP: u16 = 1;

/// The features that a driver is offered.
pub(super) fn features(has_offloads: bool, has_mtu: bool, has_pairs: bool) -> u64 {
    let offered = [
        (VIRTIO_NET_F_CSUM, has_offloads),
        (VIRTIO_NET_F_GUEST_CSUM, has_offloads),
        (VIRTIO_NET_F_MTU, has_mtu),
        (VIRTIO_NET_F_MAC, true),
        (VIRTIO_NET_F_GUEST_TSO4, has_offloads),
        (VIRTIO_NET_F_GUEST_TSO6, has_offloads),
        (VIRTIO_NET_F_GUEST_ECN, has_offloads),
        (VIRTIO_NET_F_HOST_TSO4, has_offloads),
        (VIRTIO_NET_F_HOST_TSO6, has_offloads),
        (VIRTIO_NET_F_HOST_ECN, has_offloads),
        (VIRTIO_NET_F_MRG_RXBUF, true),
        (VIRTIO_NET_F_STATUS, true),
        (VIRTIO_NET_F_CTRL_VQ, true),
        (VIRTIO_NET_F_CTRL_RX, true),
        (VIRTIO_NET_F_CTRL_RX_EXTRA, true),
        (VIRTIO_NET_F_CTRL_MAC_ADDR, true),
        (VIRTIO_NET_F_MQ, has_pairs),
    ];
    let bits = offered.iter().filter(|(_, offered)| *offered);
    bits.fold(0, |all, (bit, _)| all | 1 << bit)
}

/// Whether a driver that has accepted `features` knows of more than one pair of queues.
pub(super) const fn has_pairs(features: u64) -> bool {
    features & 1 << VIRTIO_NET_F_MQ != 0
}

/// Whether a driver that has accepted `features` takes a frame in several buffers.
pub(super) const fn merges_buffers(features: u64) -> bool {
    features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0
}

/// What the host may leave to a driver that has accepted `features`.
pub(super) fn offloads(features: u64) -> Offloads {
    let all = [
        (VIRTIO_NET_F_GUEST_CSUM, Offloads::CHECKSUM),
        (VIRTIO_NET_F_GUEST_TSO4, Offloads::TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, Offloads::TSO6),
        (VIRTIO_NET_F_GUEST_ECN, Offloads::ECN),
    ];
    let accepted = all.iter().filter(|(bit, _)| features & 1 << bit != 0);
    let accepted: Offloads = accepted.map(|(_, offload)| *offload).collect();
    // None goes without checksums (virtio 5.1.3.1).
    if accepted.contains(Offloads::CHECKSUM) {
        accepted
    } else {
        Offloads::empty()
    }
}

/// What a driver reads of a card beside its features.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) mac: Mac,
    pub(super) is_up: bool,
    pub(super) mtu: Option<u16>,
    /// Pairs of queues.
    pub(super) pairs: usize,
}

/// Reads the configuration at `offset`; what lies beyond it reads 0.
pub(super) fn read(look: Look, offset: usize, data: &mut [u8]) {
    let Look {
        mac,
        is_up,
        mtu,
        pairs,
    } = look;
    let mut all = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| all[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &mac.0);
    put(6, &if is_up { LINK_UP } else { 0 }.to_le_bytes());
    let pairs = u16::try_from(pairs).unwrap_or(u16::MAX);
    put(8, &pairs.to_le_bytes());
    put(10, &mtu.unwrap_or(0).to_le_bytes());
    device::read_config(&all, offset, data);
}
