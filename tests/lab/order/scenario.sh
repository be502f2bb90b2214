# Runs a guest, has it use what it has, and kills its VMM in the middle of its life.
mkfifo /tmp/typed
exec 3<>/tmp/typed
: >/tmp/console

# Waits until the guest's console has a text.
said() {
    for _ in $(seq 600); do
        grep -q "$1" /tmp/console && return
        sleep 0.2
    done
    cat /tmp/console
    exit 1
}
case $LAB_SCENARIO in
device | user)
    more=
    [ $LAB_SCENARIO = user ] && more='--tce user --iommu v1 --ddw off'
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd --append 'console=hvc0 quiet' --memory 512M \
        --vfio "$LAB_NVME" $more <&3 >/tmp/console 2>&1 &
    work='dd if=/dev/nvme0n1 of=/dev/null bs=1M count=16'
    ;;
virtio)
    truncate -s 64M /tmp/disk
    tunctl -t lab-order && ip address add 10.77.9.1/24 dev lab-order && ip link set lab-order up || exit 1
    spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd --append 'console=hvc0 quiet' --memory 512M \
        --disk /tmp/disk --net tap=lab-order --rng --balloon --serial-port lab.port=/tmp/port \
        <&3 >/tmp/console 2>&1 &
    work='dd if=/dev/vda of=/dev/null bs=1M count=16 && dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync &&
        dd if=/dev/hwrng of=/dev/null bs=64 count=4 && for port in /dev/vport*p1; do : >$port; done &&
        ip address add 10.77.9.2/24 dev eth0 && ip link set eth0 up && ping -c 2 10.77.9.1'
    ;;
front-end)
    spapr-vmm-qemu -name lab -machine pseries,accel=kvm -m 512 -smp 1 -nographic -no-reboot \
        -kernel /boot/vmlinux -initrd /boot/initrd -append 'console=hvc0 quiet' -device "vfio-pci,host=$LAB_NVME" -qmp unix:/tmp/monitor,server=on,wait=off \
        <&3 >/tmp/console 2>&1 &
    work='dd if=/dev/nvme0n1 of=/dev/null bs=1M count=16'
    ;;
esac
vmm=$!
said '~ # '
# The guest works the sum out: the echo of what is typed does not match.
echo "sleep 2; $work && echo DONE-\$((40 + 2))" | tr '\n' ' ' >&3
echo >&3
said DONE-42
kill -KILL $vmm
