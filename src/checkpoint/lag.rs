//! How far one query is behind another, and how long its batches take. Pure.

use std::time::Duration;

use super::log::{OffsetLog, SourceOffset};
use super::progress::LogTimes;

/// How many offsets the query of `behind` has not read that the one of `ahead` has, over all sources and
/// partitions; 0 where it is not behind. `None` where their offsets cannot be counted, or do not belong
/// together.
pub fn offset_lag(ahead: &OffsetLog, behind: &OffsetLog) -> Option<u64> {
    let mut lag = 0_u64;
    for (name, ahead) in &ahead.sources {
        let (_, behind) = behind.sources.iter().find(|(other, _)| other == name)?;
        lag = lag.saturating_add(lag_of(ahead, behind)?);
    }
    Some(lag)
}

fn lag_of(ahead: &SourceOffset, behind: &SourceOffset) -> Option<u64> {
    let more = |ahead: i64, behind: i64| ahead.saturating_sub(behind).max(0).unsigned_abs();
    match (ahead, behind) {
        // Of a file source: entries of its log, which are batches and not files.
        (SourceOffset::Number(ahead), SourceOffset::Number(behind))
        | (
            SourceOffset::RateMicroBatch { offset: ahead, .. },
            SourceOffset::RateMicroBatch { offset: behind, .. },
        )
        | (SourceOffset::File { log_offset: ahead }, SourceOffset::File { log_offset: behind }) => {
            Some(more(*ahead, *behind))
        }
        (SourceOffset::Kafka(ahead), SourceOffset::Kafka(behind)) => {
            let mut lag = 0_u64;
            for (topic, partitions) in ahead {
                for (partition, next) in partitions {
                    let other = behind.get(topic)?.get(partition)?;
                    lag = lag.saturating_add(more(*next, *other));
                }
            }
            Some(lag)
        }
        (SourceOffset::None, _) => Some(0),
        (same, other) if same == other => Some(0),
        _ => None,
    }
}

/// The median time from plan to commit of the last `count` committed batches from `first` on; `None`
/// where there is none.
pub fn batch_time(times: &LogTimes, first: u64, count: usize) -> Option<Duration> {
    let mut all: Vec<Duration> = times
        .commits
        .range(first..)
        .rev()
        .filter_map(|(batch, committed_at)| {
            let planned_at = times.offsets.get(batch)?;
            // Time stamps of one storage; a clock that was set back makes no negative time.
            let time = committed_at.duration_since(*planned_at);
            Some(Duration::try_from(time).unwrap_or_default())
        })
        .take(count)
        .collect();
    all.sort_unstable();
    all.get(all.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::checkpoint::layout::DirectoryKind;

    fn log(text: &str) -> OffsetLog {
        let head = r#"{"batchWatermarkMs":0,"batchTimestampMs":0,"conf":{}}"#;
        OffsetLog::parse(format!("v1\n{head}\n{text}").as_bytes()).unwrap()
    }

    #[test]
    fn what_one_has_read_and_the_other_has_not() {
        let kafka = r#"{"t":{"0":10,"1":20}}"#;
        for (ahead, behind, lag) in [
            ("10", "7", Some(3)),
            ("7", "10", Some(0)),
            (kafka, r#"{"t":{"0":4,"1":25}}"#, Some(6)),
            (kafka, r#"{"t":{"0":4}}"#, None),
            (kafka, "10", None),
            ("10\n20", "9\n18", Some(3)),
            ("10\n20", "9", None),
            ("-", "5", Some(0)),
        ] {
            assert_eq!(
                offset_lag(&log(ahead), &log(behind)),
                lag,
                "{ahead} {behind}"
            );
        }
    }

    #[test]
    fn the_median_of_the_last_batches() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut times = LogTimes {
            directory: DirectoryKind::Query,
            offsets: BTreeMap::new(),
            commits: BTreeMap::new(),
        };
        assert_eq!(batch_time(&times, 0, 5), None);
        for (batch, seconds) in [(0, 100), (1, 1), (2, 3), (3, 2)] {
            times.offsets.insert(batch, at(1_000));
            times.commits.insert(batch, at(1_000 + seconds));
        }
        // One that is not committed yet does not count.
        times.offsets.insert(4, at(1_000));
        let seconds = |first, count| batch_time(&times, first, count).map(|time| time.as_secs());
        assert_eq!(seconds(0, 3), Some(2));
        assert_eq!(seconds(0, 10), Some(2));
        assert_eq!(seconds(2, 10), Some(2));
        assert_eq!(seconds(0, 1), Some(2));
        assert_eq!(seconds(4, 3), None);
    }
}
