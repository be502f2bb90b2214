//! ioctl numbers in the layout of the target architecture, and the calls that take them.
//!
//! Nothing here states a layout: every constant is worked out from the `const fn`s that the `libc`
//! crate has for C's `_IO`, `_IOR` and `_IOW`.

use std::os::raw::{c_uint, c_ulong};

pub use upstream::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};

/// The low 32 bits of a number `libc` gives, in which all of an ioctl number lies. (`libc` gives
/// it as `c_ulong` or, for musl, as `c_int`.)
macro_rules! bits {
    ($number:expr) => {{
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an ioctl number has 32 bits"
        )]
        {
            $number as c_uint
        }
    }};
}

const NONE_IN_PLACE: c_uint = bits!(libc::_IO(0, 0));
const READ_IN_PLACE: c_uint = bits!(libc::_IOR::<()>(0, 0));
const WRITE_IN_PLACE: c_uint = bits!(libc::_IOW::<()>(0, 0));
const ONE_BYTE_IN_PLACE: c_uint = bits!(libc::_IOR::<u8>(0, 0)) ^ READ_IN_PLACE;

/// Bits of the ioctl's own number within its type.
pub const _IOC_NRBITS: c_uint = 8;
/// Bits of the type, a letter or number that stands for a driver.
pub const _IOC_TYPEBITS: c_uint = 8;
/// Bits of the size of the data passed, in bytes.
pub const _IOC_SIZEBITS: c_uint = _IOC_DIRSHIFT - _IOC_SIZESHIFT;
/// Bits of the direction.
pub const _IOC_DIRBITS: c_uint = 32 - _IOC_DIRSHIFT;

/// Mask of the number, before shifting.
pub const _IOC_NRMASK: c_uint = (1 << _IOC_NRBITS) - 1;
/// Mask of the type, before shifting.
pub const _IOC_TYPEMASK: c_uint = (1 << _IOC_TYPEBITS) - 1;
/// Mask of the size, before shifting.
pub const _IOC_SIZEMASK: c_uint = (1 << _IOC_SIZEBITS) - 1;
/// Mask of the direction, before shifting.
pub const _IOC_DIRMASK: c_uint = (1 << _IOC_DIRBITS) - 1;

/// Where the number begins.
pub const _IOC_NRSHIFT: c_uint = (bits!(libc::_IO(0, 1)) ^ NONE_IN_PLACE).trailing_zeros();
/// Where the type begins.
pub const _IOC_TYPESHIFT: c_uint = (bits!(libc::_IO(1, 0)) ^ NONE_IN_PLACE).trailing_zeros();
/// Where the size begins.
pub const _IOC_SIZESHIFT: c_uint = ONE_BYTE_IN_PLACE.trailing_zeros();
/// Where the direction begins.
pub const _IOC_DIRSHIFT: c_uint = (NONE_IN_PLACE | READ_IN_PLACE | WRITE_IN_PLACE).trailing_zeros();

/// The direction "no data".
pub const _IOC_NONE: c_uint = NONE_IN_PLACE >> _IOC_DIRSHIFT;
/// The direction "user space writes".
pub const _IOC_WRITE: c_uint = WRITE_IN_PLACE >> _IOC_DIRSHIFT;
/// The direction "user space reads".
pub const _IOC_READ: c_uint = READ_IN_PLACE >> _IOC_DIRSHIFT;

/// The direction "user space writes", in its place.
pub const IOC_IN: c_uint = WRITE_IN_PLACE;
/// The direction "user space reads", in its place.
pub const IOC_OUT: c_uint = READ_IN_PLACE;
/// Both directions, in their place.
pub const IOC_INOUT: c_uint = WRITE_IN_PLACE | READ_IN_PLACE;
/// Mask of the size, in its place.
pub const IOCSIZE_MASK: c_uint = _IOC_SIZEMASK << _IOC_SIZESHIFT;
/// Where the size begins.
pub const IOCSIZE_SHIFT: c_uint = _IOC_SIZESHIFT;

/// The ioctl number of direction `dir`, type `ty`, number `nr` and data of `size` bytes (C's
/// `_IOC`).
///
/// ```
/// use vmm_sys_util::ioctl::{_IOC_READ, ioctl_expr};
/// assert_eq!(ioctl_expr(_IOC_READ, 0x54, 0xcf, 4), libc::_IOR::<u32>(0x54, 0xcf));
/// ```
#[must_use]
pub const fn ioctl_expr(dir: c_uint, ty: c_uint, nr: c_uint, size: c_uint) -> c_ulong {
    ((dir << _IOC_DIRSHIFT)
        | (ty << _IOC_TYPESHIFT)
        | (nr << _IOC_NRSHIFT)
        | (size << _IOC_SIZESHIFT)) as c_ulong
}

