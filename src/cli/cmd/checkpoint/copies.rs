//! `ls` and `retain`.

use jiff::Timestamp;
use serde::Serialize;

use super::copying::copyist;
use super::text::{batch, size, word};
use super::{LsArgs, RetainArgs, place};
use crate::app::App;
use crate::checkpoint::copies::{Removed, list_copies, remove_copy, remove_leftovers};
use crate::checkpoint::copy::{Place, clean_up_after, find_spent};
use crate::checkpoint::retain::{Fate, FoundCopy, RetainPolicy, decide_fates};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::Result;
use crate::cli::output::{Look, Report, Row, Tone, ago, plain, printable, table};
use crate::storage::StorageUri;

/// The result of `ls`.
#[derive(Debug, Serialize)]
struct Copies {
    copies: Vec<FoundCopy>,
}

impl Report for Copies {
    fn text(&self, look: Look) -> String {
        if self.copies.is_empty() {
            return String::new();
        }
        let now = Timestamp::now();
        let rows: Vec<Row> = self
            .copies
            .iter()
            .map(|copy| {
                let note = match (copy.in_use, copy.forced) {
                    (true, _) => ("in use".to_owned(), Tone::Warn),
                    (false, true) => ("forced".to_owned(), Tone::Bad),
                    (false, false) => plain(""),
                };
                vec![
                    plain(copy.uri.to_string()),
                    plain(batch(copy.last_planned_batch)),
                    plain(batch(copy.last_committed_batch)),
                    plain(ago(copy.created_at, now)),
                    plain(word(copy.scope)),
                    plain(copy.files.to_string()),
                    plain(size(copy.bytes)),
                    note,
                    plain(copy.source.to_string()),
                ]
            })
            .collect();
        let head = [
            "COPY",
            "PLANNED",
            "COMMITTED",
            "MADE",
            "SCOPE",
            "FILES",
            "SIZE",
            "",
            "SOURCE",
        ];
        table(look, &head, &rows)
    }
}

/// The copies in `dir`; those that are checkpoints of a configured job count as in use.
async fn found_copies(app: &App, dir: &Place) -> Result<Vec<FoundCopy>> {
    let mut copies = list_copies(dir.storage.as_ref(), &dir.path).await?;
    for job in app.config().jobs.values() {
        for slot in job.slots.values() {
            for uri in &slot.checkpoints {
                for copy in copies.iter_mut().filter(|copy| copy.uri.path == uri.path) {
                    // Two ways to write one file system are one.
                    let same = uri.authority == copy.uri.authority
                        || app.storage(&uri.authority)?.authority() == &copy.uri.authority;
                    copy.in_use |= same;
                }
            }
        }
    }
    Ok(copies)
}

pub(super) async fn list(args: &LsArgs, app: &App, context: &mut Context) -> Result<Status> {
    let copies = found_copies(app, &place(app, &args.uri)?).await?;
    context.out.result(&Copies { copies })?;
    Ok(Exit::Ok.into())
}

/// The result of `retain`.
#[derive(Debug, Serialize)]
struct Retained {
    dry_run: bool,
    copies: Vec<RetainedCopy>,
    /// Places beside which a work directory was left that nobody needs any more.
    leftovers_of: Vec<StorageUri>,
}

#[derive(Debug, Serialize)]
struct RetainedCopy {
    #[serde(flatten)]
    copy: FoundCopy,
    fate: Fate,
}

impl Report for Retained {
    fn text(&self, look: Look) -> String {
        let verb = if self.dry_run {
            "would be removed"
        } else {
            "was removed"
        };
        let leftovers = self.leftovers_of.iter().map(|uri| {
            let uri = printable(&uri.to_string());
            format!("the work directory left beside {uri} {verb}\n")
        });
        let leftovers: String = leftovers.collect();
        if self.copies.is_empty() {
            return leftovers;
        }
        let now = Timestamp::now();
        let rows: Vec<Row> = self
            .copies
            .iter()
            .map(|one| {
                let (fate, tone) = match (one.fate, self.dry_run) {
                    (Fate::Remove, true) => ("would be removed", Tone::Warn),
                    (Fate::Remove, false) => ("removed", Tone::Warn),
                    (Fate::KeepNewest, _) => ("stays: the newest of its source", Tone::Plain),
                    (Fate::KeepLast, _) => ("stays: one of the last", Tone::Plain),
                    (Fate::KeepYoung, _) => ("stays: young", Tone::Plain),
                    (Fate::KeepInUse, _) => ("stays: in use", Tone::Plain),
                };
                vec![
                    plain(one.copy.uri.to_string()),
                    plain(ago(one.copy.created_at, now)),
                    plain(size(one.copy.bytes)),
                    (fate.to_owned(), tone),
                ]
            })
            .collect();
        let copies = table(look, &["COPY", "MADE", "SIZE", ""], &rows);
        format!("{leftovers}{copies}")
    }
}

pub(super) async fn retain(args: &RetainArgs, app: &App, context: &mut Context) -> Result<Status> {
    let dir = place(app, &args.uri)?;
    let copies = found_copies(app, &dir).await?;
    let policy = RetainPolicy {
        keep_last: args.keep_last,
        keep_for: args.keep_for,
    };
    let fates = decide_fates(&copies, policy, Timestamp::now());
    let mut report = Retained {
        dry_run: args.dry_run,
        copies: Vec::new(),
        leftovers_of: Vec::new(),
    };
    for destination in find_spent(&dir).await? {
        if args.dry_run || clean_up_after(&destination, &copyist(app)?).await? {
            report.leftovers_of.push(destination.uri());
        }
    }
    for (copy, mut fate) in copies.into_iter().zip(fates) {
        if fate == Fate::Remove && !args.dry_run {
            let removed = remove_copy(dir.storage.as_ref(), &copy).await?;
            if removed == Removed::InUse {
                fate = Fate::KeepInUse;
            }
        }
        report.copies.push(RetainedCopy { copy, fate });
    }
    if !args.dry_run {
        remove_leftovers(dir.storage.as_ref(), &dir.path).await?;
    }
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}
