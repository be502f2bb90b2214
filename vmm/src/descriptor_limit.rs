//! How many files this process may have open.

use std::io;

/// Raises the soft limit (RLIMIT_NOFILE) to the hard one: each interrupt vector of a passed-through
/// device is a file, and a device may have 2048.
///
/// # Errors
/// The kernel's refusal; the limit is as before then.
pub fn raise() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit fills the struct it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit reads the struct it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise().expect("limits");
        let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .expect("open files");
        let [soft, hard]: [&str; 2] = line["Max open files".len()..]
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .try_into()
            .expect("two numbers");
        assert_eq!(soft, hard);
    }
}