/// The size of `T` as an ioctl number holds it; does not compile for a `T` too large for the
/// field.
#[doc(hidden)]
#[must_use]
pub const fn size_of<T>() -> c_uint {
    const {
        let size = std::mem::size_of::<T>();
        assert!(
            size <= _IOC_SIZEMASK as usize,
            "too large to be passed by an ioctl"
        );
        #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
        {
            size as c_uint
        }
    }
}

// The layout, pinned: powerpc's from `arch/powerpc/include/uapi/asm/ioctl.h`, the other from
// `include/uapi/asm-generic/ioctl.h`.
#[cfg(any(target_arch = "powerpc", target_arch = "powerpc64"))]
const _: () = assert!(
    _IOC_SIZEBITS == 13
        && _IOC_DIRBITS == 3
        && _IOC_NONE == 1
        && _IOC_READ == 2
        && _IOC_WRITE == 4
        && _IOC_NRSHIFT == 0
        && _IOC_TYPESHIFT == 8
        && _IOC_SIZESHIFT == 16
);
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
const _: () = assert!(
    _IOC_SIZEBITS == 14
        && _IOC_DIRBITS == 2
        && _IOC_NONE == 0
        && _IOC_READ == 2
        && _IOC_WRITE == 1
        && _IOC_NRSHIFT == 0
        && _IOC_TYPESHIFT == 8
        && _IOC_SIZESHIFT == 16
);

#[cfg(test)]
#[expect(
    clippy::allow_attributes,
    reason = "the macros cannot know which of their lints fire where they are used"
)]
mod tests {
    crate::ioctl_io_nr!(KVM_RUN, 0xae, 0x80);
    crate::ioctl_ior_nr!(KVM_PPC_GET_SMMU_INFO, 0xae, 0xa6, [u8; 0x250]);
    crate::ioctl_iow_nr!(KVM_ENABLE_CAP, 0xae, 0xa3, [u8; 0x68]);
    crate::ioctl_iowr_nr!(KVM_CREATE_DEVICE, 0xae, 0xe0, [u32; 3]);
    crate::ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, b';'.into(), 100 + 13);
    crate::ioctl_ior_nr!(EVIOCGBIT, 0x45, 0x20 + event, [u8; 128], event);

    #[test]
    fn macros_agree_with_libc_on_every_direction() {
        assert_eq!(KVM_RUN(), libc::_IO(0xae, 0x80));
        assert_eq!(
            KVM_PPC_GET_SMMU_INFO(),
            libc::_IOR::<[u8; 0x250]>(0xae, 0xa6)
        );
        assert_eq!(KVM_ENABLE_CAP(), libc::_IOW::<[u8; 0x68]>(0xae, 0xa3));
        assert_eq!(KVM_CREATE_DEVICE(), libc::_IOWR::<[u32; 3]>(0xae, 0xe0));
        assert_eq!(VFIO_IOMMU_MAP_DMA(), libc::_IO(0x3b, 113));
        assert_eq!(EVIOCGBIT(2), libc::_IOR::<[u8; 128]>(0x45, 0x22));
    }

    #[cfg(target_arch = "powerpc64")]
    #[test]
    fn numbers_are_those_of_the_powerpc_kernel() {
        assert_eq!(KVM_RUN(), 0x2000_ae80);
        assert_eq!(KVM_PPC_GET_SMMU_INFO(), 0x4250_aea6);
        assert_eq!(KVM_ENABLE_CAP(), 0x8068_aea3);
        assert_eq!(KVM_CREATE_DEVICE(), 0xc00c_aee0);
        assert_eq!(VFIO_IOMMU_MAP_DMA(), 0x2000_3b71);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn numbers_are_those_of_upstream_on_x86_64() {
        use super::{_IOC_READ, ioctl_expr};
        assert_eq!(KVM_RUN(), 0xae80);
        assert_eq!(KVM_ENABLE_CAP(), 0x4068_aea3);
        assert_eq!(
            ioctl_expr(_IOC_READ, 1, 2, 3),
            upstream::ioctl::ioctl_expr(upstream::ioctl::_IOC_READ, 1, 2, 3)
        );
    }
}
