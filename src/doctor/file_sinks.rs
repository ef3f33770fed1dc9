//! Whether the file sinks that the configuration names belong to the checkpoints of their slots.

use std::collections::BTreeSet;

use super::{Check, chain};
use crate::app::App;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::file_sink::{Match, judge, newest_written};
use crate::checkpoint::progress::load_progress;
use crate::config::JobSlot;
use crate::storage::StorageUri;

/// A check for each file sink. One that both slots write, each in its time, has to belong to either.
pub async fn checks(app: &App) -> Vec<Check> {
    let mut checks = Vec::new();
    for job in app.config().jobs.values() {
        let slots: Vec<&JobSlot> = job.slots.values().map(AsRef::as_ref).collect();
        let sinks: BTreeSet<&StorageUri> = slots.iter().flat_map(|of| &of.file_sinks).collect();
        for sink in sinks {
            let name = format!("file-sink {} {sink}", job.name);
            let writers = slots.iter().filter(|of| of.file_sinks.contains(sink));
            let checkpoints = writers.flat_map(|of| &of.checkpoints);
            checks.push(match look(app, checkpoints, sink).await {
                Ok(found) => check(name, found),
                Err(why) => Check::warn(name, why, "see whether the storage answers"),
            });
        }
    }
    checks
}

async fn look(
    app: &App,
    of: impl Iterator<Item = &StorageUri>,
    sink: &StorageUri,
) -> Result<Match, String> {
    let mut checkpoints = Vec::new();
    for uri in of {
        let storage = app.storage(&uri.authority).map_err(|error| chain(&error))?;
        match load_progress(storage.as_ref(), &uri.path).await {
            Ok(progress) => checkpoints.push(progress),
            // It comes with the first start.
            Err(CheckpointError::Missing { .. }) => {}
            Err(error) => return Err(chain(&error)),
        }
    }
    let storage = app
        .storage(&sink.authority)
        .map_err(|error| chain(&error))?;
    let written = newest_written(storage.as_ref(), &sink.path).await;
    Ok(judge(written.map_err(|error| chain(&error))?, &checkpoints))
}

fn check(name: String, found: Match) -> Check {
    match found {
        Match::Unused => Check::ok(name, "nothing is written yet"),
        Match::Together => Check::ok(name, "its log is as far as a checkpoint of the job"),
        Match::Ahead { written, planned } => Check::warn(
            name,
            match planned {
                Some(planned) => format!(
                    "its log has batch {written}, and no checkpoint of the job has planned more than {planned}: \
                     Spark skips batches up to {written} without a word"
                ),
                None => format!(
                    "its log has batch {written}, and no checkpoint of the job has any: Spark skips batches up \
                     to {written} without a word"
                ),
            },
            "start the job on the checkpoint that belongs to this output, or with another output directory",
        ),
        Match::Behind { written, committed } => Check::warn(
            name,
            match written {
                Some(written) => format!(
                    "its log ends with batch {written}, and batch {committed} is committed: later batches were \
                     written elsewhere"
                ),
                None => format!(
                    "it has no log, and batch {committed} is committed: it was written elsewhere"
                ),
            },
            "see whether this is the directory that the job writes",
        ),
    }
}
