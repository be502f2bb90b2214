//! What Linux guests are there to do: scripts that their init runs.

/// Nothing: the guest powers off.
pub(super) const NOTHING: &str = ". /defences\n";

/// Tells what the guest is defended against.
pub(super) const DEFENCES: &str = "\
for file in /sys/devices/system/cpu/vulnerabilities/*; do
    [ -e $file ] && echo BENCH-DEFENCE ${file##*/} $(cat $file)
done
";

/// The first program of a system's initial RAM disk, before the one that it has itself: tells what the guest is defended
/// against. With `login=agetty` on the kernel's command line, it starts what asks for a name in place of the system.
pub(super) const LOGIN: &str = "\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
. /defences
if ! grep -qw login=agetty /proc/cmdline; then
    umount /sys /proc
    exec /init
fi
mount -t devtmpfs dev /dev
for module in $(cat /lib/modules/root); do
    insmod /lib/modules/$module.ko
done
mkdir /new
until mount -t ext4 /dev/vda /new 2>/dev/null; do
    sleep 0.1
done
for folder in dev proc sys; do
    mount --move /$folder /new/$folder
done
hostname debian
exec switch_root /new /usr/sbin/agetty --noclear hvc0
";

/// Reads a block device.
pub(super) fn read(device: &str) -> String {
    once(
        &format!("[ -b {device} ]"),
        &format!("exec /spapr-bench read $reads {device}\n"),
    )
}

/// Exchanges data with the host over a network.
pub(super) fn exchange() -> String {
    let exchange = format!("{NETWORK}exec /spapr-bench exchange $reads 10.77.9.1\n");
    once("[ -e /sys/class/net/eth0 ]", &exchange)
}

/// Uses a virtio device of each kind once, after which all that a VMM needs for them is in its memory.
/// What a port is told waits for somebody at its other end, so it is opened and no more.
pub(super) fn use_all() -> String {
    let are_there = "[ -b /dev/vda ] && [ -e /sys/class/net/eth0 ] && ls /dev/vport*p1 && \
         ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio* && \
         grep virtio /sys/class/misc/hw_random/rng_current";
    let once_each = format!(
        "dd if=/dev/vda of=/dev/null bs=1M count=16 || exit 1\n\
         dd if=/dev/hwrng of=/dev/null bs=64 count=4 || exit 1\n\
         for port in /dev/vport*p1; do : >$port || exit 1; done\n\
         {NETWORK}ping -c 2 10.77.9.1 || exit 1\n\
         echo BENCH-EQUIPPED\n\
         sleep 1\n"
    );
    once(are_there, &once_each)
}

const NETWORK: &str = "ip address add 10.77.9.2/24 dev eth0 && ip link set eth0 up || exit 1\n";

/// Does something once a condition holds, which it soon does: drivers find devices while init runs.
fn once(condition: &str, then: &str) -> String {
    format!(
        ". /defences\n\
         holds() {{ {condition}; }}\n\
         for _ in 1 2 3 4 5 6 7 8 9 10; do\n    holds && break\n    sleep 0.5\ndone >/dev/null 2>&1\n\
         holds >/dev/null 2>&1 || exit 1\n\
         {then}"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_job_waits_for_what_it_needs_and_gives_up() {
        let sh = |script: &str| {
            let script = script.replace(". /defences", ":").replace("sleep 0.5", ":");
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            (
                output.status.success(),
                String::from_utf8(output.stdout).unwrap(),
            )
        };
        assert_eq!(
            sh(&once("[ -d / ]", "echo there\n")),
            (true, "there\n".into())
        );
        assert_eq!(
            sh(&once("[ -b /none ]", "echo there\n")),
            (false, String::new())
        );
        let own = [NOTHING, LOGIN].map(str::to_owned);
        for job in [read("/dev/vda"), exchange(), use_all()]
            .into_iter()
            .chain(own)
        {
            let output = Command::new("sh").args(["-nc", &job]).output().unwrap();
            assert!(output.status.success(), "{job}");
        }
    }
}
