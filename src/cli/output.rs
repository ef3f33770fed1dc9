//! What a command writes to stdout: a text for people, or JSON.

use std::io::{self, IsTerminal as _, Write};

use clap::builder::PossibleValue;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use super::Global;

/// A result that a command shows, as JSON by its fields and as text.
pub trait Report: Serialize {
    /// The text for people, lines with or without a final line break.
    fn text(&self, look: Look) -> String;
}

/// How texts look: with colours, and how wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whether escape sequences are written.
    pub colors: bool,
    /// Columns of the terminal; `None` where there is none, then nothing is wrapped.
    pub width: Option<u16>,
}

impl Look {
    /// Text without colours or wrapping.
    pub const PLAIN: Look = Look {
        colors: false,
        width: None,
    };

    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match (self.colors, tone.code()) {
            (true, Some(code)) => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// What a word says, shown as a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Needs attention.
    Warn,
    /// Is wrong.
    Bad,
    /// Matters less.
    Dim,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Warn => Some("33"),
            Tone::Bad => Some("31"),
            Tone::Dim => Some("2"),
        }
    }
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl clap::ValueEnum for ColorChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &[ColorChoice::Auto, ColorChoice::Always, ColorChoice::Never]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            ColorChoice::Auto => "auto",
            ColorChoice::Always => "always",
            ColorChoice::Never => "never",
        }))
    }
}

/// In which form results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Terminal,
    Pipe,
    /// It went away.
    Gone,
}

impl ColorChoice {
    /// Whether to use colours on a stream that is a terminal or not.
    pub(super) fn allows(self, terminal: bool) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        }
    }
}

/// The one way from a command to stdout.
///
/// A reader that went away (`| head`) is no error: what comes after is dropped, and
/// [`Output::is_closed`] tells a command that streams to end. The exit code stays the command's own.
pub struct Output {
    sink: Box<dyn Write + Send>,
    look: Look,
    reader: Reader,
    format: Format,
    quiet: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("look", &self.look)
            .field("reader", &self.reader)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Output to stdout.
    pub fn stdout(global: &Global) -> Self {
        let width = || Some(rustix::termios::tcgetwinsize(io::stdout()).ok()?.ws_col);
        let reader = Reader::of(io::stdout().is_terminal());
        Self::new(Box::new(io::stdout()), reader, width(), global)
    }

    /// Output to stderr, for `run`: there stdout belongs to the command that it runs.
    pub fn stderr(global: &Global) -> Self {
        let width = || Some(rustix::termios::tcgetwinsize(io::stderr()).ok()?.ws_col);
        let reader = Reader::of(io::stderr().is_terminal());
        Self::new(Box::new(io::stderr()), reader, width(), global)
    }

    fn new(
        sink: Box<dyn Write + Send>,
        reader: Reader,
        width: Option<u16>,
        global: &Global,
    ) -> Self {
        let terminal = reader == Reader::Terminal;
        Self {
            sink,
            look: Look {
                colors: global.color.allows(terminal),
                width: width.filter(|width| terminal && *width >= 20),
            },
            reader,
            format: global.format(),
            quiet: global.quiet,
        }
    }

    /// The form of the results.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How texts look here.
    pub fn look(&self) -> Look {
        self.look
    }

    /// Whether a person is reading along.
    pub fn is_terminal(&self) -> bool {
        self.reader == Reader::Terminal
    }

    /// Whether the reader went away.
    pub fn is_closed(&self) -> bool {
        self.reader == Reader::Gone
    }

    /// Shows the result of a command: one JSON document, or its text.
    ///
    /// # Errors
    /// Where it could not be written, other than for want of a reader.
    pub fn result(&mut self, report: &impl Report) -> io::Result<()> {
        match self.format {
            Format::Json if self.is_terminal() => self.line(&serde_json::to_string_pretty(report)?),
            Format::Json | Format::Text => self.event(report),
        }
    }

