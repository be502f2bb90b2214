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
    for subcommand in CommandLine::command().get_subcommands() {
        let path = pages.join(format!("spapr-vmm-{}.1", subcommand.get_name()));
        if path.exists() {
            fs::write(
                &path,
                in_sections(&fs::read_to_string(&path)?, subcommand.get_name()),
            )?;
        }
    }
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

/// The program and its version, at a page's foot.
const SOURCE: &str = concat!("spapr-vmm ", env!("CARGO_PKG_VERSION"));

/// The page of a command of `spapr-vmm`, with sections such as manuals have. clap_mangen takes all that help says behind
/// the options for one, and gives such a command no version.
fn in_sections(page: &str, name: &str) -> String {
    let page = page
        .replacen(&format!("\"{name} \""), &format!("\"{SOURCE}\""), 1)
        .replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n")
        .replace(".SH EXTRA\nExit status: ", ".SH \"EXIT STATUS\"\n")
        .replace("\nExit status: ", "\n.SH \"EXIT STATUS\"\n");
    let see = ".SH \"SEE ALSO\"\n\\fBspapr\\-vmm\\fR(1), and the pages in /usr/share/doc/spapr\\-vmm/docs\n";
    format!("{}\n{see}", page.trim_end())
}

/// The page of the front end for libvirt, whose options are QEMU's and not clap's: what its help says.
fn front_end() -> Result<String, Box<dyn Error>> {
    let help = command_line::answer(&["-help".to_owned()]).ok_or("it has no help")?;
    let mut page = Roff::new();
    page.control("TH", ["spapr-vmm-qemu", "1", "", SOURCE]);
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
