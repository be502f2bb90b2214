//! Memory that is a device's: a BAR as any other, but that it holds what is written.

mod long {
    use crate::harness::Vmm;
    use crate::harness::host::{assert_nothing_is_left, device};
    use crate::harness::registers::Registers;

    /// The BAR that is memory, and the host's and the guest's places in its last page.
    const MEMORY_BAR: u8 = 2;
    const HOSTS: usize = 0x3f_f000;
    const GUESTS: usize = 0x3f_f008;
    const WORD: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn what_host_and_guest_write_to_a_shared_memory_is_what_the_other_reads() {
        let ivshmem = device("ivshmem-plain");
        let mut memory = Registers::of_device(&ivshmem, MEMORY_BAR);
        memory.write_u64(HOSTS, WORD);
        memory.write_u64(GUESTS, 0);
        drop(memory);
        // Host and guest have words of opposite byte orders.
        let swapped = WORD.swap_bytes();
        let job = format!(
            "
card=/sys/bus/pci/devices/0000:00:00.0
printf '\\002' | dd of=$card/config bs=1 seek=4 count=1 conv=notrunc 2>/dev/null || exit 1
set -- $(sed -n 3p $card/resource)
echo LAB-GUEST-SIZE $(($2 - $1 + 1))
echo LAB-GUEST-FOUND $(busybox devmem $(($1 + {HOSTS})) 64)
busybox devmem $(($1 + {GUESTS})) 64 {swapped:#x}
"
        );
        let vmm = Vmm::job(&job).option("--cpus", "2");
        let finished = vmm.option("--vfio", &ivshmem).run().assert_job_done();
        assert_eq!(finished.guest("SIZE"), (4 << 20).to_string(), "{finished}");
        let found = format!("0x{swapped:016X}");
        assert_eq!(finished.guest("FOUND"), found, "{finished}");
        let memory = Registers::of_device(&ivshmem, MEMORY_BAR);
        assert_eq!(memory.read_u64(GUESTS), WORD, "{finished}");
        assert_nothing_is_left();
    }
}
