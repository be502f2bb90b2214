//! README.md and the pages of docs/, for tests: their links, their headings, and the command lines that they show.

mod command_lines;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

pub use command_lines::{CommandLine, command_lines};

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Where it is, from the root of the source tree.
    pub path: PathBuf,
    /// What it says, in Markdown.
    pub text: String,
}

/// A block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What follows the fence, such as `sh run-in-host`; empty for a block that is set off by spaces.
    pub info: String,
    /// What is in it.
    pub text: String,
    /// The line that it begins in, from 1.
    pub line: usize,
}

/// What a page has in it.
#[derive(Debug, Default)]
pub struct Contents {
    /// Where its links and pictures lead.
    pub links: Vec<String>,
    /// What its headings can be reached by, as GitHub makes it of their words.
    pub anchors: Vec<String>,
    /// Its blocks of code.
    pub blocks: Vec<Block>,
    /// Code within its sentences, with the line that it is in, from 1.
    pub words: Vec<(String, usize)>,
}

/// README.md and all pages of docs/.
///
/// # Errors
/// When they cannot be read.
pub fn pages() -> io::Result<Vec<Page>> {
    let root = root();
    let mut paths = vec![PathBuf::from("README.md")];
    for entry in fs::read_dir(root.join("docs"))? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|it| it == "md") {
            paths.push(Path::new("docs").join(name));
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root.join(&path))?;
        Ok(Page { path, text })
    };
    paths.into_iter().map(read).collect()
}

/// The page of docs/ whose file has that name.
///
/// # Errors
/// When it cannot be read.
pub fn page(name: &str) -> io::Result<Page> {
    let path = Path::new("docs").join(name);
    let text = fs::read_to_string(root().join(&path))?;
    Ok(Page { path, text })
}

/// The root of the source tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Page {
    /// What it has in it.
    pub fn contents(&self) -> Contents {
        contents(&self.text)
    }
}

/// What a page of that text has in it.
pub fn contents(text: &str) -> Contents {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let line_of = |offset: usize| 1 + text[..offset].matches('\n').count();
    let mut contents = Contents::default();
    let (mut heading, mut block): (Option<String>, Option<Block>) = (None, None);
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                contents.links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                contents
                    .anchors
                    .extend(heading.take().map(|it| anchor(&it)));
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let info = match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                let line = line_of(range.start);
                block = Some(Block {
                    info,
                    text: String::new(),
                    line,
                });
            }
            Event::End(TagEnd::CodeBlock) => contents.blocks.extend(block.take()),
            Event::Text(words) => {
                if let Some(block) = &mut block {
                    block.text.push_str(&words);
                } else if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
                let line = line_of(range.start);
                contents.words.push((words.into_string(), line));
            }
            _ => {}
        }
    }
    number_repeated(&mut contents.anchors);
    contents
}

/// What GitHub makes of a heading: small letters and digits, and dashes for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|character| match character {
        ' ' | '-' => Some('-'),
        '_' => Some('_'),
        _ if character.is_alphanumeric() => Some(character),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

/// A heading whose words were there before has a number behind it.
fn number_repeated(anchors: &mut [String]) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for anchor in anchors {
        let times = seen.entry(anchor.clone()).or_default();
        *times += 1;
        if *times > 1 {
            anchor.push_str(&format!("-{}", *times - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_links_anchors_and_code() {
        let text = "# `spapr-vmm iommu`, or: what?\n\nSee [there](other.md#b) and `x --y`.\n\n    indented\n\n\
                    ## Twice\n## Twice\n\n```sh run-in-host\nfenced\n```\n";
        let contents = contents(text);
        assert_eq!(contents.links, ["other.md#b"]);
        assert_eq!(
            contents.anchors,
            ["spapr-vmm-iommu-or-what", "twice", "twice-1"]
        );
        let block = |info: &str, text: &str, line| Block {
            info: info.to_owned(),
            text: text.to_owned(),
            line,
        };
        let blocks = [
            block("", "indented\n", 5),
            block("sh run-in-host", "fenced\n", 10),
        ];
        assert_eq!(contents.blocks, blocks);
        assert_eq!(contents.words[1], ("x --y".to_owned(), 3));
    }
}
