//! The reference of the command line, made from what clap knows.

use std::fmt::Write as _;

use clap::Command;

use super::command;

/// Every command as Markdown: usage, what it does, arguments, options, examples.
pub fn markdown() -> String {
    let root = command();
    let mut page = String::new();
    add_command(&mut page, &root, "stepdown");
    page.push_str("## Global options\n\n");
    add_options(&mut page, &root, Globals::Only);
    page
}

/// Which options are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Globals {
    Only,
    Without,
}

fn add_command(page: &mut String, command: &Command, name: &str) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(page, "## {name}\n");
    let about = command.get_long_about().or_else(|| command.get_about());
    if let Some(about) = about {
        let _infallible = writeln!(page, "{}\n", about.to_string().trim());
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _infallible = writeln!(page, "```\n{usage}\n```\n");
    let mut entries = String::new();
    for argument in command.get_positionals() {
        add_entry(&mut entries, &argument.to_string(), argument);
    }
    add_options(&mut entries, command, Globals::Without);
    if !entries.is_empty() {
        let _infallible = writeln!(page, "{entries}");
    }
    if let Some(examples) = command.get_after_help() {
        let _infallible = writeln!(page, "```\n{}\n```\n", examples.to_string().trim());
    }
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            add_command(page, sub, &format!("{name} {}", sub.get_name()));
        }
    }
}

fn add_options(page: &mut String, command: &Command, globals: Globals) {
    for option in command.get_arguments() {
        let everywhere = matches!(option.get_id().as_str(), "help" | "version");
        let wanted = option.is_global_set() == (globals == Globals::Only);
        if wanted && !everywhere && !option.is_positional() {
            add_entry(page, &shown(option), option);
        }
    }
}

fn shown(option: &clap::Arg) -> String {
    let long = option.to_string();
    match option.get_short() {
        Some(short) if !long.starts_with(&format!("-{short} ")) => format!("-{short}, {long}"),
        _ => long,
    }
}

fn add_entry(page: &mut String, name: &str, argument: &clap::Arg) {
    let help = argument
        .get_long_help()
        .or_else(|| argument.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut entry = format!("- `{name}`: {}", help.trim().replace("\n\n", "\n  "));
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        let _infallible = write!(entry, "; one of {}", values.join(", "));
    }
    let _infallible = writeln!(page, "{entry}");
}
