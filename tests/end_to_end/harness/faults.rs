//! Answering single calls of the VMM in the kernel's place: the n-th of a kind, or one whose
//! argument has certain fields, and also with a value that the kernel itself seldom returns.
//!
//! A seccomp filter in the VMM's process hands the calls over to a thread of the test, which
//! answers them or lets the kernel do it (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)).

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::refusal::{Preparation, set_no_new_privileges};

/// What a call is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// An error.
    Errno(i32),
    /// Success with this value; nothing has been done.
    Value(i64),
}

/// A fault of the kernel's that a test makes: calls of one kind that do not reach it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    request: u32,
    fields: Vec<(u64, u32)>,
    spared: usize,
    /// Whether all later ones are answered so, too.
    always: bool,
    answer: Answer,
    seen: Arc<AtomicUsize>,
}

impl Fault {
    /// The first ioctl with this request number is answered so, and the kernel serves the others.
    pub(crate) fn once(request: u32, answer: Answer) -> Self {
        Self {
            request,
            fields: Vec::new(),
            spared: 0,
            always: false,
            answer,
            seen: Arc::default(),
        }
    }

    /// Every ioctl with this request number is answered so.
    pub(crate) fn always(request: u32, answer: Answer) -> Self {
        Self {
            always: true,
            ..Self::once(request, answer)
        }
    }

    /// So many calls are left to the kernel before.
    pub(crate) fn after(mut self, spared: usize) -> Self {
        self.spared = spared;
        self
    }

    /// The same fault, of which nothing has been seen yet.
    pub(crate) fn fresh(mut self) -> Self {
        self.seen = Arc::default();
        self
    }

    /// Only calls whose argument points to a structure with this 32-bit field, at an offset in
    /// bytes.
    pub(crate) fn with_field(mut self, (offset, value): (u64, u32)) -> Self {
        self.fields.push((offset, value));
        self
    }

    /// How often such a call was made.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// The answer to a call, if it is meant.
    fn answer(&self, call: &libc::seccomp_notif) -> Option<Answer> {
        let [_, request, argument, ..] = call.data.args;
        if request & 0xffff_ffff != u64::from(self.request) {
            return None;
        }
        let has = |&(offset, value): &(u64, u32)| {
            let mut bytes = [0; 4];
            File::open(format!("/proc/{}/mem", call.pid))
                .and_then(|memory| memory.read_exact_at(&mut bytes, argument + offset))
                .is_ok_and(|()| u32::from_le_bytes(bytes) == value)
        };
        if !self.fields.iter().all(has) {
            return None;
        }
        let before = self.seen.fetch_add(1, Ordering::Relaxed);
        let meant = before == self.spared || self.always && before > self.spared;
        meant.then_some(self.answer)
    }
}

/// The descriptor under which the VMM's process holds the listener, for the test to take: high
/// enough to be in nobody's way.
const LISTENER: i32 = 900;

/// Where the fields of `struct seccomp_data` are, on a little-endian machine.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 16 + 8;

/// What puts the filter into place in the process that calls it.
pub(super) fn preparation(faults: &[Fault]) -> Preparation {
    let mut program = program(faults);
    Box::new(move || install(&mut program))
}

fn program(faults: &[Fault]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, k: u32, if_so: usize, if_not: usize| libc::sock_filter {
        code: u16::try_from(code).expect("codes have 16 bits"),
        jt: u8::try_from(if_so).expect("a short program"),
        jf: u8::try_from(if_not).expect("a short program"),
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ioctl = u32::try_from(libc::SYS_ioctl).expect("a small number");
    // The end: allow, then notify.
    let mut program = vec![
        instruction(load, NUMBER, 0, 0),
        instruction(equal, ioctl, 0, 1 + faults.len()),
        instruction(load, SECOND_ARGUMENT, 0, 0),
    ];
    for (index, fault) in faults.iter().enumerate() {
        program.push(instruction(equal, fault.request, faults.len() - index, 0));
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    program.push(instruction(answer, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(instruction(answer, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    program
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    set_no_new_privileges()?;
    // SAFETY: the program outlives the call, in which the kernel copies it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    // SAFETY: both are numbers; nothing of this process has the second open.
    if listener < 0 || unsafe { libc::dup2(listener, LISTENER) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Answers the calls of process `id`, which was started with [`preparation`], until it ends.
pub(super) fn supervise(id: u32, faults: Vec<Fault>) {
    let listener = i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::Error::from(io::ErrorKind::NotFound))
        .and_then(|id| Ok(pidfd_open(id, PidfdFlags::empty())?))
        .and_then(|process| Ok(pidfd_getfd(process, LISTENER, PidfdGetfdFlags::empty())?));
    // A process that has ended already has made no call that is waited for.
    if let Ok(listener) = listener {
        thread::spawn(move || while answer_next(&listener, &faults).is_ok() {});
    }
}

/// Answers one call.
///
/// # Errors
/// When the process has ended.
fn answer_next(listener: &OwnedFd, faults: &[Fault]) -> io::Result<()> {
    let mut event = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the call reads and writes one `pollfd`.
    let ready = unsafe { libc::poll(&raw mut event, 1, -1) };
    if ready != 1 || event.revents & libc::POLLIN == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    // SAFETY: zeroes are a valid value of the structure, and what the kernel wants to find there.
    let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the request writes one `seccomp_notif`.
    let received = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    };
    if received != 0 {
        return match io::Error::last_os_error() {
            // The caller was interrupted, and makes its call again.
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        };
    }
    // SAFETY: zeroes are a valid value of the structure.
    let mut response: libc::seccomp_notif_resp = unsafe { mem::zeroed() };
    response.id = call.id;
    match faults.iter().find_map(|fault| fault.answer(&call)) {
        Some(Answer::Errno(errno)) => response.error = -errno,
        Some(Answer::Value(value)) => response.val = value,
        None => {
            response.flags =
                u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("a flag of 32 bits");
        }
    }
    // SAFETY: the request reads one `seccomp_notif_resp`. A caller that is gone needs no answer.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut response,
        )
    };
    Ok(())
}
