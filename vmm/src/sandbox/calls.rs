//! The system calls that each kind of thread makes after its beginning. Numbers and arguments are
//! this architecture's own, as the C library's headers have them.

use libc::c_ulong;

use super::program::Rule::{self, Call, Exactly, OfThisProcess, OneOf, Refused, WithBits};

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The main one, which makes machines, also again after a reboot, and waits for their end.
    Main,
    /// One that talks to management programs.
    Monitor,
    /// One that runs a processor.
    Processor,
    /// One that serves the queues of a device that this process makes.
    Device,
    /// One that serves a device with sockets.
    Ports,
    /// One that serves a memory balloon.
    Balloon,
    /// One that serves the queues of a network card.
    Network,
    /// One of a device whose queues the host's kernel serves.
    Vhost,
    /// One of a device whose queues another program serves.
    VhostUser,
    /// One that reads and writes the image of a disk.
    Disk,
    /// One that samples interrupt lines.
    Lines,
    /// One that writes what others queue: console and log.
    Writer,
    /// One that reads what a user types.
    Reader,
}

impl Role {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 13] = [
        Self::Main,
        Self::Monitor,
        Self::Processor,
        Self::Device,
        Self::Ports,
        Self::Balloon,
        Self::Network,
        Self::Vhost,
        Self::VhostUser,
        Self::Disk,
        Self::Lines,
        Self::Writer,
        Self::Reader,
    ];
}

/// What every thread does: memory, locks, time, signals, its own end, and streams that are open.
const EVERYONE: &[Rule] = &[
    Call(libc::SYS_futex),
    Call(libc::SYS_read),
    Call(libc::SYS_write),
    Call(libc::SYS_readv),
    Call(libc::SYS_writev),
    Call(libc::SYS_close),
    Call(libc::SYS_mmap),
    Call(libc::SYS_munmap),
    Call(libc::SYS_mprotect),
    Call(libc::SYS_mremap),
    Call(libc::SYS_madvise),
    Call(libc::SYS_brk),
    Call(libc::SYS_clock_gettime),
    Call(libc::SYS_clock_nanosleep),
    Call(libc::SYS_nanosleep),
    Call(libc::SYS_gettimeofday),
    Call(libc::SYS_sched_yield),
    Call(libc::SYS_sched_getaffinity),
    Call(libc::SYS_rt_sigaction),
    Call(libc::SYS_rt_sigprocmask),
    Call(libc::SYS_rt_sigreturn),
    Call(libc::SYS_sigaltstack),
    Call(libc::SYS_restart_syscall),
    Call(libc::SYS_getpid),
    Call(libc::SYS_gettid),
    OfThisProcess {
        call: libc::SYS_tgkill,
        argument: 0,
    },
    Call(libc::SYS_getrandom),
    Call(libc::SYS_set_robust_list),
    Call(libc::SYS_rseq),
    Call(libc::SYS_poll),
    Call(libc::SYS_ppoll),
    Call(libc::SYS_fcntl),
    Call(libc::SYS_lseek),
    // What the C library's lseek is here.
    #[cfg(target_arch = "powerpc64")]
    Call(libc::SYS__llseek),
    // A caught signal is passed on over a socket, by whichever thread it comes to.
    Call(libc::SYS_sendto),
    Call(libc::SYS_recvfrom),
    // The C library's send and recv, which are calls of their own here.
    #[cfg(target_arch = "powerpc64")]
    Call(libc::SYS_send),
    #[cfg(target_arch = "powerpc64")]
    Call(libc::SYS_recv),
    Call(libc::SYS_exit),
    Call(libc::SYS_exit_group),
    // A thread's name, the name of a piece of memory, and what a thread that begins gives up.
    OneOf {
        call: libc::SYS_prctl,
        argument: 0,
        values: &[PR_SET_NAME, PR_SET_VMA, PR_SET_NO_NEW_PRIVS],
    },
];

