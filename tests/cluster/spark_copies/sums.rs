//! What each batch of a query in `tests/spark/jobs/shapes.py` gives: formulas of its number.

use anyhow::{Result, ensure};

use crate::common::Query;
use crate::common::spark::Rows;

/// Batches from `first` on, with this many values each, multiplied with `scale`.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: i64,
    rows: i64,
    scale: i64,
}

/// What a query was fed with, through all its restarts.
#[derive(Debug, Clone)]
pub(crate) struct Feed(Vec<Stretch>);

/// Keys of the aggregations.
const KEYS: i64 = 10;
/// How many values later the left side of the join meets the right one.
const LAG: i64 = 150;
/// Batches in a window.
const WINDOW: i64 = 3;
/// Values in a file.
const FILE: i64 = 100;

impl Feed {
    /// The same for all batches.
    pub(crate) fn steady(rows: i64, scale: i64) -> Self {
        Self(vec![Stretch {
            first: 0,
            rows,
            scale,
        }])
    }

    /// Other data from batch `first` on.
    pub(crate) fn then(mut self, first: u64, rows: i64, scale: i64) -> Self {
        let first = i64::try_from(first).unwrap();
        self.0.push(Stretch { first, rows, scale });
        self
    }

    /// How many values the batches before `batch` have.
    fn values_before(&self, batch: i64) -> i64 {
        let ends = self.0.iter().skip(1).map(|next| next.first);
        let ends = ends.chain([i64::MAX]);
        let stretches = self.0.iter().zip(ends);
        stretches
            .map(|(stretch, end)| (batch.min(end) - stretch.first).max(0) * stretch.rows)
            .sum()
    }

    /// Sum (scaled) and count of the values from `from` to before `to` that leave `rest` when divided
    /// by `by`.
    fn summed(&self, from: i64, to: i64, (rest, by): (i64, i64)) -> (i64, i64) {
        let (mut sum, mut count) = (0, 0);
        for (index, stretch) in self.0.iter().enumerate() {
            let begin = self.values_before(stretch.first).max(from);
            let next = self.0.get(index + 1);
            let end = next.map_or(to, |next| self.values_before(next.first).min(to));
            if begin < end {
                let (up_to_end, up_to_begin) = (series(end, rest, by), series(begin, rest, by));
                sum += stretch.scale * (up_to_end.0 - up_to_begin.0);
                count += up_to_end.1 - up_to_begin.1;
            }
        }
        (sum, count)
    }
}

/// Sum and count of the numbers below `end` that leave `rest` when divided by `by`.
fn series(end: i64, rest: i64, by: i64) -> (i64, i64) {
    let count = ((end - rest + by - 1) / by).max(0);
    (rest * count + by * count * (count - 1) / 2, count)
}

/// How many keys the first `values` values have: they begin at 0 and leave none out.
fn distinct(values: i64) -> i64 {
    let (hundreds, rest) = (values / 100, values % 100);
    let earlier = if hundreds > 0 { 50 * hundreds + 50 } else { 0 };
    let last = if rest > 0 { 50 * hundreds + rest } else { 0 };
    earlier.max(last)
}

fn one_row(from: i64, to: i64) -> Rows {
    let (end, begin) = (series(to, 0, 1), series(from.min(to), 0, 1));
    match end.1 - begin.1 {
        0 => Vec::new(),
        count => vec![[0, end.0 - begin.0, count]],
    }
}

/// The rows that `batch` gives.
fn expected(shape: &str, feed: &Feed, batch: i64) -> Rows {
    let (from, to) = (feed.values_before(batch), feed.values_before(batch + 1));
    let by_key = |end: i64| {
        (0..KEYS).map(move |key| {
            let (sum, count) = series(end, key, KEYS);
            [key, sum, count]
        })
    };
    match shape {
        "aggregation" | "processor" => (0..KEYS)
            .map(|key| {
                let (sum, count) = feed.summed(0, to, (key, KEYS));
                [key, sum, count]
            })
            .collect(),
        // The watermark is the last batch's second, and ends the window one batch later.
        "watermark" => match batch - WINDOW - 1 {
            start if start >= 0 && start % WINDOW == 0 => {
                let (begin, end) = (
                    feed.values_before(start),
                    feed.values_before(start + WINDOW),
                );
                let (sum, count) = feed.summed(begin, end, (0, 1));
                vec![[start, sum, count]]
            }
            _ => Vec::new(),
        },
        "deduplication" => one_row(distinct(from), distinct(to)),
        "two-operators" => by_key(distinct(to)).collect(),
        "join" => one_row(from.max(LAG), to.max(LAG)),
        _ => unreachable!("{shape}"),
    }
}

