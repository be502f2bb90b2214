//! A program's functions, and which of them an emulator's log says ran.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead};
use std::ops::Range;
use std::path::Path;

use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};
use thiserror::Error;

/// Why a program cannot be read.
#[derive(Debug, Error)]
pub(crate) enum ProgramError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Format(#[from] object::Error),
    #[error("no segment holds its entry point")]
    NoCode,
}

/// The code of a program that is not moved when it is loaded, and what is in it.
pub(super) struct Program {
    start: u64,
    code: Vec<u8>,
    /// By their ends, which tell where to look for an address.
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Function {
    addresses: Range<u64>,
    name: String,
}

/// The functions that ran.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ran {
    /// Their symbols, and others of the same places.
    pub(super) names: BTreeSet<String>,
    /// How long they are, together.
    pub(super) bytes: u64,
}

impl Program {
    pub(super) fn read(path: &Path) -> Result<Self, ProgramError> {
        let contents = fs::read(path)?;
        let file = object::File::parse(&*contents)?;
        let segment = file
            .segments()
            .find(|segment| {
                (segment.address()..segment.address() + segment.size()).contains(&file.entry())
            })
            .ok_or(ProgramError::NoCode)?;
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
            .map(|symbol| {
                Ok(Function {
                    addresses: symbol.address()..symbol.address() + symbol.size(),
                    name: symbol.name()?.to_owned(),
                })
            })
            .collect::<Result<Vec<_>, object::Error>>()?;
        Ok(Self::new(
            segment.address(),
            segment.data()?.to_vec(),
            functions,
        ))
    }

    fn new(start: u64, code: Vec<u8>, mut functions: Vec<Function>) -> Self {
        functions.sort_by_key(|function| function.addresses.end);
        Self {
            start,
            code,
            functions,
        }
    }

    /// Where its code is.
    pub(super) fn addresses(&self) -> Range<u64> {
        self.start..self.start + self.code.len() as u64
    }

    /// How long all its functions are.
    pub(super) fn function_bytes(&self) -> u64 {
        total(self.functions.iter())
    }

    /// The functions that ran by a log of QEMU's (`-d in_asm`), which has a line for each instruction:
    /// `0x10131370:  3c401028  lis …`. Other programs of the host's may have run at the same addresses: what counts is
    /// an instruction that this one has there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn ran(&self, log: impl BufRead) -> io::Result<Ran> {
        let mut ran = BTreeSet::new();
        for line in log.split(b'\n') {
            if let Some((address, instruction)) = logged(&String::from_utf8_lossy(&line?))
                && self.instruction(address) == Some(instruction)
            {
                let first = self
                    .functions
                    .partition_point(|function| function.addresses.end <= address);
                let at = |function: &&Function| function.addresses.contains(&address);
                let there = self.functions[first..].iter().enumerate();
                // Several symbols of one place have one end.
                ran.extend(
                    there
                        .take_while(|(_, function)| at(function))
                        .map(|(index, _)| first + index),
                );
            }
        }
        let functions = || ran.iter().map(|&index| &self.functions[index]);
        Ok(Ran {
            names: functions().map(|function| function.name.clone()).collect(),
            bytes: total(functions()),
        })
    }

    fn instruction(&self, address: u64) -> Option<u32> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let bytes = self.code.get(offset..offset.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The bytes of functions that stand in the order of their ends, each place once.
fn total<'a>(functions: impl Iterator<Item = &'a Function>) -> u64 {
    let mut end = 0;
    functions
        .map(|function| {
            let new = function
                .addresses
                .end
                .saturating_sub(end.max(function.addresses.start));
            end = function.addresses.end;
            new
        })
        .sum()
}

/// The address and the word of a line about an instruction.
fn logged(line: &str) -> Option<(u64, u32)> {
    let (address, rest) = line.strip_prefix("0x")?.split_once(':')?;
    let word = rest.split_whitespace().next()?;
    Some((
        u64::from_str_radix(address, 16).ok()?,
        u32::from_str_radix(word, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        let function = |addresses, name: &str| Function {
            addresses,
            name: name.to_owned(),
        };
        let mut code = Vec::new();
        for word in 0..6u32 {
            code.extend(word.to_le_bytes());
        }
        Program::new(
            0x1000,
            code,
            vec![
                function(0x1010..0x1018, "third"),
                function(0x1000..0x1008, "first"),
                function(0x1008..0x1010, "second"),
                function(0x1008..0x1010, "seconds_other_name"),
            ],
        )
    }

    #[test]
    fn a_function_ran_if_the_log_has_an_instruction_of_it() {
        let log = "----------------\nIN: \n0x1004:  00000001  word\n0x000000000000100c:  00000003  word\n";
        let ran = program().ran(log.as_bytes()).unwrap();
        let names = ["first", "second", "seconds_other_name"];
        assert_eq!(ran.names, names.map(str::to_owned).into());
        assert_eq!(ran.bytes, 16);
        assert_eq!(program().function_bytes(), 24);
    }

    #[test]
    fn another_programs_code_at_the_same_address_does_not_count() {
        let log = "0x1004:  60000000  nop\n0x2000:  00000001  word\n0x0:  00000000  word\n0xzz:\n";
        assert_eq!(program().ran(log.as_bytes()).unwrap(), Ran::default());
    }
}