const PR_SET_NAME: u32 = libc::PR_SET_NAME.unsigned_abs();
const PR_SET_VMA: u32 = 0x5356_4d41;
/// The nice value of a thread that gives way to all others.
const LEAST_PRIORITY: u32 = 19;
const PR_SET_NO_NEW_PRIVS: u32 = libc::PR_SET_NO_NEW_PRIVS.unsigned_abs();

/// Talking over sockets that are open.
const SOCKETS: &[Rule] = &[
    Call(libc::SYS_accept4),
    Call(libc::SYS_recvmsg),
    Call(libc::SYS_sendmsg),
    Call(libc::SYS_shutdown),
    Call(libc::SYS_getsockopt),
    Call(libc::SYS_getsockname),
];

/// Waiting for events.
const EVENTS: &[Rule] = &[
    Call(libc::SYS_epoll_wait),
    Call(libc::SYS_epoll_pwait),
    Call(libc::SYS_epoll_ctl),
    Call(libc::SYS_epoll_create1),
    Call(libc::SYS_eventfd2),
];

/// What DMA windows, interrupts and limits need beside calls of KVM and VFIO: files of /proc that
/// tell a limit, events, timers, registers of devices.
const DEVICES: &[Rule] = &[
    Call(libc::SYS_pread64),
    Call(libc::SYS_pwrite64),
    Call(libc::SYS_eventfd2),
    Call(libc::SYS_timerfd_settime),
    Call(libc::SYS_timerfd_gettime),
    Call(libc::SYS_openat),
    Call(libc::SYS_statx),
    Call(libc::SYS_fstat),
    Call(libc::SYS_newfstatat),
    OneOf {
        call: libc::SYS_prlimit64,
        argument: 0,
        values: &[0],
    },
    Call(libc::SYS_getrlimit),
];

/// Making a machine anew, and the process' last words, which a thread of their own writes.
const MACHINE: &[Rule] = &[
    Call(libc::SYS_timerfd_create),
    Call(libc::SYS_getdents64),
    Call(libc::SYS_readlink),
    Call(libc::SYS_readlinkat),
    Call(libc::SYS_faccessat),
    Call(libc::SYS_faccessat2),
    Call(libc::SYS_getcwd),
    Call(libc::SYS_geteuid),
    Call(libc::SYS_getuid),
    Call(libc::SYS_capget),
    Call(libc::SYS_unlink),
    Call(libc::SYS_unlinkat),
    Call(libc::SYS_uname),
    Call(libc::SYS_dup),
    // Leaving the terminal is the last thing that a daemon does at its start.
    Call(libc::SYS_dup2),
    Call(libc::SYS_dup3),
    // A thread gives way to all others: this one (PRIO_PROCESS, 0), and no other.
    Exactly {
        call: libc::SYS_setpriority,
        arguments: &[(0, libc::PRIO_PROCESS), (1, 0), (2, LEAST_PRIORITY)],
    },
    // Threads, and never processes. What clone3 would make is not to be seen from its arguments:
    // the C library does without.
    WithBits {
        call: libc::SYS_clone,
        argument: 0,
        bits: (libc::CLONE_VM | libc::CLONE_THREAD).unsigned_abs(),
    },
    Refused {
        call: libc::SYS_clone3,
        errno: libc::ENOSYS,
    },
    // The filter of a thread that begins.
    OneOf {
        call: libc::SYS_seccomp,
        argument: 0,
        values: &[libc::SECCOMP_SET_MODE_FILTER],
    },
];

/// Having the kernel do what rings were made for: with the images of disks, which are open. Rings are made before
/// filters are, and are no way past them: each can do nothing else.
const RINGS: &[Rule] = &[Call(libc::SYS_io_uring_enter)];

/// What the host has for an open image of a disk.
const FACTS: &[Rule] = &[Call(libc::SYS_statx), Call(libc::SYS_fstat)];

