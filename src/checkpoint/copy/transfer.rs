//! Moving the bytes: many small files at once, few large ones, in bounded memory.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::journal::{Made, Staged};
use super::stand::Survey;
use super::work::{Kept, Work};
use super::{CopyError, CopyRequest, Damage, Event, Events, Pace, Planned, unless_stopped};
use crate::checkpoint::finding::Finding;
use crate::checkpoint::listing::Listing;
use crate::checkpoint::plan::{PlannedFile, Tally};
use crate::checkpoint::verify::content::ContentScan;
use crate::control::LeaseError;
use crate::storage::{CreateMode, ErrorKind, Storage, StorageError, StoragePath};

/// Files up to this size are held in memory whole.
const SMALL_BYTES: u64 = 1 << 20;

/// How often one file is tried.
const TRIES: u32 = 4;

/// What a transfer came to.
pub(super) enum Transferred {
    /// The work directory holds exactly the plan; this much had to be copied.
    Whole(Tally),
    /// A file of the plan vanished or has another content than was listed.
    SourceChanged(String),
    /// Files that a restart reads are not whole; they are not recorded.
    Damaged(Vec<Finding>),
    /// It was not known for a while whether the lease is held. It is; what was under way then has to
    /// be done again.
    Halted,
}

/// How the copying of all tasks ended.
enum Ended {
    Done,
    Damaged(Vec<Finding>),
    SourceChanged(String),
    /// It is not known whether the lease is held.
    InDoubt,
}

/// One file to copy.
struct Task {
    path: String,
    from: Source,
    large: bool,
    /// Whether its form is looked at: a restart reads it, and damage is refused.
    is_looked_at: bool,
    /// Whether state is packed with LZ4.
    is_lz4: bool,
}

enum Source {
    File {
        len_bytes: u64,
        modified_at: jiff::Timestamp,
    },
    Bytes(Bytes),
}

impl Task {
    fn weight(&self) -> Weight {
        match &self.from {
            _ if self.large => Weight::Large,
            Source::File { len_bytes, .. } => Weight::Small {
                len_bytes: *len_bytes,
            },
            Source::Bytes(content) => Weight::Small {
                len_bytes: content.len() as u64,
            },
        }
    }
}

/// What a file takes of the room while it is under way.
#[derive(Debug, Clone, Copy)]
enum Weight {
    /// It is held in memory whole.
    Small { len_bytes: u64 },
    /// It is streamed.
    Large,
}

/// What is under way, within the bounds of a pace.
#[derive(Debug)]
struct Room {
    pace: Pace,
    small: usize,
    small_bytes: u64,
    large: usize,
}

impl Room {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            small: 0,
            small_bytes: 0,
            large: 0,
        }
    }

    /// Takes room for a file, if there is any; there is always some for one file alone.
    fn take(&mut self, weight: Weight) -> bool {
        match weight {
            Weight::Large if self.large >= self.pace.large_at_once.max(1) => return false,
            Weight::Large => self.large += 1,
            Weight::Small { len_bytes } => {
                let is_full = self.small >= self.pace.small_at_once
                    || self.small_bytes + len_bytes > self.pace.small_bytes_at_once;
                if is_full && self.small > 0 {
                    return false;
                }
                self.small += 1;
                self.small_bytes += len_bytes;
            }
        }
        true
    }

    fn give_back(&mut self, weight: Weight) {
        match weight {
            Weight::Large => self.large -= 1,
            Weight::Small { len_bytes } => {
                self.small -= 1;
                self.small_bytes -= len_bytes;
            }
        }
    }
}

enum Failure {
    Changed(String),
    Damaged(Box<Finding>),
    Storage(StorageError),
    /// The copy was told to end.
    Stopped,
}

