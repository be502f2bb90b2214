#!/bin/sh
# lab-libvirt: libvirt in a root folder of its own, made of Debian's packages, which stay as they are.
#   lab-libvirt start        makes the folder, if need be, and starts virtlogd and libvirtd
#   lab-libvirt stop         kills libvirtd at once; guests go on
#   lab-libvirt PROGRAM ...  runs a program there
root=/libvirt

make_root() {
    mkdir -p $root /tmp/libvirt-upper
    mount -t tmpfs tmpfs /tmp/libvirt-upper || exit 1
    mkdir /tmp/libvirt-upper/changes /tmp/libvirt-upper/work
    mount -t overlay overlay $root \
        -o lowerdir=/opt,upperdir=/tmp/libvirt-upper/changes,workdir=/tmp/libvirt-upper/work ||
        exit 1
    mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
    mkdir -p $root/dev $root/proc $root/sys $root/tmp $root/run $root/var/run $root/root \
        $root/boot $root/var/log/libvirt/qemu $root/var/lib/libvirt/qemu
    for folder in dev proc sys tmp boot root; do
        mount --rbind /$folder $root/$folder || exit 1
    done
    mount -t tmpfs tmpfs $root/run
    ifconfig lo up
    rm -rf $root/var/run
    ln -s /run $root/var/run
    cp /usr/bin/spapr-vmm-qemu /usr/bin/spapr-vmm $root/usr/bin/
    cp -r /usr/lib/spapr-lab/python $root/usr/lib/lab-python
    ln -sf bash $root/usr/bin/sh
    # The names that Debian's alternatives give them: libvirt's network driver does not start without.
    for program in iptables ip6tables ebtables; do
        ln -sf $program-nft $root/usr/sbin/$program
    done
    # libvirt looks for the names of drivers there.
    mkdir -p $root/lib/modules/$(uname -r)
    touch $root/lib/modules/$(uname -r)/modules.alias
    cat >$root/etc/passwd <<USERS
root:x:0:0:root:/root:/bin/sh
libvirt-qemu:x:64055:64055::/:/bin/false
USERS
    cat >$root/etc/group <<GROUPS
root:x:0:
kvm:x:104:libvirt-qemu
libvirt:x:105:
libvirt-qemu:x:64055:
GROUPS
    # As Debian's udev has it; guests run as the user that Debian's libvirt has for them.
    chown 0:104 /dev/kvm
    chmod 660 /dev/kvm
    echo 0123456789abcdef0123456789abcdef >$root/etc/machine-id
    cat >>$root/etc/libvirt/libvirtd.conf <<CONFIGURATION
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
auth_unix_rw = "none"
CONFIGURATION
}

# A process that has ended and that nobody has waited for yet has no program any more.
runs() {
    for id in $(pidof "$1"); do
        readlink "/proc/$id/exe" >/dev/null && return 0
    done
    return 1
}

# libvirt makes a guest's devices from within the guest's mount namespace, and who enters one begins at the
# namespace's own root: chroot alone would not do.
inside() {
    unshare --mount sh -c 'cd "$0" && mount --move . / && exec chroot . "$@"' $root \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb \
        PYTHONPATH=/usr/lib/lab-python sh -c 'cd "$0" 2>/dev/null; exec "$@"' "$PWD" "$@"
}

case $1 in
start)
    [ -d $root/proc/1 ] || make_root
    runs virtlogd || inside virtlogd -d || exit 1
    runs libvirtd || inside libvirtd -d || exit 1
    ;;
stop)
    kill -9 $(pidof libvirtd)
    while runs libvirtd; do sleep 0.1; done
    rm -f $root/run/libvirtd.pid
    ;;
*)
    inside "$@"
    ;;
esac
