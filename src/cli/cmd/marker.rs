//! `stepdown marker`: what `hdfs dfs -touchz`, `-rm -skipTrash` and `-ls` do, without a JVM.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::app::App;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, Tone, ago, plain, table};
use crate::cli::target::{MarkerTarget, resolve_here};
use crate::control::{DocumentError, SENTINEL, load};
use crate::marker::file::MarkerNote;
use crate::storage::{
    Depth, ErrorKind, FileKind, FileStat, Removal, Storage, StorageError, StorageUri, Touched,
};

/// Make, remove and look at markers, on local disk or HDFS
#[derive(Debug, Clone, Args)]
pub struct MarkerArgs {
    #[command(subcommand)]
    command: MarkerCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum MarkerCommand {
    /// Make a marker, or give an existing one the current time
    #[command(after_help = "\
Examples:
  stepdown marker touch hdfs:///stepdown/markers/clicks.blue
  stepdown marker touch --job clicks --slot blue")]
    Touch(ChangeArgs),

    /// Remove a marker: its job is asked to stop
    ///
    /// Removes the file itself, past any trash. Exit code 7 if it was not there.
    #[command(after_help = "\
Examples:
  stepdown marker rm /run/clicks
  stepdown marker rm --job clicks --dry-run")]
    Rm(ChangeArgs),

    /// Say whether a marker is there
    ///
    /// Exit code 0 if it is there, 7 if it is not, 5 if that cannot be told: the storage does not
    /// answer, or the marker's directory cannot be seen. Nothing but an answer of the storage counts
    /// as absence.
    #[command(after_help = "\
Examples:
  stepdown marker stat hdfs:///stepdown/markers/clicks.blue
  stepdown --json marker stat --job clicks")]
    Stat(StatArgs),

    /// List the markers in a directory
    #[command(after_help = "\
Examples:
  stepdown marker ls                  the markers in the control directory
  stepdown marker ls hdfs:///stepdown/markers")]
    Ls(LsArgs),
}

/// Arguments of `touch` and `rm`.
#[derive(Debug, Clone, Args)]
struct ChangeArgs {
    #[command(flatten)]
    target: MarkerTarget,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `stat`.
#[derive(Debug, Clone, Args)]
struct StatArgs {
    #[command(flatten)]
    target: MarkerTarget,
}

/// Arguments of `ls`.
#[derive(Debug, Clone, Args)]
struct LsArgs {
    /// The directory [default: markers of the control directory]
    uri: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Storage errors; `NotFound` is an error of `touch` and `ls` only.
pub async fn run(args: MarkerArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    match args.command {
        MarkerCommand::Touch(args) => touch(&args, &app, context).await,
        MarkerCommand::Rm(args) => remove(&args, &app, context).await,
        MarkerCommand::Stat(args) => stat(&args, &app, context).await,
        MarkerCommand::Ls(args) => list(&args, &app, context).await,
    }
}

/// What became of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Created,
    Refreshed,
    Deleted,
    Absent,
    WouldCreate,
    WouldRefresh,
    WouldDelete,
}

/// The result of `touch` and `rm`.
#[derive(Debug, Serialize)]
struct ChangeReport {
    uri: StorageUri,
    outcome: Outcome,
}

impl Report for ChangeReport {
    fn text(&self, _look: Look) -> String {
        let uri = &self.uri;
        match self.outcome {
            Outcome::Created => format!("{uri}: made"),
            Outcome::Refreshed => format!("{uri}: was there, has the current time now"),
            Outcome::Deleted => format!("{uri}: removed"),
            Outcome::Absent => format!("{uri}: was not there"),
            Outcome::WouldCreate => format!("{uri}: would be made"),
            Outcome::WouldRefresh => format!("{uri}: is there, would get the current time"),
            Outcome::WouldDelete => format!("{uri}: would be removed"),
        }
    }
}

async fn touch(args: &ChangeArgs, app: &App, context: &mut Context) -> Result<Status> {
    let uri = args.target.uri(app.config())?;
    let storage = app.storage(&uri.authority)?;
    let outcome = if args.dry_run {
        match observe(storage.as_ref(), &uri).await? {
            Some(found) => {
                refuse_directory("touch", &uri, &found)?;
                Outcome::WouldRefresh
            }
            None => Outcome::WouldCreate,
        }
    } else {
        match storage.touch(&uri.path).await {
            Ok(Touched::Created) => Outcome::Created,
            Ok(Touched::Refreshed) => Outcome::Refreshed,
            Err(error) if error.kind == ErrorKind::NotFound => {
                let message = format!("cannot make {uri}: its directory does not exist");
                return Err(anyhow::Error::from(error).context(message).into());
            }
            Err(error) => return Err(error.into()),
        }
    };
    context.out.confirmation(&ChangeReport { uri, outcome })?;
    Ok(Exit::Ok.into())
}

async fn remove(args: &ChangeArgs, app: &App, context: &mut Context) -> Result<Status> {
    let uri = args.target.uri(app.config())?;
    let storage = app.storage(&uri.authority)?;
    let outcome = if args.dry_run {
        match observe(storage.as_ref(), &uri).await? {
            Some(found) => {
                refuse_directory("delete", &uri, &found)?;
                Outcome::WouldDelete
            }
            None => Outcome::Absent,
        }
    } else {
        match storage.delete_file(&uri.path).await {
            Ok(Removal::Deleted) => Outcome::Deleted,
            Ok(Removal::Absent) => {
                see_directory_of(storage.as_ref(), &uri).await?;
                Outcome::Absent
            }
            Err(error) => return Err(seen(storage.as_ref(), &uri, error).await),
        }
    };
    context.out.confirmation(&ChangeReport { uri, outcome })?;
    Ok(if outcome == Outcome::Absent {
        Exit::NotFound.into()
    } else {
        Exit::Ok.into()
    })
}

/// The marker, or `None` where the storage answered that it is not there and its directory is.
async fn observe(storage: &dyn Storage, uri: &StorageUri) -> Result<Option<FileStat>> {
    match storage.stat(&uri.path).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            see_directory_of(storage, uri).await?;
            Ok(None)
        }
        Err(error) => Err(seen(storage, uri, error).await),
    }
}

