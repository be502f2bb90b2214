//! `vmm-sys-util` as the registry has it, with ioctl numbers that are right on powerpc64.
//!
//! The registry's crate lays an ioctl number out as most architectures do. powerpc does not: its
//! direction field has three bits, its size field thirteen, and "no data" is not zero (Linux
//! `arch/powerpc/include/uapi/asm/ioctl.h`). So the macros that declare ioctl numbers, and the
//! module [`ioctl`] they rest on, are replaced here by ones that take the layout from the `libc`
//! crate, which knows it for every architecture. All else is passed through.

pub use upstream::*;

pub mod ioctl;

/// Declares `fn $name() -> c_ulong` (or `fn $name(args…)`, every argument a `c_uint`) giving the
/// ioctl number of a direction, type, number and size in bytes.
///
/// ```
/// use vmm_sys_util::ioctl::_IOC_NONE;
/// vmm_sys_util::ioctl_ioc_nr!(KVM_CREATE_VM, _IOC_NONE, 0xae, 0x01, 0);
/// assert_eq!(KVM_CREATE_VM(), libc::_IO(0xae, 0x01));
/// ```
#[macro_export]
macro_rules! ioctl_ioc_nr {
    ($name:ident, $dir:expr, $ty:expr, $nr:expr, $size:expr $(, $arg:ident)*) => {
        #[allow(non_snake_case, missing_docs, unreachable_pub)]
        pub fn $name($($arg: ::std::os::raw::c_uint),*) -> ::std::os::raw::c_ulong {
            // Typed, because callers pass things like `b';'.into()`.
            let ty: ::std::os::raw::c_uint = $ty;
            let nr: ::std::os::raw::c_uint = $nr;
            $crate::ioctl::ioctl_expr($dir, ty, nr, $size)
        }
    };
}

/// Declares the number of an ioctl that passes no data (C's `_IO`).
///
/// ```
/// vmm_sys_util::ioctl_io_nr!(KVM_RUN, 0xae, 0x80);
/// assert_eq!(KVM_RUN(), libc::_IO(0xae, 0x80));
/// ```
#[macro_export]
macro_rules! ioctl_io_nr {
    ($name:ident, $ty:expr, $nr:expr $(, $arg:ident)*) => {
        $crate::ioctl_ioc_nr!($name, $crate::ioctl::_IOC_NONE, $ty, $nr, 0 $(, $arg)*);
    };
}

/// Declares the number of an ioctl from which user space reads a `$data` (C's `_IOR`).
///
/// ```
/// vmm_sys_util::ioctl_ior_nr!(TUNGETFEATURES, 0x54, 0xcf, u32);
/// assert_eq!(TUNGETFEATURES(), libc::_IOR::<u32>(0x54, 0xcf));
/// ```
#[macro_export]
macro_rules! ioctl_ior_nr {
    ($name:ident, $ty:expr, $nr:expr, $data:ty $(, $arg:ident)*) => {
        $crate::ioctl_ioc_nr!(
            $name,
            $crate::ioctl::_IOC_READ,
            $ty,
            $nr,
            $crate::ioctl::size_of::<$data>()
            $(, $arg)*
        );
    };
}

/// Declares the number of an ioctl to which user space writes a `$data` (C's `_IOW`).
///
/// ```
/// vmm_sys_util::ioctl_iow_nr!(TUNSETQUEUE, 0x54, 0xd9, i32);
/// assert_eq!(TUNSETQUEUE(), libc::_IOW::<i32>(0x54, 0xd9));
/// ```
#[macro_export]
macro_rules! ioctl_iow_nr {
    ($name:ident, $ty:expr, $nr:expr, $data:ty $(, $arg:ident)*) => {
        $crate::ioctl_ioc_nr!(
            $name,
            $crate::ioctl::_IOC_WRITE,
            $ty,
            $nr,
            $crate::ioctl::size_of::<$data>()
            $(, $arg)*
        );
    };
}

/// Declares the number of an ioctl that passes a `$data` both ways (C's `_IOWR`).
///
/// ```
/// vmm_sys_util::ioctl_iowr_nr!(KVM_CREATE_DEVICE, 0xae, 0xe0, [u32; 3]);
/// assert_eq!(KVM_CREATE_DEVICE(), libc::_IOWR::<[u32; 3]>(0xae, 0xe0));
/// ```
#[macro_export]
macro_rules! ioctl_iowr_nr {
    ($name:ident, $ty:expr, $nr:expr, $data:ty $(, $arg:ident)*) => {
        $crate::ioctl_ioc_nr!(
            $name,
            $crate::ioctl::_IOC_READ | $crate::ioctl::_IOC_WRITE,
            $ty,
            $nr,
            $crate::ioctl::size_of::<$data>()
            $(, $arg)*
        );
    };
}