/// Reading and writing images of disks, which are open.
const IMAGES: &[Rule] = &[
    Call(libc::SYS_pread64),
    Call(libc::SYS_pwrite64),
    Call(libc::SYS_preadv),
    Call(libc::SYS_pwritev),
    Call(libc::SYS_pwritev2),
    Call(libc::SYS_fdatasync),
    Call(libc::SYS_fsync),
    Call(libc::SYS_fallocate),
    Call(libc::SYS_ftruncate),
];

/// Waiting for descriptors that are open.
const WATCHING: &[Rule] = &[
    Call(libc::SYS_epoll_wait),
    Call(libc::SYS_epoll_pwait),
    Call(libc::SYS_epoll_ctl),
];

/// Taking who connects to sockets that are open.
const PEERS: &[Rule] = &[Call(libc::SYS_accept4)];

/// Giving descriptors to programs that serve devices, over sockets that are open.
const GIVING: &[Rule] = &[Call(libc::SYS_sendmsg), Call(libc::SYS_shutdown)];

/// Setting timers.
const TIMERS: &[Rule] = &[Call(libc::SYS_timerfd_settime)];

/// For threads that open nothing. The C library's allocator would look into /proc and /sys now and
/// then, and does without.
const NO_FILES: &[Rule] = &[Refused {
    call: libc::SYS_openat,
    errno: libc::EACCES,
}];

/// Setting a descriptor to non-blocking.
const NON_BLOCKING: &[Rule] = &[OneOf {
    call: libc::SYS_ioctl,
    argument: 1,
    values: &[number(libc::FIONBIO)],
}];

/// Terminals: their modes, at the end. And a descriptor that programs are not to inherit, and whether
/// the last words were read.
const TERMINALS: &[u32] = &[
    number(libc::FIOCLEX),
    number(libc::FIONREAD),
    TERMINAL_MODES[0],
    TERMINAL_MODES[1],
    TERMINAL_MODES[2],
    TERMINAL_MODES[3],
    number(libc::FIONBIO),
];

/// TCGETS, TCSETS, TCSETSW and TCSETSF as the kernel has them (arch/powerpc/include/uapi/asm/ioctls.h):
/// the C library's have the size of its own `struct termios`, and it calls the kernel with these.
#[cfg(target_arch = "powerpc64")]
const TERMINAL_MODES: [u32; 4] = [0x402c_7413, 0x802c_7414, 0x802c_7415, 0x802c_7416];
/// How a terminal's modes are read and set.
#[cfg(not(target_arch = "powerpc64"))]
const TERMINAL_MODES: [u32; 4] = [
    number(libc::TCGETS),
    number(libc::TCSETS),
    number(libc::TCSETSW),
    number(libc::TCSETSF),
];

/// An ioctl's number as the kernel takes it: 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's are 32 bits wide"
)]
const fn number(request: c_ulong) -> u32 {
    request as u32
}

/// What lets a line signal again.
const UNMASKING: &[u32] = &[number(spapr_devices::vfio::requests::DEVICE_SET_IRQS)];

/// What the host leaves to the guest of a TAP interface's frames, and which of its queues are used.
const OFFLOADS: &[u32] = &[
    number(spapr_devices::net::SET_OFFLOADS),
    number(spapr_devices::net::SET_QUEUE),
];

/// What the kernel is told of queues that it serves, and the same of interfaces.
const OF_VHOST: &[u32] = &{
    use spapr_devices::vhost::requests::ALL;
    let mut numbers = [0; ALL.len() + OFFLOADS.len()];
    let mut place = 0;
    while place < numbers.len() {
        numbers[place] = if place < ALL.len() {
            number(ALL[place])
        } else {
            OFFLOADS[place - ALL.len()]
        };
        place += 1;
    }
    numbers
};

