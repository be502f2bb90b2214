//! The functions on memory that compiled code calls and a C library would have.
//!
//! Volatile accesses keep the compiler from turning a loop into a call of the function it is in.

use core::ffi::c_void;

/// Copies element `index`.
///
/// # Safety
/// Both must be aligned, have that element, and it must be the caller's to read and to write.
unsafe fn copy_one<T>(to: *mut T, from: *const T, index: usize) {
    // SAFETY: as the caller vouches.
    let value = unsafe { from.wrapping_add(index).read_volatile() };
    // SAFETY: as the caller vouches.
    unsafe { to.wrapping_add(index).write_volatile(value) };
}

/// Copies bytes from low to high addresses.
///
/// # Safety
/// As for C's `memcpy`, except that `to` may lie below `from` and overlap it.
unsafe fn copy_up(to: *mut u8, from: *const u8, count: usize) {
    let aligned = to.addr().is_multiple_of(8) && from.addr().is_multiple_of(8);
    let words = if aligned { count / 8 } else { 0 };
    for index in 0..words {
        // SAFETY: both are aligned and within `count` bytes, which are the caller's to copy.
        unsafe { copy_one::<u64>(to.cast(), from.cast(), index) };
    }
    for index in words * 8..count {
        // SAFETY: within `count` bytes, which are the caller's to copy.
        unsafe { copy_one(to, from, index) };
    }
}

/// C's `memcpy`.
///
/// # Safety
/// As in C.
// SAFETY: there is no C library that defines it, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: as the caller vouches.
    unsafe { copy_up(to.cast(), from.cast(), count) };
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C.
// SAFETY: there is no C library that defines it, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: the target is no part of the source above its start.
        unsafe { copy_up(to.cast(), from.cast(), count) };
        return to;
    }
    for index in (0..count).rev() {
        // SAFETY: within `count` bytes, from the end so that none is overwritten before it is read.
        unsafe { copy_one::<u8>(to.cast(), from.cast(), index) };
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C.
// SAFETY: there is no C library that defines it, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, value: i32, count: usize) -> *mut c_void {
    let byte = value.to_le_bytes()[0];
    let bytes = to.cast::<u8>();
    for index in 0..count {
        // SAFETY: within `count` bytes, which are the caller's to set.
        unsafe { bytes.wrapping_add(index).write_volatile(byte) };
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C.
// SAFETY: there is no C library that defines it, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const c_void, right: *const c_void, count: usize) -> i32 {
    let (left, right) = (left.cast::<u8>(), right.cast::<u8>());
    for index in 0..count {
        // SAFETY: within `count` bytes, which the caller may read.
        let a = unsafe { left.wrapping_add(index).read_volatile() };
        // SAFETY: as above.
        let b = unsafe { right.wrapping_add(index).read_volatile() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// BSD's `bcmp`.
///
/// # Safety
/// As in BSD.
// SAFETY: there is no C library that defines it, too.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const c_void, right: *const c_void, count: usize) -> i32 {
    // SAFETY: as the caller vouches.
    unsafe { memcmp(left, right, count) }
}