    /// Shows one event of a stream: one JSON object on one line, or its text.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn event(&mut self, report: &impl Report) -> io::Result<()> {
        match self.format {
            Format::Json => self.line(&serde_json::to_string(report)?),
            Format::Text => self.line(report.text(self.look).trim_end_matches('\n')),
        }
    }

    /// Shows the result of a command whose text only confirms what was asked: `--quiet` drops it.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn confirmation(&mut self, report: &impl Report) -> io::Result<()> {
        if self.quiet && self.format == Format::Text {
            return Ok(());
        }
        self.result(report)
    }

    /// Writes a text as it is, whether or not JSON was asked for (completions, man pages).
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.write(format!("{text}\n").as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_closed() {
            return Ok(());
        }
        let written = self.sink.write_all(bytes).and_then(|()| self.sink.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader = Reader::Gone;
                Ok(())
            }
            other => other,
        }
    }
}

impl Reader {
    fn of(terminal: bool) -> Self {
        if terminal {
            Reader::Terminal
        } else {
            Reader::Pipe
        }
    }
}

/// One row of cells, each with its tone.
pub type Row = Vec<(String, Tone)>;

/// A cell that says nothing in particular.
pub fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A table with a head, its columns aligned, without lines; wrapped only on a terminal.
pub fn table(look: Look, head: &[&str], rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match look.width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.force_no_tty();
    if look.colors {
        table.enforce_styling();
    }
    let title = |name: &&str| Cell::new(name).add_attribute(Attribute::Bold);
    table.set_header(head.iter().map(title));
    for row in rows {
        table.add_row(row.iter().map(cell));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn cell((text, tone): &(String, Tone)) -> Cell {
    let cell = Cell::new(printable(text));
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
    }
}

/// `text` with its control characters written out, so that a file's name cannot steer the terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// How long ago, for people: `5s`, `3m`, `2h`, `4d`.
pub fn ago(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    match seconds {
        ..0 => "in the future".to_owned(),
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Serialize)]
    struct Greeting {
        word: &'static str,
    }

    impl Report for Greeting {
        fn text(&self, look: Look) -> String {
            look.paint(Tone::Good, self.word)
        }
    }

    #[derive(Clone, Default)]
    struct Sink {
        bytes: Arc<Mutex<Vec<u8>>>,
        fails: Option<io::ErrorKind>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.fails {
                return Err(kind.into());
            }
            self.bytes.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn global(json: bool, color: ColorChoice) -> Global {
        Global {
            config: None,
            json,
            verbose: 0,
            quiet: false,
            log_format: None,
            color,
        }
    }

    fn shown(json: bool, color: ColorChoice) -> String {
        let sink = Sink::default();
        let global = global(json, color);
        let mut out = Output::new(Box::new(sink.clone()), Reader::Pipe, None, &global);
        out.result(&Greeting { word: "hello" }).unwrap();
        out.event(&Greeting { word: "again" }).unwrap();
        let bytes = sink.bytes.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn pipes_get_plain_text_and_json_lines() {
        assert_eq!(shown(false, ColorChoice::Auto), "hello\nagain\n");
        assert_eq!(
            shown(true, ColorChoice::Always),
            "{\"word\":\"hello\"}\n{\"word\":\"again\"}\n"
        );
        assert_eq!(
            shown(false, ColorChoice::Always),
            "\x1b[32mhello\x1b[0m\n\x1b[32magain\x1b[0m\n"
        );
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        let out = |kind| {
            let sink = Sink {
                fails: Some(kind),
                ..Sink::default()
            };
            let global = global(false, ColorChoice::Never);
            Output::new(Box::new(sink), Reader::Pipe, None, &global)
        };
        let mut closed = out(io::ErrorKind::BrokenPipe);
        assert!(closed.result(&Greeting { word: "x" }).is_ok());
        assert!(closed.is_closed());
        let mut full = out(io::ErrorKind::StorageFull);
        assert!(full.result(&Greeting { word: "x" }).is_err());
    }

    #[test]
    fn tables_are_aligned_and_names_are_harmless() {
        let rows = [
            vec![plain("a"), ("ok".into(), Tone::Good)],
            vec![plain("long\u{1b}[2Jname"), plain("b")],
        ];
        assert_eq!(
            table(Look::PLAIN, &["name", "state"], &rows),
            "name               state\na                  ok\nlong\\u{1b}[2Jname  b"
        );
        let colored = Look {
            colors: true,
            width: Some(80),
        };
        assert!(table(colored, &["name"], &rows).contains("\x1b[38;5;10m"));
    }
}