impl Work {
    /// Makes the tree hold exactly the files of the plan. What was copied last of them is not recorded yet
    /// then.
    pub(super) async fn transfer(
        &mut self,
        request: &CopyRequest,
        planned: &Planned,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Transferred, CopyError> {
        let listing = &planned.contents.listing;
        let survey = self.survey().await?;
        self.remove_surplus(planned, &survey, request.pace.requests_at_once)
            .await?;
        let (tasks, tally) = self.choose(request, planned, &survey);
        let total = planned.plan.tally(listing);
        let kept = Tally {
            files: total.files - tally.files,
            bytes: total.bytes - tally.bytes,
        };
        events(Event::Planned {
            total,
            to_copy: tally,
            kept,
        });
        self.make_dirs(planned, &survey, request.pace.requests_at_once)
            .await?;
        match self.copy_all(request, tasks, events, shutdown).await? {
            Ended::Done => Ok(Transferred::Whole(tally)),
            Ended::Damaged(findings) => Ok(Transferred::Damaged(findings)),
            Ended::SourceChanged(why) => Ok(Transferred::SourceChanged(why)),
            Ended::InDoubt => Ok(Transferred::Halted),
        }
    }

    /// Removes from the tree what is not in the plan.
    async fn remove_surplus(
        &mut self,
        planned: &Planned,
        survey: &Survey,
        at_once: usize,
    ) -> Result<(), CopyError> {
        let wanted: HashSet<&str> = planned
            .plan
            .files
            .iter()
            .map(|file| file.path(&planned.contents.listing))
            .collect();
        let noted: Vec<String> = self
            .journal
            .files()
            .filter(|staged| !wanted.contains(staged.path.as_str()))
            .map(|staged| staged.path.clone())
            .collect();
        let surplus = survey.looked().filter(|path| !wanted.contains(path)).chain(
            noted
                .iter()
                .map(String::as_str)
                .filter(|path| survey.is_proved(path)),
        );
        let (storage, tree) = (Arc::clone(&self.destination.storage), self.tree());
        let mut removals = futures::stream::iter(surplus)
            .map(|path| {
                let (storage, path) = (&storage, tree.join_all(path));
                async move { storage.delete_file(&path).await }
            })
            .buffer_unordered(at_once.max(1));
        while let Some(removed) = removals.next().await {
            removed?;
        }
        drop(removals);
        for path in noted {
            self.journal.forget(&path);
        }
        Ok(())
    }

    /// The files that are not there yet as the plan has them, large ones first.
    fn choose(
        &self,
        request: &CopyRequest,
        planned: &Planned,
        survey: &Survey,
    ) -> (Vec<Task>, Tally) {
        let listing = &planned.contents.listing;
        let is_lz4 = planned.contents.is_lz4();
        let mut tally = Tally::default();
        let mut tasks = Vec::new();
        for file in &planned.plan.files {
            let path = file.path(listing);
            let len_bytes = file.len_bytes(listing);
            let is_there = self
                .journal
                .get(path)
                .is_some_and(|staged| is_made_from(staged, file, listing))
                && survey.has(path, len_bytes);
            if is_there {
                continue;
            }
            tally.files += 1;
            tally.bytes += len_bytes;
            let from = match file {
                PlannedFile::Copy { entry, .. } => {
                    let listed = listing.get(*entry);
                    Source::File {
                        len_bytes,
                        modified_at: listed.modified_at,
                    }
                }
                PlannedFile::Write { content, .. } => Source::Bytes(Bytes::from(content.clone())),
            };
            tasks.push(Task {
                path: path.to_owned(),
                from,
                large: len_bytes > SMALL_BYTES,
                // Where damage is accepted the whole copy is looked at, at its end.
                is_looked_at: file.role().is_some() && request.damage == Damage::Refuse,
                is_lz4,
            });
        }
        // The long ones begin at once and run beside the others.
        tasks.sort_by_key(|task| !task.large);
        (tasks, tally)
    }

    async fn make_dirs(
        &mut self,
        planned: &Planned,
        survey: &Survey,
        at_once: usize,
    ) -> Result<(), CopyError> {
        let (storage, tree) = (Arc::clone(&self.destination.storage), self.tree());
        let dirs: HashSet<&str> = planned
            .plan
            .dirs
            .iter()
            .map(|(dir, _)| dir.as_str())
            .filter(|dir| !survey.has_dir(dir))
            .collect();
        self.dirs_given
            .retain(|dir, _| !dirs.contains(dir.as_str()));
        // One that is another's parent comes with it.
        let parents: HashSet<&str> = dirs
            .iter()
            .filter_map(|dir| dir.rsplit_once('/').map(|(parent, _)| parent))
            .collect();
        let leaves: Vec<StoragePath> = dirs
            .difference(&parents)
            .map(|dir| tree.join_all(dir))
            .collect();
        let mut made = futures::stream::iter(leaves)
            .map(|dir| {
                let storage = &storage;
                async move { storage.create_dir_all(&dir).await }
            })
            .buffer_unordered(at_once.max(1));
        while let Some(result) = made.next().await {
            result?;
        }
        Ok(())
    }

    /// Copies all tasks. Where something goes wrong what is done is recorded.
    async fn copy_all(
        &mut self,
        request: &CopyRequest,
        tasks: Vec<Task>,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Ended, CopyError> {
        let mut running = JoinSet::new();
        let copied = self
            .copy_tasks(request, tasks, &mut running, events, shutdown)
            .await;
        // Nothing may be written any more once the lease is given back.
        running.shutdown().await;
        // The journal is the new holder's.
        let is_lost = matches!(copied, Err(CopyError::Lease(LeaseError::Lost { .. })));
        // What follows is quick: it is recorded beside that, or when the work directory is closed.
        let is_quick = matches!(copied, Ok(Ended::Done) | Err(CopyError::Interrupted { .. }));
        if is_lost || is_quick {
            return copied;
        }
        if matches!(copied, Ok(Ended::InDoubt)) {
            // Only its holder writes the journal.
            unless_stopped(request, shutdown, self.assure()).await?;
        }
        let recorded = self.record().await;
        // The first error says more.
        let ended = copied?;
        recorded.map(|()| ended)
    }

    /// Records what was copied since the last time, once it cannot be lost any more.
    pub(super) async fn record(&mut self) -> Result<(), CopyError> {
        self.recording().await
    }

    /// As [`Work::record`], beside other work.
    pub(super) fn recording(
        &mut self,
    ) -> impl Future<Output = Result<(), CopyError>> + Send + use<> {
        let storage = Arc::clone(&self.destination.storage);
        let (tree, has_files) = (self.tree(), self.journal.has_news());
        let news = self.journal.take_news();
        async move {
            if has_files {
                storage.make_durable(&tree).await?;
            }
            match news {
                Some(news) => Ok(news.save(storage.as_ref()).await?),
                None => Ok(()),
            }
        }
    }

    async fn copy_tasks(
        &mut self,
        request: &CopyRequest,
        tasks: Vec<Task>,
        running: &mut JoinSet<(Weight, Result<Staged, Failure>)>,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Ended, CopyError> {
        let (from, to) = (request.source.clone(), self.destination.storage.clone());
        let tree = self.tree();
        let mut waiting = tasks.into_iter().peekable();
        let (streamed, mut streaming) = mpsc::channel::<u64>(64);
        let mut room = Room::new(request.pace);
        let mut changed = None;
        let mut damaged = Vec::new();
        let mut stopped = false;
        // One large file can take longer than the lease lasts without a beat.
        let mut beats = tokio::time::interval(self.ttl / 3);
        // After a beat that took long there is none to be made up for.
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // New ones are begun as long as there is room for their sort.
            while changed.is_none()
                && !shutdown.is_cancelled()
                && let Some(task) = waiting.peek()
            {
                if !room.take(task.weight()) {
                    break;
                }
                let Some(task) = waiting.next() else { break };
                let source = from.storage.clone();
                let source_path = from.path.join_all(&task.path);
                let target = tree.join_all(&task.path);
                let (to, streamed, shutdown) = (to.clone(), streamed.clone(), shutdown.clone());
                running.spawn(async move {
                    let weight = task.weight();
                    let copied = copy_file(
                        source.as_ref(),
                        &source_path,
                        to.as_ref(),
                        &target,
                        task,
                        &streamed,
                        &shutdown,
                    )
                    .await;
                    (weight, copied)
                });
            }
            tokio::select! {
                Some(bytes) = streaming.recv() => events(Event::Streamed { bytes }),
                _ = beats.tick() => {
                    if self.keep_or_doubt().await? == Kept::Unknown {
                        return Ok(Ended::InDoubt);
                    }
                }
                joined = running.join_next() => {
                    let Some(joined) = joined else { break };
                    let (weight, copied) = match joined {
                        Ok(outcome) => outcome,
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    };
                    room.give_back(weight);
                    match copied {
                        Ok(staged) => {
                            let is_streamed = matches!(weight, Weight::Large);
                            events(Event::Copied { bytes: if is_streamed { 0 } else { staged.len_bytes } });
                            if self.journal.note(staged) {
                                self.record().await?;
                                if self.keep_or_doubt().await? == Kept::Unknown {
                                    return Ok(Ended::InDoubt);
                                }
                            }
                        }
                        Err(Failure::Changed(why)) => changed = Some(why),
                        Err(Failure::Damaged(finding)) => damaged.push(*finding),
                        Err(Failure::Stopped) => stopped = true,
                        Err(Failure::Storage(error)) => return Err(error.into()),
                    }
                }
            }
        }
        if stopped || (shutdown.is_cancelled() && (changed.is_some() || waiting.peek().is_some())) {
            return Err(CopyError::Interrupted { work: self.uri() });
        }
        Ok(match changed {
            Some(why) => Ended::SourceChanged(why),
            None if !damaged.is_empty() => Ended::Damaged(damaged),
            None => Ended::Done,
        })
    }
}

fn is_made_from(staged: &Staged, file: &PlannedFile, listing: &Listing) -> bool {
    match (staged.made, file) {
        (
            Made::Source {
                len_bytes,
                modified_at,
            },
            PlannedFile::Copy { entry, .. },
        ) => {
            let listed = listing.get(*entry);
            listed.len_bytes == len_bytes && listed.modified_at == modified_at
        }
        (Made::Written, PlannedFile::Write { content, .. }) => {
            blake3::hash(content) == staged.blake3
        }
        (Made::Source { .. }, PlannedFile::Write { .. })
        | (Made::Written, PlannedFile::Copy { .. }) => false,
    }
}

/// Copies one file, again from its beginning after an error that may pass.
async fn copy_file(
    from: &dyn Storage,
    source: &StoragePath,
    to: &dyn Storage,
    target: &StoragePath,
    task: Task,
    streamed: &mpsc::Sender<u64>,
    shutdown: &CancellationToken,
) -> Result<Staged, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let copied = match &task.from {
            Source::Bytes(content) => write_whole(to, target, CreateMode::Scratch, content.clone())
                .await
                .map(|()| (Made::Written, content.len() as u64, blake3::hash(content)))
                .map_err(Failure::Storage),
            Source::File {
                len_bytes,
                modified_at,
            } => {
                let made = Made::Source {
                    len_bytes: *len_bytes,
                    modified_at: *modified_at,
                };
                let mut form = task
                    .is_looked_at
                    .then(|| ContentScan::in_passing(&task.path, task.is_lz4))
                    .flatten();
                let from = End {
                    storage: from,
                    path: source,
                };
                let to = End {
                    storage: to,
                    path: target,
                };
                let copied = if task.large {
                    stream_file(from, to, *len_bytes, &mut form, streamed, shutdown).await
                } else {
                    copy_small(from, to, *len_bytes, &mut form).await
                };
                match (copied, form.and_then(|form| form.finding(&task.path))) {
                    (Ok(_), Some(finding)) => Err(Failure::Damaged(Box::new(finding))),
                    (copied, _) => copied.map(|digest| (made, *len_bytes, digest)),
                }
            }
        };
        match copied {
            Ok((made, len_bytes, blake3)) => {
                return Ok(Staged {
                    path: task.path,
                    made,
                    len_bytes,
                    blake3,
                    seen: None,
                });
            }
            Err(Failure::Storage(error)) if tries < TRIES && may_pass(error.kind) => {
                tracing::debug!("{error}; trying again");
                let pause = std::time::Duration::from_millis(200) * 4_u32.pow(tries - 1);
                tokio::select! {
                    () = shutdown.cancelled() => return Err(Failure::Stopped),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn may_pass(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TimedOut
            | ErrorKind::Unreachable
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Standby
            | ErrorKind::Other
    )
}

fn read_failure(error: StorageError) -> Failure {
    if error.kind == ErrorKind::NotFound || error.kind == ErrorKind::TooLarge {
        return Failure::Changed(error.to_string());
    }
    Failure::Storage(error)
}

fn other_length(source: &StoragePath, expected: u64, found: u64) -> Failure {
    Failure::Changed(format!(
        "{source} has {found} bytes, and had {expected} when it was listed"
    ))
}

/// One end of a copy of one file.
#[derive(Clone, Copy)]
struct End<'a> {
    storage: &'a dyn Storage,
    path: &'a StoragePath,
}

async fn copy_small(
    from: End<'_>,
    to: End<'_>,
    len_bytes: u64,
    form: &mut Option<ContentScan<'static>>,
) -> Result<blake3::Hash, Failure> {
    let content = from
        .storage
        .read_small(from.path, SMALL_BYTES)
        .await
        .map_err(read_failure)?;
    if content.len() as u64 != len_bytes {
        return Err(other_length(from.path, len_bytes, content.len() as u64));
    }
    let digest = blake3::hash(&content);
    if let Some(form) = form {
        form.add(&content);
    }
    write_whole(to.storage, to.path, CreateMode::Scratch, content)
        .await
        .map_err(Failure::Storage)?;
    Ok(digest)
}

/// Writes a file of this content.
pub(super) async fn write_whole(
    to: &dyn Storage,
    target: &StoragePath,
    mode: CreateMode,
    content: Bytes,
) -> Result<(), StorageError> {
    let mut writer = to.create(target, mode).await?;
    if !content.is_empty()
        && let Err(error) = writer.write(content).await
    {
        // The write's own error says more than a failed clean-up would.
        let _cleanup = writer.abort().await;
        return Err(error);
    }
    writer.finish().await
}

async fn stream_file(
    from: End<'_>,
    to: End<'_>,
    len_bytes: u64,
    form: &mut Option<ContentScan<'static>>,
    streamed: &mpsc::Sender<u64>,
    shutdown: &CancellationToken,
) -> Result<blake3::Hash, Failure> {
    let opened = from.storage.open_read(from.path).await;
    let mut content = opened.map_err(read_failure)?;
    let mut writer = to
        .storage
        .create(to.path, CreateMode::Scratch)
        .await
        .map_err(Failure::Storage)?;
    let mut digest = blake3::Hasher::new();
    let mut found = 0_u64;
    while let Some(piece) = content.next().await {
        let step = match piece {
            _ if shutdown.is_cancelled() => Err(Failure::Stopped),
            Ok(piece) => {
                found += piece.len() as u64;
                digest.update(&piece);
                if let Some(form) = form {
                    form.add(&piece);
                }
                let bytes = piece.len() as u64;
                match writer.write(piece).await {
                    Ok(()) => {
                        // Progress is a courtesy: a full channel drops it.
                        let _full = streamed.try_send(bytes);
                        Ok(())
                    }
                    Err(error) => Err(Failure::Storage(error)),
                }
            }
            Err(error) => Err(read_failure(error)),
        };
        if let Err(failure) = step {
            // The first error says more than a failed clean-up would.
            let _cleanup = writer.abort().await;
            return Err(failure);
        }
    }
    if found != len_bytes {
        let _cleanup = writer.abort().await;
        return Err(other_length(from.path, len_bytes, found));
    }
    writer.finish().await.map_err(Failure::Storage)?;
    Ok(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_bounded_by_number_and_by_bytes_and_one_always_goes() {
        let pace = Pace {
            small_at_once: 3,
            small_bytes_at_once: 100,
            large_at_once: 1,
            ..Pace::default()
        };
        let small = |len_bytes| Weight::Small { len_bytes };
        for (weights, taken) in [
            (vec![small(1), small(1), small(1), small(1)], 3),
            (vec![small(60), small(40), small(1)], 2),
            (vec![small(500), small(1)], 1),
            (vec![small(0), small(100), small(0), small(0)], 3),
            (vec![Weight::Large, Weight::Large], 1),
            (vec![Weight::Large, small(100), Weight::Large], 2),
        ] {
            let mut room = Room::new(pace);
            let held: Vec<_> = weights
                .iter()
                .copied()
                .take_while(|weight| room.take(*weight))
                .collect();
            assert_eq!(held.len(), taken, "{weights:?}");
            for weight in held {
                room.give_back(weight);
            }
            let left = (room.small, room.small_bytes, room.large);
            assert_eq!(left, (0, 0, 0), "{weights:?}");
        }
    }
}
