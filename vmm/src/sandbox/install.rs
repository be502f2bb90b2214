//! Giving a filter to the calling thread.

use std::io;

use libc::sock_fprog;

use super::calls::{Role, rules};
use super::program::assemble;

/// Why a thread has no filter.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel does not let it give up privileges.
    #[error("the kernel refuses PR_SET_NO_NEW_PRIVS")]
    Privileges(#[source] io::Error),
    /// The kernel refuses the filter.
    #[error(
        "the kernel refuses a filter of system calls for the {role:?} thread; it needs \
         CONFIG_SECCOMP_FILTER"
    )]
    Filter {
        /// The thread's role.
        role: Role,
        /// Why.
        source: io::Error,
    },
}

/// Gives the calling thread the filter of its role.
pub(super) fn install(role: Role) -> Result<(), SandboxError> {
    install_program(&mut assemble(&rules(role)), role)
}

fn install_program(program: &mut [libc::sock_filter], role: Role) -> Result<(), SandboxError> {
    // SAFETY: the call only sets a flag of the thread.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(SandboxError::Privileges(io::Error::last_os_error()));
    }
    let program = sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program's pointer is good for its length, and the kernel copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result != 0 {
        let source = io::Error::last_os_error();
        return Err(SandboxError::Filter { role, source });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::program::THIS_ARCHITECTURE;
    use super::super::program::tests::run;
    use super::*;

    /// What a child process ends with that installs a role's filter and makes a call.
    fn child_status(role: Role, call: libc::c_long) -> libc::c_int {
        // Made before the fork: a child of a process with threads may not allocate.
        let mut program = assemble(&rules(role));
        // SAFETY: the child makes system calls and ends.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            let status = match install_program(&mut program, role) {
                Ok(()) => {
                    // SAFETY: the calls of these tests take no pointers.
                    unsafe { libc::syscall(call, 0, 0, 0) };
                    0
                }
                Err(_) => 77,
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: the pointer is good for one int.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        status
    }

    #[test]
    fn a_call_that_a_role_does_not_have_kills_the_process() {
        for role in Role::ALL {
            let allowed = child_status(role, libc::SYS_getpid);
            if libc::WIFEXITED(allowed) && libc::WEXITSTATUS(allowed) == 77 {
                // qemu-user does not do filters, and so tests none.
                return;
            }
            assert!(libc::WIFEXITED(allowed), "{role:?}: {allowed:#x}");
            for call in [
                libc::SYS_socket,
                libc::SYS_execve,
                libc::SYS_ptrace,
                libc::SYS_kill,
            ] {
                let killed = child_status(role, call);
                assert!(
                    libc::WIFSIGNALED(killed) && libc::WTERMSIG(killed) == libc::SIGSYS,
                    "{role:?}, call {call}: {killed:#x}"
                );
            }
        }
    }

    #[test]
    fn only_threads_that_do_so_may_open_files_or_make_threads() {
        let verdict = |role, call: libc::c_long, argument| {
            let number = u32::try_from(call).expect("a number");
            let program = assemble(&rules(role));
            run(
                &program,
                THIS_ARCHITECTURE,
                number,
                [argument, 0, 0, 0, 0, 0],
            )
        };
        let allowed = libc::SECCOMP_RET_ALLOW;
        for role in [
            Role::Device,
            Role::Ports,
            Role::Balloon,
            Role::Network,
            Role::Vhost,
            Role::Disk,
            Role::Lines,
            Role::Monitor,
            Role::Reader,
            Role::Writer,
        ] {
            assert_ne!(verdict(role, libc::SYS_openat, 0), allowed, "{role:?}");
        }
        let thread = 0x3d_0f00;
        assert_eq!(verdict(Role::Main, libc::SYS_clone, thread), allowed);
        // What fork(2) asks for.
        assert_ne!(verdict(Role::Main, libc::SYS_clone, 0x120_0011), allowed);
        for role in [
            Role::Device,
            Role::Ports,
            Role::Balloon,
            Role::Network,
            Role::Vhost,
            Role::Disk,
            Role::Lines,
            Role::Monitor,
            Role::Reader,
            Role::Writer,
            Role::Processor,
        ] {
            assert_ne!(verdict(role, libc::SYS_clone, thread), allowed, "{role:?}");
        }
    }

    #[test]
    fn programs_are_as_short_as_the_kernel_wants_them() {
        for role in Role::ALL {
            let length = assemble(&rules(role)).len();
            assert!(length < 4096, "{role:?}: {length}");
            assert!(length > 80, "{role:?}: {length}: rules are missing");
        }
    }
}