/// The failure that `error` is: where the marker's directory is no directory, that says more.
async fn seen(storage: &dyn Storage, uri: &StorageUri, error: StorageError) -> Failure {
    if error.kind == ErrorKind::NotADirectory
        && let Err(failure) = see_directory_of(storage, uri).await
    {
        return failure;
    }
    error.into()
}

/// A missing directory (an unmounted disk, a typing mistake) makes the marker unknown, not absent.
pub(super) async fn see_directory_of(storage: &dyn Storage, uri: &StorageUri) -> Result<()> {
    let Some(dir) = uri.path.parent() else {
        return Ok(());
    };
    match storage.identify_dir(&dir).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let message = format!(
                "cannot tell whether {uri} is there: its directory is not; is the disk mounted, the path right?"
            );
            Err(Failure {
                exit: Exit::Unreachable,
                error: anyhow::Error::from(error).context(message),
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn refuse_directory(operation: &'static str, uri: &StorageUri, found: &FileStat) -> Result<()> {
    if found.kind == FileKind::Dir {
        let error = StorageError::new(operation, uri.clone(), ErrorKind::IsADirectory);
        return Err(error.into());
    }
    Ok(())
}

/// Whether a marker is there.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Presence {
    Present,
    Absent,
}

/// The result of `stat`.
#[derive(Debug, Serialize)]
struct StatReport {
    uri: StorageUri,
    state: Presence,
    /// What the storage says of it; absent where it is not there.
    #[serde(flatten)]
    entry: Option<Entry>,
    /// Who made it, where stepdown did.
    #[serde(skip_serializing_if = "Option::is_none")]
    made_by: Option<MarkerNote>,
}

impl Report for StatReport {
    fn text(&self, look: Look) -> String {
        let Some(entry) = &self.entry else {
            return format!("{}: {}", self.uri, look.paint(Tone::Warn, "absent"));
        };
        let kind = match entry.kind {
            "file" => String::new(),
            kind => format!(", it is a {kind}"),
        };
        let owner = match &entry.owner {
            Some(owner) => format!(", owner {owner}"),
            None => String::new(),
        };
        let made_by = match &self.made_by {
            Some(note) => format!(
                ", made for {}.{} by run {}",
                note.job, note.slot, note.run_id
            ),
            None => String::new(),
        };
        let present = look.paint(Tone::Good, "present");
        let age = ago(entry.modified_at, Timestamp::now());
        format!("{}: {present}, {age}{kind}{owner}{made_by}", self.uri)
    }
}

async fn stat(args: &StatArgs, app: &App, context: &mut Context) -> Result<Status> {
    let uri = args.target.uri(app.config())?;
    let storage = app.storage(&uri.authority)?;
    let found = observe(storage.as_ref(), &uri).await?;
    let made_by = match &found {
        Some(found) if found.kind == FileKind::File && found.len_bytes > 0 => {
            match load::<MarkerNote>(storage.as_ref(), &uri.path).await {
                Ok(note) => Some(note),
                // Any content will do for a marker; and it may have gone by now.
                Err(DocumentError::Malformed { .. } | DocumentError::NoControl { .. }) => None,
                Err(error) if error.storage_kind() == Some(ErrorKind::NotFound) => None,
                Err(error) => {
                    tracing::warn!(%error, "the marker's content cannot be read");
                    None
                }
            }
        }
        _ => None,
    };
    let (state, exit) = match found {
        Some(_) => (Presence::Present, Exit::Ok),
        None => (Presence::Absent, Exit::NotFound),
    };
    context.out.result(&StatReport {
        uri,
        state,
        entry: found.as_ref().map(Entry::of),
        made_by,
    })?;
    Ok(exit.into())
}

/// One entry of a listing.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    /// `file`, `directory`, `symlink` or `other`.
    kind: &'static str,
    bytes: u64,
    modified_at: Timestamp,
    owner: Option<String>,
    group: Option<String>,
    /// Permission bits in octal.
    mode: Option<String>,
}

impl Entry {
    fn of(stat: &FileStat) -> Self {
        Self {
            name: stat.path.name().to_owned(),
            kind: match stat.kind {
                FileKind::File => "file",
                FileKind::Dir => "directory",
                FileKind::Symlink => "symlink",
                FileKind::Other => "other",
            },
            bytes: stat.len_bytes,
            modified_at: stat.modified_at,
            owner: stat.owner.as_deref().map(str::to_owned),
            group: stat.group.as_deref().map(str::to_owned),
            mode: stat.mode.map(|mode| format!("{mode:04o}")),
        }
    }
}

/// The result of `ls`.
#[derive(Debug, Serialize)]
struct ListReport {
    uri: StorageUri,
    entries: Vec<Entry>,
}

impl Report for ListReport {
    fn text(&self, look: Look) -> String {
        let now = Timestamp::now();
        let rows: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                let tone = match entry.kind {
                    "file" => Tone::Plain,
                    _ => Tone::Dim,
                };
                vec![
                    (entry.name.clone(), tone),
                    plain(ago(entry.modified_at, now)),
                    plain(entry.modified_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()),
                    plain(entry.owner.clone().unwrap_or_default()),
                    plain(entry.kind),
                ]
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        table(look, &["MARKER", "AGE", "MODIFIED", "OWNER", "KIND"], &rows)
    }
}

async fn list(args: &LsArgs, app: &App, context: &mut Context) -> Result<Status> {
    let uri = match (&args.uri, &app.config().control) {
        (Some(uri), _) => resolve_here(uri)?,
        (None, Some(control)) => control.join("markers"),
        (None, None) => {
            let message = "no directory is named, and the configuration has no control";
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let storage = app.storage(&uri.authority)?;
    let found = match storage.list(&uri.path, Depth::Children).await {
        Err(error) if error.kind == ErrorKind::NotADirectory => {
            vec![storage.stat(&uri.path).await?]
        }
        other => other?,
    };
    let entries = found
        .iter()
        .filter(|stat| stat.path.name() != SENTINEL)
        .map(Entry::of)
        .collect();
    context.out.result(&ListReport { uri, entries })?;
    Ok(Exit::Ok.into())
}
