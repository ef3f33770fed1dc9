//! Built-in checks of a job that runs beside the old one: how far it is behind, how long its batches take.

use crate::checkpoint::copy::Place;
use crate::checkpoint::lag::{batch_time, offset_lag};
use crate::checkpoint::log::OffsetLog;
use crate::checkpoint::progress::{LogTimes, load_log_times};
use crate::marker::poll::error_chain;
use crate::model::BatchId;

/// How many batches of each side count for the time of a batch.
const BATCHES: usize = 20;

/// Longest entry of an offset log that is read.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// One query on both sides.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) old: Place,
    pub(super) new: Place,
    /// The first batch of the new one that is its own.
    pub(super) first_own: BatchId,
}

/// What is measured, and what it may come to.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) queries: Vec<Query>,
    /// Most offsets by which the new job may be behind, over all queries.
    pub(super) max_lag: Option<u32>,
    /// How many times as long as the old job's the new job's batches may take.
    pub(super) max_slowdown: Option<f64>,
}

impl Measure {
    /// Why it does not pass now; `None` if it passes.
    pub(super) async fn objection(&self) -> Option<String> {
        let mut lag = 0;
        for query in &self.queries {
            match self.look_at(query).await {
                Ok(of_query) => lag += of_query,
                Err(why) => return Some(why),
            }
        }
        match self.max_lag {
            Some(most) if lag > u64::from(most) => Some(format!(
                "the new job is {lag} offsets behind, and may be {most}"
            )),
            Some(_) | None => None,
        }
    }

    /// The lag of one query, or why it does not pass.
    async fn look_at(&self, query: &Query) -> Result<u64, String> {
        // The new one first: what it has read the old one has read before, or is behind.
        let new = times(&query.new).await?;
        let old = times(&query.old).await?;
        if let Some(most) = self.max_slowdown {
            let of_old = batch_time(&old, 0, BATCHES);
            let of_new = batch_time(&new, query.first_own.0, BATCHES);
            let (Some(of_old), Some(of_new)) = (of_old, of_new) else {
                return Err("there are no batches yet to compare".to_owned());
            };
            if of_new.as_secs_f64() > of_old.as_secs_f64() * most {
                return Err(format!(
                    "a batch of the new job takes {of_new:.1?}, of the old one {of_old:.1?}"
                ));
            }
        }
        if self.max_lag.is_none() {
            return Ok(0);
        }
        let new = offsets(&query.new, &new).await?;
        let old = offsets(&query.old, &old).await?;
        offset_lag(&old, &new)
            .ok_or_else(|| "the offsets of the two jobs cannot be compared".to_owned())
    }
}

async fn times(place: &Place) -> Result<LogTimes, String> {
    load_log_times(place.storage.as_ref(), &place.path)
        .await
        .map_err(|error| error_chain(&error))
}

/// The offsets of the last committed batch.
async fn offsets(place: &Place, times: &LogTimes) -> Result<OffsetLog, String> {
    let Some(batch) = times.commits.keys().next_back() else {
        return Err(format!("no batch is committed in {} yet", place.uri()));
    };
    let path = place.path.join("offsets").join(&batch.to_string());
    let bytes = place.storage.read_small(&path, MAX_LOG_BYTES).await;
    let bytes = bytes.map_err(|error| error_chain(&error))?;
    OffsetLog::parse(&bytes).map_err(|error| error_chain(&error))
}
