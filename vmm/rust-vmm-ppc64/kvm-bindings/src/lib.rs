//! kvm-bindings for powerpc64.
