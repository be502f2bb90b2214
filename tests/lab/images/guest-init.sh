#!/bin/sh
# The first program of a guest: runs the job it was given, says how it ended, and powers off.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
ln -s /proc/self/fd /dev/fd
# The drivers of the devices that are there, by class or by vendor and device, each list in loading order.
for kind in $(for device in /sys/bus/pci/devices/*; do
    [ -e $device ] && cat $device/class && echo $(cat $device/vendor)-$(cat $device/device)
done | sort -u); do
    [ -e "/lib/modules/$kind" ] || continue
    for module in $(cat "/lib/modules/$kind"); do
        grep -q "^$module " /proc/modules ||
            insmod "/lib/modules/$module.ko" || echo "LAB-GUEST-MODULE $module: cannot load"
    done
done
echo "LAB-GUEST-INIT uptime=$(cut -d' ' -f1 /proc/uptime)"

job=
for word in $(cat /proc/cmdline); do
    case $word in job=*) job=/jobs/${word#job=} ;; esac
done
[ -e /job ] && job=/job
cd /root
if [ -z "$job" ]; then
    setsid cttyhack sh -l
elif [ -e "$job" ]; then
    sh "$job"
    echo "LAB-GUEST-STATUS $?"
else
    echo "LAB-GUEST-JOB $job: not in the initrd"
    echo "LAB-GUEST-STATUS 127"
fi
sync
poweroff -f
