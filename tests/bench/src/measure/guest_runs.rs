//! Running the bare-metal guest under a peer, and taking the rows that it prints.

use std::time::Duration;

use spapr_lab::benchmark::results::{Measured, Peer};
use spapr_lab::benchmark::row::{Row, Unit, nanoseconds};

use super::AnyError;
use super::command_line::RunArguments;
use super::hide::Kept;
use super::memory::Memory;
use super::peers::{self, Guest};
use super::watch;

/// The most time that a run takes.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// What a run gave.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The rows that the guest printed.
    pub(crate) rows: Vec<Row>,
    /// From the start of the VMM to the guest's first instruction.
    pub(crate) first_instruction: Option<Duration>,
    /// Its memory at that time.
    pub(crate) memory: Memory,
}

impl Run {
    /// The rows as measurements of `peer`.
    pub(crate) fn measured(self, peer: Peer) -> impl Iterator<Item = Measured> {
        self.rows.into_iter().map(move |row| Measured { peer, row })
    }
}

/// Runs `guest` under `peer`; none when the peer cannot.
///
/// # Errors
/// When the VMM fails, or the guest does not come to its end.
pub(crate) fn run(
    peer: Peer,
    arguments: &RunArguments,
    guest: &Guest<'_>,
) -> Result<Option<Run>, AnyError> {
    let Some(mut command) = peers::command(peer, arguments, guest) else {
        return Ok(None);
    };
    let kept = Kept::from(peer);
    if kept.is_some() {
        Kept::prepare(&mut command);
    }
    let mut run = Run::default();
    let mut hertz = 0;
    let mut is_done = false;
    let mut wrong = None;
    watch::run(
        command,
        guest.memory,
        LIMIT,
        &mut |child| kept.map_or(Ok(()), |kept| kept.keep(child)),
        &mut |running, at, line| {
            if let Some(start) = start_line(line) {
                hertz = start.hertz;
                let since = Duration::from_nanos(nanoseconds(start.ticks, hertz));
                let spent = running.time_since_start(arguments.counts_instructions, at)?;
                run.first_instruction = Some(spent.saturating_sub(since));
                run.memory = running.memory()?;
            }
            match Row::parse(line, hertz) {
                Some(Ok(row)) => run.rows.push(row),
                Some(Err(error)) => wrong = Some(error),
                None => {}
            }
            is_done |= line.contains("BENCH-DONE");
            Ok(())
        },
    )?;
    if let Some(error) = wrong {
        return Err(error.into());
    }
    if !is_done {
        return Err(format!("the guest of {} ended before it was done", peer.name()).into());
    }
    Ok(Some(run))
}

/// What the guest says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    ticks: u64,
    hertz: u64,
}

fn start_line(line: &str) -> Option<Start> {
    let rest = &line[line.find("BENCH-START ")?..];
    let number = |key: &str| {
        let mut words = rest.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.parse().ok())
    };
    Some(Start {
        ticks: number("ticks=")?,
        hertz: number("hertz=")?,
    })
}

/// A row of a few samples that were taken from outside of the guest.
pub(crate) fn outside_row(name: &str, unit: Unit, samples: &[u64]) -> Option<Row> {
    Row::of_samples(name, 1, unit, samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_first_line_is_found_behind_firmware() {
        let line = "\x1b[0mBENCH-START ticks=12 hertz=512000000\r";
        let expected = Start {
            ticks: 12,
            hertz: 512_000_000,
        };
        assert_eq!(start_line(line), Some(expected));
        assert_eq!(start_line("BENCH-START ticks=12"), None);
        assert_eq!(start_line("BENCH-DONE"), None);
    }
}
