//! A sound card: commands by DMA to it, answers by DMA from it, and sound that it fetches at its own pace.

mod long {
    use super::super::interrupt_lines::{NO_MSI, lines_of};
    use crate::harness::Vmm;
    use crate::harness::host::{assert_nothing_is_left, device};
    use crate::harness::jobs::LIST_LINES;

    /// What /dev/dsp takes in a second before anybody says otherwise, in bytes.
    const BYTES_PER_SECOND: u64 = 8_000;
    const SECONDS: u64 = 4;

    /// Plays for so long; says what the codec is, how long it took in hundredths of a second, and how many interrupts
    /// came meanwhile. The driver takes messages of other makes of the card alone unless it is told.
    fn play() -> String {
        format!(
            "
for _ in $(seq 40); do
    [ -c /dev/dsp ] && break
    sleep 0.25
done
[ -c /dev/dsp ] || {{ echo LAB-GUEST-ERROR no sound; exit 1; }}
echo LAB-GUEST-CODEC $(grep -m 1 Codec: /proc/asound/card0/codec#0)
count() {{ awk -v cpus=$(nproc) '/snd_hda/ {{ for (i = 2; i < 2 + cpus; i++) sum += $i }} END {{ print sum + 0 }}' /proc/interrupts; }}
now() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}
before=$(count)
began=$(now)
dd if=/dev/urandom of=/dev/dsp bs={BYTES_PER_SECOND} count={SECONDS} 2>/dev/null || exit 1
echo LAB-GUEST-TOOK $(($(now) - began))
echo LAB-GUEST-INTERRUPTS $(($(count) - before))
echo LAB-GUEST-TROUBLE $(dmesg | grep -c -i -e 'hda.*timeout' -e 'hda.*polling' -e 'nobody cared')
"
        )
    }

    fn use_sound(append: &str, expected: &[&str]) {
        let job = [&play(), LIST_LINES].concat();
        let vmm = Vmm::job(&job).option("--cpus", "2");
        let finished = vmm
            .option("--vfio", &device("intel-hda"))
            .option("--append", append)
            .run()
            .assert_job_done();
        assert_eq!(finished.guest("CODEC"), "Codec: QEMU Generic", "{finished}");
        let number = |key: &str| finished.guest(key).parse::<u64>().expect("a number");
        // The last of it may still be in a buffer.
        let sound = (SECONDS - 2) * 100..SECONDS * 1000;
        assert!(sound.contains(&number("TOOK")), "{finished}");
        assert!(number("INTERRUPTS") > 3, "{finished}");
        assert_eq!(finished.guest("TROUBLE"), "0", "{finished}");
        assert_eq!(lines_of(&finished), expected, "{finished}");
        assert_nothing_is_left();
    }

    #[test]
    fn a_sound_card_plays_by_its_messages() {
        use_sound("console=hvc0 snd_hda_intel.enable_msi=1", &[]);
    }

    #[test]
    fn a_sound_card_plays_by_its_line() {
        use_sound(NO_MSI.1, &["4608 Level snd_hda_intel:card0"]);
    }
}
