//! What `generate.sh` made of the kernel's headers.

/// Structures and constants of `linux/kvm.h` and `asm/kvm.h`.
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::allow_attributes,
    clippy::multiple_unsafe_ops_per_block,
    clippy::ptr_as_ptr,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]
pub mod bindings;

/// The ids of registers for KVM_GET_ONE_REG and KVM_SET_ONE_REG.
#[expect(missing_docs, reason = "generated")]
pub mod registers;

pub use bindings::*;
pub use registers::*;
