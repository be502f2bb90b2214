#!/bin/sh
# Writes src/powerpc64/bindings.rs and src/powerpc64/registers.rs from the kernel's UAPI headers.
#
#   ./generate.sh FOLDER
#
# FOLDER holds the headers: Debian 13's package linux-libc-dev (6.12), unpacked. One way to get it,
# on Debian 13 or with apt told about that release:
#
#   apt-get download linux-libc-dev && dpkg-deb --extract linux-libc-dev_*.deb FOLDER
#
# Needs bindgen 0.72 (`cargo install bindgen-cli`) and libclang (package libclang-dev).
# Linux 6.1's headers are too old for kvm-ioctls 0.25.
set -eu

headers=${1:?usage: generate.sh FOLDER, where linux-libc-dev is unpacked}
generic=$headers/usr/include
powerpc=$headers/usr/lib/linux/uapi/powerpc
for header in "$generic/linux/kvm.h" "$powerpc/asm/kvm.h"; do
    if [ ! -f "$header" ]; then
        echo "generate.sh: no $header: is Debian 13's linux-libc-dev unpacked in $headers?" >&2
        exit 1
    fi
done
cd "$(dirname "$0")/src/powerpc64"

# No names of the machine and no sentences of the headers get into the output: the header is fed
# under a fixed name, and comments are left out.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <linux/kvm.h>' >"$work/kvm.h"

# The two defines around stddef.h keep the flexible array in kvm_coalesced_mmio_ring a plain field,
# as kvm-ioctls expects, instead of one inside an anonymous struct.
generate() {
    bindgen "$work/kvm.h" --no-doc-comments --rust-edition 2024 --rust-target 1.85 "$@" -- \
        --target=powerpc64le-linux-gnu -nostdinc -isystem "$generic" -isystem "$powerpc" \
        -D_LINUX_STDDEF_H -D_UAPI_LINUX_STDDEF_H '-D__DECLARE_FLEX_ARRAY(T,N)=T N[]'
}

# KVM_REG_* are too much for bindgen's own evaluator. With clang's they come out, but so do the
# ioctl numbers, which clash with the functions of the same names in kvm-ioctls: hence two runs.
generate --allowlist-file '.*/(linux|asm)/kvm\.h' --blocklist-item 'KVM_REG_.*' \
    --impl-debug --with-derive-default --with-derive-partialeq --impl-partialeq \
    --output bindings.rs
generate --allowlist-var 'KVM_REG_(PPC|SIZE).*' \
    --clang-macro-fallback --clang-macro-fallback-build-dir "$work" \
    --output registers.rs
