//! `stepdown man`

use std::io;
use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::{Context, command};

/// Write a man page to stdout, or all of them to a directory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown man marker rm | man -l -
  stepdown man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The command whose page is meant; without it, that of stepdown itself
    pub command: Vec<String>,

    /// Write every page into this directory, which must exist
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// `NotFound` for a command that there is not; where a page could not be written.
pub fn run(args: &ManArgs, context: &mut Context) -> Result<Status> {
    let pages = pages()?;
    if let Some(dir) = &args.dir {
        for page in &pages {
            let file = dir.join(page.file_name());
            std::fs::write(&file, &page.text).map_err(|error| {
                let message = format!("cannot write {}: {error}", file.display());
                Failure::new(Exit::Failed, message)
            })?;
        }
        return Ok(Exit::Ok.into());
    }
    let name = ["stepdown".to_owned()]
        .into_iter()
        .chain(args.command.iter().cloned())
        .collect::<Vec<_>>()
        .join("-");
    let Some(page) = pages.iter().find(|page| page.name == name) else {
        let message = format!("there is no command {:?}", args.command.join(" "));
        return Err(Failure::new(Exit::NotFound, message));
    };
    context.out.raw(&page.text)?;
    Ok(Exit::Ok.into())
}

/// One page.
#[derive(Debug)]
pub struct Page {
    /// Its name, as `stepdown-marker-rm`.
    pub name: String,
    /// Its source, in roff.
    pub text: Vec<u8>,
}

impl Page {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}.1", self.name)
    }
}

/// Every page: of stepdown itself, then of each command.
///
/// # Errors
/// None in practice: they are written to memory.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut pages = Vec::new();
    add_pages(&command(), "stepdown", &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &clap::Command, name: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    let mut text = Vec::new();
    let man = Man::new(command.clone())
        .title(name)
        .manual("stepdown manual");
    man.render(&mut text)?;
    if name == "stepdown" {
        more_of_stepdown().to_writer(&mut text)?;
    }
    pages.push(Page {
        name: name.to_owned(),
        text,
    });
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            add_pages(sub, &format!("{name}-{}", sub.get_name()), pages)?;
        }
    }
    Ok(())
}

/// What the command line itself does not know.
fn more_of_stepdown() -> Roff {
    let mut roff = Roff::new();
    let entry = |roff: &mut Roff, term: &str, text: &str| {
        roff.control("TP", []);
        roff.text([bold(term)]);
        roff.text([roman(text)]);
    };
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        entry(&mut roff, &exit.code().to_string(), exit.meaning());
    }
    roff.text([roman(
        "Under run, 0 to 63 are the exit code of the command that it runs, and stepdown's own \
         failures are 64 more than above.",
    )]);
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, text) in super::VARIABLES {
        entry(&mut roff, name, text);
    }
    roff.control("SH", ["FILES"]);
    entry(
        &mut roff,
        "~/.config/stepdown/stepdown.toml",
        "The user's configuration.",
    );
    entry(
        &mut roff,
        crate::config::load::SYSTEM_FILE,
        "The configuration of the machine, where the user has none.",
    );
    roff
}
