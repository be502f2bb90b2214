//! Writes the manual pages of both programs and the shells' completions for `spapr-vmm`, from the definitions of
//! their command lines: `cargo run --package spapr-vmm --example manual -- FOLDER`. `cargo lab package` runs it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use spapr_vmm::cli::CommandLine;
use spapr_vmm::qemu::command_line;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).ok_or("say into which folder")?;
    write(Path::new(&folder))
}

/// Writes all of them below `folder`: pages in `man`, completions in `completions`.
pub(crate) fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(CommandLine::command(), &pages)?;
    fs::write(pages.join("spapr-vmm-qemu.1"), front_end()?)?;
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = CommandLine::command();
        let path = clap_complete::generate_to(shell, &mut command, "spapr-vmm", &completions)?;
        if shell == Shell::Bash {
            // clap_complete takes the hyphen of the program's name for what is between a command and its own commands,
            // in one of two places: no option of those would be completed.
            let script = fs::read_to_string(&path)?;
            fs::write(path, script.replace("spapr__subcmd__vmm", "spapr__vmm"))?;
        }
    }
    Ok(())
}

/// The page of the front end for libvirt, whose options are QEMU's and not clap's: what its help says.
fn front_end() -> Result<String, Box<dyn Error>> {
    let help = command_line::answer(&["-help".to_owned()]).ok_or("it has no help")?;
    let mut page = Roff::new();
    page.control("TH", ["spapr-vmm-qemu", "1"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "spapr-vmm-qemu - runs guests of spapr-vmm for libvirt",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("spapr-vmm-qemu"), roman(" [OPTIONS]")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in help.split("\n\n") {
        page.control("PP", []);
        page.text([roman(paragraph.trim())]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("spapr-vmm"),
        roman("(1), "),
        bold("spapr-vmm-run"),
        roman("(1)"),
    ]);
    Ok(page.to_roff())
}
