//! The files with content that a `NameNode` has closed, by its own log: `BLOCK* allocate` when a file gets its
//! first block, `DIR* completeFile` when it is closed.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::common::Hdfs;

/// A file with content, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) path: String,
    /// When it got its first block.
    pub(crate) begun: DateTime,
    /// When it was closed.
    pub(crate) closed: DateTime,
}

/// What was closed within this time, in the order in which it was.
pub(crate) fn closes_between(hdfs: &Hdfs, from: Timestamp, to: Timestamp) -> Result<Vec<Close>> {
    let log = fs::read_to_string(hdfs.namenode().log()).context("no log of the NameNode")?;
    let local = |at: Timestamp| at.to_zoned(TimeZone::system()).datetime();
    let all = closes(&log)?;
    ensure!(!all.is_empty(), "the NameNode logs no closes");
    let within = |close: &Close| close.closed >= local(from) && close.closed <= local(to);
    Ok(all.into_iter().filter(within).collect())
}

fn closes(log: &str) -> Result<Vec<Close>> {
    let mut open: HashMap<&str, DateTime> = HashMap::new();
    let mut closed = Vec::new();
    for line in log.lines() {
        let Some((stamp, what)) = line.split_once(" INFO hdfs.StateChange: ") else {
            continue;
        };
        let at = || -> Result<DateTime> { Ok(stamp.replace(',', ".").parse()?) };
        if let Some(allocated) = what.strip_prefix("BLOCK* allocate ") {
            let (_, path) = allocated.split_once(" for ").context("a block's file")?;
            open.entry(path).or_insert(at()?);
        } else if let Some(completed) = what.strip_prefix("DIR* completeFile: ")
            // That a file was closed before is logged, too.
            && let Some((path, _)) = completed.split_once(" is closed by ")
            // An empty one has no block.
            && let Some(begun) = open.remove(path)
        {
            closed.push(Close {
                path: path.to_owned(),
                begun,
                closed: at()?,
            });
        }
    }
    Ok(closed)
}

/// The same, with the copied files counted by waves: `at_once` of them are written at a time, so that none of
/// these waits for another's close, however long it takes to begin them all.
pub(crate) fn in_waves(
    closes: &[Close],
    is_copied: impl Fn(&str) -> bool,
    at_once: usize,
) -> Vec<Close> {
    let (mut copied, mut all): (Vec<Close>, Vec<Close>) = closes
        .iter()
        .cloned()
        .partition(|close| is_copied(&close.path));
    copied.sort_by_key(|close| close.begun);
    for wave in copied.chunks(at_once) {
        let first = wave.iter().map(|close| close.begun).min();
        let last = wave.iter().map(|close| close.closed).max();
        all.extend(first.zip(last).map(|(begun, closed)| Close {
            path: format!("{} copied file(s)", wave.len()),
            begun,
            closed,
        }));
    }
    all.sort_by_key(|close| close.closed);
    all
}

/// The longest chain of files each of which was begun when the one before was closed: so many closes came
/// one after the other, however many there were at once.
pub(crate) fn chain(closes: &[Close]) -> Vec<&Close> {
    let mut chain: Vec<&Close> = Vec::new();
    // They are in the order of their ends: the next one is that which ends first.
    for close in closes {
        if chain.last().is_none_or(|last| last.closed <= close.begun) {
            chain.push(close);
        }
    }
    chain
}

#[test]
fn closes_at_the_same_time_count_once() -> Result<()> {
    let log = "\
2026-11-28 10:00:00,000 INFO hdfs.StateChange: BLOCK* allocate blk_1_1, replicas=127.0.0.1:1 for /a
2026-11-28 10:00:00,001 INFO hdfs.StateChange: BLOCK* allocate blk_2_1, replicas=127.0.0.1:1 for /b
2026-11-28 10:00:00,002 INFO hdfs.StateChange: DIR* completeFile: /empty is closed by me
2026-11-28 10:00:00,005 INFO hdfs.StateChange: DIR* completeFile: /a is closed by me
2026-11-28 10:00:00,006 INFO hdfs.StateChange: DIR* completeFile: /b is closed by me
2026-11-28 10:00:00,006 INFO BlockStateChange: BLOCK* addStoredBlock: 127.0.0.1:1 is added to blk_2_1 (size=1)
2026-11-28 10:00:00,007 INFO hdfs.StateChange: BLOCK* allocate blk_3_1, replicas=127.0.0.1:1 for /c
2026-11-28 10:00:00,009 INFO hdfs.StateChange: DIR* completeFile: /c is closed by me
";
    let closes = closes(log)?;
    let paths: Vec<&str> = closes.iter().map(|close| close.path.as_str()).collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    let chain: Vec<&str> = chain(&closes)
        .into_iter()
        .map(|close| close.path.as_str())
        .collect();
    assert_eq!(chain, ["/a", "/c"]);

    let paths_in_waves = |at_once| {
        let waves = in_waves(&closes, |path| path != "/b", at_once);
        waves.into_iter().map(|wave| wave.path).collect::<Vec<_>>()
    };
    assert_eq!(paths_in_waves(2), ["/b", "2 copied file(s)"]);
    assert_eq!(
        paths_in_waves(1),
        ["1 copied file(s)", "/b", "1 copied file(s)"]
    );
    Ok(())
}
