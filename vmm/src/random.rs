//! Random bytes from the kernel.

use std::io;

/// Fills `bytes` with random ones, by the system call: there may be no /dev.
///
/// # Errors
/// The kernel's refusal.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer is good for as many bytes as are asked for.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_filled_and_differ_from_call_to_call() {
        let (mut first, mut second) = ([0; 64], [0; 64]);
        fill(&mut first).expect("random bytes");
        fill(&mut second).expect("random bytes");
        assert_ne!(first, second);
        assert!(first.iter().any(|&byte| byte != 0));
    }
}
