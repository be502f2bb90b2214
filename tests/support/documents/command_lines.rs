//! Command lines in a page: those of its blocks of code, and those within its sentences.

use super::Contents;

/// A command line as a page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Its words, without the program's name. Where the page has a word in capitals for what a reader puts there, a
    /// value stands that can be one.
    pub words: Vec<String>,
    /// It shows what can be typed, with brackets or dots: its options can be looked up, it cannot be read as a whole.
    pub is_synopsis: bool,
    /// The line that it is in, from 1.
    pub line: usize,
}

/// The command lines of `program`, such as `spapr-vmm` or `cargo lab`.
pub fn command_lines(contents: &Contents, program: &str) -> Vec<CommandLine> {
    let mut found = Vec::new();
    for block in &contents.blocks {
        for (text, place) in joined_lines(&block.text) {
            let line = block.line + place + usize::from(!block.info.is_empty());
            found.extend(read(&text, program, line));
        }
    }
    for (text, line) in &contents.words {
        found.extend(read(text, program, *line));
    }
    found
}

/// Lines, with those that a backslash goes on in, each with its place from 0.
fn joined_lines(text: &str) -> Vec<(String, usize)> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    let mut goes_on = false;
    for (place, line) in text.lines().enumerate() {
        let (line, more) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((last, _)) if goes_on => last.push_str(line),
            _ => lines.push((line.to_owned(), place)),
        }
        goes_on = more;
    }
    lines
}

/// The command line of `program` that `text` is, behind a prompt, `sudo` or what is set for it alone.
fn read(text: &str, program: &str, line: usize) -> Option<CommandLine> {
    let text = text.trim();
    let text = text.strip_prefix("$ ").unwrap_or(text);
    // A glance saves reading what is no shell's.
    text.contains(program).then_some(())?;
    let mut words = shlex::split(text)?;
    while words
        .first()
        .is_some_and(|word| word == "sudo" || sets_variable(word))
    {
        words.remove(0);
    }
    for name in program.split(' ') {
        if words.first().map(String::as_str) != Some(name) {
            return None;
        }
        words.remove(0);
    }
    let is_operator = |word: &String| {
        matches!(
            word.as_str(),
            "|" | ">" | ">>" | "<" | "&" | "&&" | ";" | "2>&1"
        )
    };
    let end = words.iter().position(is_operator).unwrap_or(words.len());
    words.truncate(end);
    let is_open = |word: &String| {
        word.contains(['[', ']', '…', '│']) || word == "OPTIONS" || word.contains("...")
    };
    let is_synopsis = words.iter().any(is_open);
    let words = words.iter().map(|word| fill_in(word)).collect();
    Some(CommandLine {
        words,
        is_synopsis,
        line,
    })
}

fn sets_variable(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let is_letter = |letter: char| letter.is_ascii_uppercase() || letter == '_';
        !name.is_empty() && name.chars().all(is_letter)
    })
}

/// A value for a word in capitals.
fn fill_in(word: &str) -> String {
    match word {
        "SIZE" => "1G",
        "DEVICE" | "ADDRESS" => "0001:01:00.0",
        "GROUP" => "1",
        "HOST" => "p9-64k",
        "NAME" => "nvme",
        "NUMBER" | "COUNT" | "N" | "SECONDS" => "1",
        "SRC:DST" => "source:/destination",
        "PATH:DEST" => "/path:destination",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::contents;

    #[test]
    fn command_lines_are_found_in_blocks_and_in_sentences() {
        let text = "Type `spapr-vmm iommu DEVICE --memory 4G`, or `spapr-vmm-qemu -help`:\n\n    \
                    A=1 sudo spapr-vmm run --kernel k \\\n        --append \"a b\" > file  # not read\n    \
                    spapr-vmm iommu [GROUP]\n    echo spapr-vmm\n";
        let found = command_lines(&contents(text), "spapr-vmm");
        let line = |words: &[&str], is_synopsis, line| CommandLine {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            is_synopsis,
            line,
        };
        let expected = [
            line(&["run", "--kernel", "k", "--append", "a b"], false, 3),
            line(&["iommu", "[GROUP]"], true, 5),
            line(&["iommu", "0001:01:00.0", "--memory", "4G"], false, 1),
        ];
        assert_eq!(found, expected);
        assert_eq!(command_lines(&contents(text), "spapr-vmm-qemu").len(), 1);
    }
}