/// A file source may take several files at once after a restart, never the same one twice and none
/// after it left one out.
fn check_files(feed: &Feed, batch: i64, rows: &Rows) -> Result<()> {
    let values: i64 = rows.iter().map(|[_, _, count]| count).sum();
    ensure!(values % FILE == 0, "{values} values are no whole files");
    ensure!(values >= (batch + 1) * FILE, "only {values} values");
    let right: Rows = (0..KEYS)
        .map(|key| {
            let (sum, count) = feed.summed(0, values, (key, KEYS));
            [key, sum, count]
        })
        .collect();
    ensure!(*rows == right, "{rows:?} instead of {right:?}");
    Ok(())
}

/// Checks all that the query has noted, which begins with batch `first` and leaves none out; returns
/// the number of the last batch.
pub(crate) fn check(query: &Query, feed: &Feed, first: u64) -> Result<u64> {
    let mut next = first;
    for (batch, rows) in query.notes()? {
        // A batch that was not committed is repeated, with the same result.
        ensure!(
            (first..=next).contains(&batch) && batch + 1 >= next,
            "{} went on with batch {batch} after {next} were done, from {first}",
            query.name
        );
        next = batch + 1;
        let number = i64::try_from(batch)?;
        if query.shape == "files" {
            check_files(feed, number, &rows)
                .map_err(|error| error.context(format!("{}, batch {batch}", query.name)))?;
            continue;
        }
        let right = expected(query.shape, feed, number);
        ensure!(
            rows == right,
            "{}, batch {batch}: {rows:?} instead of {right:?}",
            query.name
        );
    }
    ensure!(next > first, "{} has done nothing", query.name);
    Ok(next - 1)
}

#[test]
fn formulas_agree_with_counting() {
    let feed = Feed::steady(100, 1).then(3, 250, 7);
    assert_eq!(
        [0, 1, 3, 4].map(|b| feed.values_before(b)),
        [0, 100, 300, 550]
    );
    let scaled = |value: i64| if value < 300 { value } else { 7 * value };
    for batch in 0..6 {
        let (from, to) = (feed.values_before(batch), feed.values_before(batch + 1));
        let counted: Rows = (0..10)
            .map(|key| {
                let values = (0..to).filter(|value| value % 10 == key);
                let (sum, count) = (values.clone().map(scaled).sum(), values.count());
                [key, sum, i64::try_from(count).unwrap()]
            })
            .collect();
        assert_eq!(expected("aggregation", &feed, batch), counted);
        let keys = |end: i64| -> std::collections::BTreeSet<i64> {
            (0..end).map(|v| v / 100 * 50 + v % 100).collect()
        };
        let (old, all) = (keys(from), keys(to));
        let new: Vec<i64> = all.difference(&old).copied().collect();
        let one = [0, new.iter().sum(), i64::try_from(new.len()).unwrap()];
        assert_eq!(expected("deduplication", &feed, batch), vec![one]);
        let joined: Vec<i64> = (from..to).filter(|v| *v >= 150).collect();
        let one = [0, joined.iter().sum(), i64::try_from(joined.len()).unwrap()];
        let one = if joined.is_empty() { vec![] } else { vec![one] };
        assert_eq!(expected("join", &feed, batch), one);
    }
    let window: i64 = (300..1050).map(scaled).sum();
    assert_eq!(expected("watermark", &feed, 7), vec![[3, window, 750]]);
    assert!(expected("watermark", &feed, 6).is_empty());
}
