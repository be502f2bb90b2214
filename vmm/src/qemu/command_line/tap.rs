//! `-netdev tap`: interfaces, their queues, and by what the kernel passes their frames.

use std::os::fd::RawFd;

use super::CommandLineError;
use super::properties::Properties;
use crate::spec::{MOST_NET_PAIRS, NetBackend, VhostSource};

/// What carries the frames, and how many pairs of queues there are.
pub(super) fn tap(properties: &mut Properties) -> Result<(NetBackend, u16), CommandLineError> {
    properties.ignore(&["poll-us", "sndbuf"]);
    for script in ["script", "downscript"] {
        properties.only(script, &["no", ""])?;
    }
    properties.either("vnet_hdr")?;
    let fds = descriptors(properties, "fd", "fds")?;
    let is_count = |count| (1..=MOST_NET_PAIRS).contains(&count);
    let queues = properties.number16("queues", "1 to 64", is_count)?;
    let name = properties.text("ifname")?;
    let given = u16::try_from(fds.len()).unwrap_or(u16::MAX);
    match (given, name) {
        (0, Some(name)) => Ok((NetBackend::Tap(name), queues.unwrap_or(1))),
        // With descriptors, their number says it.
        (1.., None) if is_count(given) && queues.is_none_or(|queues| queues == given) => {
            Ok((NetBackend::Descriptors(fds), given))
        }
        (1.., None) => Err(CommandLineError::Combination(format!(
            "{}: there are {given} descriptors of queues; there may be 64, and queues= may say how many they are",
            properties.context()
        ))),
        _ => Err(CommandLineError::Combination(format!(
            "{} needs fd= or ifname=, one of them",
            properties.context()
        ))),
    }
}

/// The descriptors that one property or the other has: one, or several with colons between.
fn descriptors(
    properties: &mut Properties,
    one: &str,
    several: &str,
) -> Result<Vec<RawFd>, CommandLineError> {
    let expected = "numbers of open file descriptors with colons between";
    let fds = match properties.text(several)? {
        None => Vec::new(),
        Some(text) => {
            let fds = text
                .split(':')
                .map(|fd| fd.parse().ok().filter(|fd| *fd >= 0));
            let fds: Option<Vec<RawFd>> = fds.collect();
            fds.ok_or_else(|| properties.wrong(several, &text, expected))?
        }
    };
    match properties.descriptor(one)? {
        None => Ok(fds),
        Some(fd) if fds.is_empty() => Ok(vec![fd]),
        Some(_) => Err(CommandLineError::Combination(format!(
            "{}: {one}= and {several}= do not go together",
            properties.context()
        ))),
    }
}

/// By what the kernel is to pass frames, if it is: one for each of so many pairs.
pub(super) fn vhosts(
    properties: &mut Properties,
    pairs: u16,
) -> Result<Vec<VhostSource>, CommandLineError> {
    let forced = properties.switch("vhostforce")?.unwrap_or(false);
    let is_on = properties.switch("vhost")?.unwrap_or(forced);
    let fds = descriptors(properties, "vhostfd", "vhostfds")?;
    let pairs = usize::from(pairs);
    match (is_on, fds.len()) {
        (true, 0) => Ok(vec![VhostSource::Path; pairs]),
        (true, given) if given == pairs => {
            Ok(fds.into_iter().map(VhostSource::Descriptor).collect())
        }
        (true, given) => Err(CommandLineError::Combination(format!(
            "{}: vhostfds= has {given} descriptors for {pairs} pairs of queues",
            properties.context()
        ))),
        (false, 0) => Ok(Vec::new()),
        (false, _) => Err(CommandLineError::Combination(format!(
            "{}: vhostfd= goes with vhost=on",
            properties.context()
        ))),
    }
}
