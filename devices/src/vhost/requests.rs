//! vhost's ioctl requests (include/uapi/linux/vhost.h) that a device's thread makes, for a filter of system calls.

use std::os::raw::c_ulong;

use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr};

/// vhost's ioctl type.
const TYPE: u32 = 0xaf;

const fn write(number: u32, bytes: u32) -> c_ulong {
    ioctl_expr(_IOC_WRITE, TYPE, number, bytes)
}

/// VHOST_SET_FEATURES.
pub const SET_FEATURES: c_ulong = write(0x00, 8);
/// VHOST_SET_MEM_TABLE.
pub const SET_MEM_TABLE: c_ulong = write(0x03, 8);
/// VHOST_SET_VRING_NUM.
pub const SET_VRING_NUM: c_ulong = write(0x10, 8);
/// VHOST_SET_VRING_ADDR.
pub const SET_VRING_ADDR: c_ulong = write(0x11, 40);
/// VHOST_SET_VRING_BASE.
pub const SET_VRING_BASE: c_ulong = write(0x12, 8);
/// VHOST_GET_VRING_BASE.
pub const GET_VRING_BASE: c_ulong = ioctl_expr(_IOC_READ | _IOC_WRITE, TYPE, 0x12, 8);
/// VHOST_SET_VRING_KICK.
pub const SET_VRING_KICK: c_ulong = write(0x20, 8);
/// VHOST_SET_VRING_CALL.
pub const SET_VRING_CALL: c_ulong = write(0x21, 8);
/// VHOST_SET_VRING_ERR.
pub const SET_VRING_ERR: c_ulong = write(0x22, 8);
/// VHOST_NET_SET_BACKEND.
pub const NET_SET_BACKEND: c_ulong = write(0x30, 8);

/// VHOST_VSOCK_SET_GUEST_CID, which is made before there is a filter.
pub(super) const VSOCK_SET_GUEST_CID: c_ulong = write(0x60, 8);
/// VHOST_VSOCK_SET_RUNNING.
pub const VSOCK_SET_RUNNING: c_ulong = write(0x61, 4);

/// All of them.
pub const ALL: &[c_ulong] = &[
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_VRING_NUM,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    GET_VRING_BASE,
    SET_VRING_KICK,
    SET_VRING_CALL,
    SET_VRING_ERR,
    NET_SET_BACKEND,
    VSOCK_SET_RUNNING,
];

#[cfg(test)]
mod tests {
    use vhost::vhost_kern::vhost_binding;

    use super::*;

    #[test]
    fn the_crate_makes_these_calls() {
        let of_crate = [
            vhost_binding::VHOST_SET_FEATURES(),
            vhost_binding::VHOST_SET_MEM_TABLE(),
            vhost_binding::VHOST_SET_VRING_NUM(),
            vhost_binding::VHOST_SET_VRING_ADDR(),
            vhost_binding::VHOST_SET_VRING_BASE(),
            vhost_binding::VHOST_GET_VRING_BASE(),
            vhost_binding::VHOST_SET_VRING_KICK(),
            vhost_binding::VHOST_SET_VRING_CALL(),
            vhost_binding::VHOST_SET_VRING_ERR(),
            vhost_binding::VHOST_NET_SET_BACKEND(),
            vhost_binding::VHOST_VSOCK_SET_RUNNING(),
        ];
        assert_eq!(ALL, of_crate);
        let of_crate = vhost_binding::VHOST_VSOCK_SET_GUEST_CID();
        assert_eq!(VSOCK_SET_GUEST_CID, of_crate);
    }
}
