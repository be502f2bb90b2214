#!/bin/sh
# The first program of a guest whose system is on a disk: finds the disk, and leaves the rest to that system.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /lib/modules/root); do
    insmod "/lib/modules/$module.ko"
done
for word in $(cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
mkdir /new
until disk=$(findfs "$root" 2>/dev/null) && [ -b "$disk" ] && mount -t ext4 "$disk" /new; do
    sleep 0.1
done
for folder in dev proc sys; do
    mount --move /$folder /new/$folder
done
exec switch_root /new /usr/lib/systemd/systemd