/// The calls of KVM and VFIO.
const KVM_AND_VFIO: &[u32] = &{
    use spapr_devices::vfio::requests::ALL;
    use spapr_kvm::REQUESTS;
    let mut numbers = [0; REQUESTS.len() + ALL.len()];
    let mut place = 0;
    while place < numbers.len() {
        numbers[place] = if place < REQUESTS.len() {
            number(REQUESTS[place])
        } else {
            number(ALL[place - REQUESTS.len()])
        };
        place += 1;
    }
    numbers
};

/// The same, those of terminals, and those of devices that it starts.
const OF_MAIN: &[u32] = &{
    let mut numbers = [0; KVM_AND_VFIO.len() + TERMINALS.len() + OF_VHOST.len()];
    let mut place = 0;
    while place < numbers.len() {
        let of_devices = KVM_AND_VFIO.len() + TERMINALS.len();
        numbers[place] = if place < KVM_AND_VFIO.len() {
            KVM_AND_VFIO[place]
        } else if place < of_devices {
            TERMINALS[place - KVM_AND_VFIO.len()]
        } else {
            OF_VHOST[place - of_devices]
        };
        place += 1;
    }
    numbers
};

/// What a role allows; first what it does most.
pub(super) fn rules(role: Role) -> Vec<Rule> {
    let ioctls = |values| {
        [OneOf {
            call: libc::SYS_ioctl,
            argument: 1,
            values,
        }]
    };
    match role {
        Role::Processor => [&ioctls(KVM_AND_VFIO)[..], EVERYONE, DEVICES].concat(),
        // What it starts has its filter, too: a machine's next life has devices with rings, sockets, TAP interfaces.
        Role::Main => [
            EVERYONE,
            EVENTS,
            &ioctls(OF_MAIN)[..],
            DEVICES,
            MACHINE,
            RINGS,
            PEERS,
            GIVING,
        ]
        .concat(),
        Role::Monitor => [EVERYONE, EVENTS, SOCKETS, NON_BLOCKING, FACTS, NO_FILES].concat(),
        Role::Device => [EVERYONE, WATCHING, RINGS, NO_FILES].concat(),
        Role::Network => [EVERYONE, WATCHING, &ioctls(OFFLOADS)[..], NO_FILES].concat(),
        Role::Vhost => [EVERYONE, WATCHING, &ioctls(OF_VHOST)[..], NO_FILES].concat(),
        Role::VhostUser => [EVERYONE, WATCHING, GIVING, NO_FILES].concat(),
        Role::Ports => [EVERYONE, WATCHING, PEERS, TIMERS, NO_FILES].concat(),
        Role::Balloon => [EVERYONE, WATCHING, TIMERS, NO_FILES].concat(),
        Role::Disk => [EVERYONE, IMAGES, NO_FILES].concat(),
        Role::Lines => [&ioctls(UNMASKING)[..], EVERYONE, NO_FILES].concat(),
        Role::Writer | Role::Reader => [EVERYONE, SOCKETS, NO_FILES].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `rules` allow all that `rule` does.
    fn allows(rules: &[Rule], rule: Rule) -> bool {
        match rule {
            OneOf {
                call,
                argument,
                values,
            } => rules.iter().any(|other| match other {
                OneOf {
                    call: its,
                    argument: place,
                    values: more,
                } => {
                    let are_there = values.iter().all(|value| more.contains(value));
                    *its == call && *place == argument && are_there
                }
                other => *other == Call(call),
            }),
            // What a thread does not do need not be kept from it twice.
            Refused { .. } => true,
            rule => rules.contains(&rule),
        }
    }

    #[test]
    fn threads_that_are_started_after_a_reboot_may_do_what_they_do_in_the_first_life() {
        let main = rules(Role::Main);
        let started = [
            Role::Processor,
            Role::Device,
            Role::Ports,
            Role::Balloon,
            Role::Network,
            Role::Vhost,
            Role::VhostUser,
            Role::Lines,
        ];
        for role in started {
            for rule in rules(role) {
                assert!(allows(&main, rule), "{role:?}: {rule:?}");
            }
        }
    }
}
