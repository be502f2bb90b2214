#!/bin/sh
# The first program of an emulated host: makes it ready, runs what the lab left in the shared
# folder, reports over the control port, and powers off.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root LC_ALL=C

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp /dev/shm
if grep -q hugetlbfs /proc/filesystems; then
    mkdir /dev/hugepages
    mount -t hugetlbfs hugetlbfs /dev/hugepages
fi
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
# An optimized probe gives a task the r13 that it had before it was preempted: another processor's area, if
# it has moved. Kernels from 7.0 on are preemptible, and one with return probes soon panics.
echo 0 >/proc/sys/debug/kprobes-optimization
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ip link set lo up
hostname "lab"

# The device of the port with this name. Ports appear while the driver talks to the device, so it
# may take a moment.
port() {
    for _ in $(seq 100); do
        for port in /sys/class/virtio-ports/*; do
            if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${port##*/}"
                return
            fi
        done
        sleep 0.1
    done
}
control=$(port lab.control)
stdout=$(port lab.stdout)
stderr=$(port lab.stderr)
terminal=$(port lab.terminal)
if [ -z "$terminal" ] || [ -z "$stderr" ] || [ -z "$stdout" ] || [ -z "$control" ]; then
    echo "no ports to the lab: $(ls /sys/class/virtio-ports)"
    poweroff -f
fi
exec 3>"$control"

fail() {
    echo "fail $*" >&3
    sleep 1
    poweroff -f
}

heartbeat() {
    while sleep 4; do echo "alive"; done >&3
}

# The device of a PCI domain, which is the number of its bus at the lab: behind a root port on a machine of its own,
# on the first bus in an LPAR.
device() {
    for place in 01:00.0 00:00.0; do
        if [ -e "/sys/bus/pci/devices/$1:$place" ]; then
            echo "$1:$place"
            return
        fi
    done
    echo "$1:01:00.0"
}

load() {
    for module; do
        insmod "/lib/modules/$module.ko" || fail "cannot load the kernel module $module"
    done
}

# modprobe finds here that what it is asked for is loaded.
mkdir "/lib/modules/$(uname -r)"
load $(cat /lib/modules/first)
LAB_NVME=$(device 0001)
LAB_NIC=$(device 0003)
# Further devices are behind the host bridges with these numbers; what is not theirs is the lab's own (virtio).
more=
devices=/sys/bus/pci/devices
for device in $devices/0002:* $devices/0005:* $devices/000[6-9a-f]:* $devices/001?:*; do
    [ -e $device ] || continue
    case $(cat $device/vendor),$(cat $device/device),$(cat $device/class) in
    0x1af4,0x1110,*) more="$more ${device##*/}" ;;
    0x1af4,* | *,0x0604??) ;;
    *) more="$more ${device##*/}" ;;
    esac
done
for device in $LAB_NVME $LAB_NIC $more; do
    [ -e /sys/bus/pci/devices/$device ] || fail "no PCI device $device"
    echo vfio-pci >/sys/bus/pci/devices/$device/driver_override
done
load $(cat /lib/modules/then)
# As Debian's udev has it.
chmod 666 /dev/net/tun /dev/vhost-net /dev/vhost-vsock
for device in $LAB_NVME $LAB_NIC $more; do
    echo $device >/sys/bus/pci/drivers_probe
done
# Gives a network card to the host's driver, which makes a virtual function; that is bound to vfio-pci.
virtual_function() {
    function=/sys/bus/pci/devices/$1
    [ -d /sys/module/igb ] || load $(cat /lib/modules/virtual)
    echo $1 >/sys/bus/pci/drivers/vfio-pci/unbind
    echo >$function/driver_override
    echo $1 >/sys/bus/pci/drivers_probe
    # A virtual function has a link while the card is up.
    ip link set "$(ls $function/net)" up
    echo 1 >$function/sriov_numvfs || return
    first=$(basename "$(readlink $function/virtfn0)")
    echo vfio-pci >/sys/bus/pci/devices/$first/driver_override
    echo $first >/sys/bus/pci/drivers_probe
    echo $first
}
group() {
    basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group")"
}
LAB_NVME_GROUP=$(group $LAB_NVME)
LAB_NIC_GROUP=$(group $LAB_NIC)
[ -e "/dev/vfio/$LAB_NVME_GROUP" ] || fail "the NVMe at $LAB_NVME is not bound to vfio-pci"
export LAB_NVME LAB_NVME_GROUP LAB_NIC LAB_NIC_GROUP

share="trans=virtio,version=9p2000.L,msize=512000,cache=loose"
mount -t 9p -o "$share" lab.run /lab || fail "cannot mount the run's folder"
mkdir -p /boot
# To memory, so that nothing reads through the share while something is measured.
cp /lab/vmlinux /boot/vmlinux || fail "cannot copy the guest's kernel"
cp /lab/initrd /boot/initrd || fail "cannot copy the guest's initrd"
# As distributions call it, and the documents do.
ln -s initrd /boot/initrd.img
cp -r -P /lab/files/. / || fail "cannot copy the lab's files"
. /lab/environment
# In the order in which they were asked for, which is that of their addresses; each by its first function.
more=$(printf '%s\n' $more | grep '\.0$')
LAB_DEVICES=
for name in $LAB_DEVICE_NAMES; do
    set -- $more
    [ -n "$1" ] || fail "no device $name"
    device=$1
    [ $name = igb-vf ] && device=$(virtual_function $1)
    [ -n "$device" ] || fail "the device at $1 has no virtual function"
    LAB_DEVICES="$LAB_DEVICES $name=$device"
    shift
    more="$*"
done
export LAB_DEVICES
for extra in $LAB_EXTRA; do
    case $extra in
    extra) folder=/opt ;;
    next) folder=/opt-next ;;
    esac
    mkdir -p $folder
    mount -t 9p -o "$share,ro" lab.$extra $folder || fail "cannot mount the extra programs"
done

heartbeat &
heartbeat=$!

stdin=/dev/null
echo "ready $(cut -d' ' -f1 /proc/uptime)" >&3
if [ -e /lab/script ]; then
    # Through pipes: a port can be opened once only, and scripts open /dev/stderr again.
    mkfifo /run/stdout /run/stderr
    cat /run/stdout >"$stdout" &
    out=$!
    cat /run/stderr >"$stderr" &
    err=$!
    (cd /root && exec sh /lab/script 3>&- </dev/null >/run/stdout 2>/run/stderr)
    status=$?
    # What the script left running may hold the pipes open: wait for a moment only.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 $out 2>/dev/null || kill -0 $err 2>/dev/null || break
        sleep 0.2
    done
else
    # Opened by a session's leader, the terminal becomes the session's, with Ctrl-C.
    (cd /root && exec setsid sh -c '
        exec </dev/hvc1 >/dev/hvc1 2>&1 3>&-
        stty $LAB_TERMINAL
        exec sh -l')
    status=$?
fi

mkdir -p /lab/fetched
while read -r number path; do
    [ -e "$path" ] || { echo "missing $path" >&3; continue; }
    cp -r -L "$path" "/lab/fetched/$number" || echo "missing $path" >&3
done </lab/fetch
sync
kill $heartbeat
echo "status $status" >&3
poweroff -f
