//! Tables, as text and in docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// What was measured: one row for each figure.
#[derive(Debug)]
pub struct Table {
    /// How, in a sentence or two.
    pub how: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// What.
    pub what: String,
    /// How much, with its unit.
    pub measured: String,
    /// What it has to be; empty where nothing was promised.
    pub target: String,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Row {
    /// A figure with a target.
    pub fn with_target(what: &str, measured: String, target: &str, met: bool) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            target: target.to_owned(),
            met: Some(met),
        }
    }

    /// A figure for the reader to know.
    pub fn plain(what: &str, measured: String) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            target: String::new(),
            met: None,
        }
    }
}

/// Writes a line to the terminal.
pub fn tell(line: &str) {
    // A reader that went away has read enough.
    let _gone = writeln!(std::io::stdout(), "{line}");
}

/// Prints the table and, with `STEPDOWN_UPDATE_DOCS=1`, puts it into docs/benchmarks.md.
///
/// # Errors
/// If the page cannot be written.
pub fn show(name: &str, table: &Table) -> Result<()> {
    let text = render(table);
    tell(&text);
    if std::env::var("STEPDOWN_UPDATE_DOCS").as_deref() != Ok("1") {
        return Ok(());
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let page = fs::read_to_string(&file).context("docs/benchmarks.md cannot be read")?;
    let begin = format!("<!-- measured: {name} -->\n");
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("docs/benchmarks.md has no block {name}"))?;
    let (_, after) = rest
        .split_once("<!-- end -->")
        .with_context(|| format!("the block {name} of docs/benchmarks.md has no end"))?;
    fs::write(&file, format!("{before}{begin}{text}<!-- end -->{after}"))
        .context("docs/benchmarks.md cannot be written")
}

fn render(table: &Table) -> String {
    let mut text = format!("{}\n\n", table.how);
    text.push_str("| what | measured | target | met |\n| --- | --- | --- | --- |\n");
    for row in &table.rows {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let Row {
            what,
            measured,
            target,
            ..
        } = row;
        let _infallible = writeln!(text, "| {what} | {measured} | {target} | {met} |");
    }
    let _infallible = writeln!(text, "\n{}", circumstances());
    text
}

/// When, where and with what.
fn circumstances() -> String {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string();
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let memory_gb = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kb| kb.div_ceil(1 << 20));
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{now}; stepdown {}; {cpus} cores ({model}), {memory_gb} GB, Linux {}; load average {load} \
         at the end.",
        env!("CARGO_PKG_VERSION"),
        kernel.trim()
    )
}
