# Runs one guest a few times and leaves in /run/demo what host, guest, kernel and VMM say about it.
tracing=/sys/kernel/tracing
handlers="put_tce put_tce_indirect stuff_tce get_tce"

mkdir -p /run/demo
{
    echo "kernel $(uname -r)"
    echo "page $(awk '/^KernelPageSize:/ { print $2 * 1024; exit }' /proc/self/smaps)"
    echo "cpu $(sed -n 's/^cpu[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "device $LAB_NVME $(cat /sys/bus/pci/devices/$LAB_NVME/vendor):$(cat /sys/bus/pci/devices/$LAB_NVME/device) group $LAB_NVME_GROUP"
} >/run/demo/host

# Counts how the kernel's handlers of the TCE hypercalls returned.
count() {
    for handler in $handlers; do
        echo "r:lab/$handler kvmppc_h_$handler status=\$retval:s64" >>$tracing/kprobe_events || exit 1
        echo 'hist:keys=status' >"$tracing/events/lab/$handler/trigger" || exit 1
    done
}
count_end() {
    cat $tracing/kprobe_profile >"$1/missed"
    for handler in $handlers; do
        cat "$tracing/events/lab/$handler/hist" >"$1/$handler"
        echo '!hist:keys=status' >"$tracing/events/lab/$handler/trigger"
    done
    : >$tracing/kprobe_events
}

# The folder of the findings, then the options.
run() {
    findings=/run/demo/$1
    shift
    mkdir -p "$findings"
    echo "LAB-STEP running the guest with $*"
    count
    timeout -s INT 120 spapr-vmm run --kernel /boot/vmlinux --initrd /boot/initrd \
        --append 'console=hvc0 job=nvme-digest' --memory 1G --cpus 2 \
        --vfio "$LAB_NVME" "$@" --stats "$findings/stats.json" \
        </dev/null >"$findings/console" 2>"$findings/errors"
    echo $? >"$findings/status"
    count_end "$findings"
}
while read -r name options; do
    run "$name" $options
done <<RUNS
$LAB_DEMO_RUNS
RUNS
echo "LAB-STEP end"
