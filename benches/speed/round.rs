//! One round over the markers of one directory: wall time, and requests to the NameNode.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stepdown::marker::{DirectoryPoll, Sighting};

use crate::common::jmx;
use crate::page::{Row, Table};
use crate::places::{Ground, Jobs, Place};
use crate::sample::{Sample, millis};

const MARKERS: usize = 10_000;
const ROUNDS: usize = 50;

pub fn measure_local() -> Result<Table> {
    measure(&Ground::Local)
}

pub fn measure_hdfs() -> Result<Table> {
    measure(&Ground::hdfs()?)
}

fn measure(ground: &Ground) -> Result<Table> {
    let place = Place::new(ground)?;
    place.fill(MARKERS, Jobs::Waiting)?;
    let control = place.control();
    let dir = control.markers_dir();
    let names = (0..MARKERS).map(|index| format!("job{index:05}.blue"));
    let mut poll = DirectoryPoll::new(
        Arc::clone(place.storage()),
        dir.clone(),
        &dir,
        names.collect(),
        "bench".to_owned(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut times = Sample::default();
    // The first one connects and reads the sentinel.
    let first = runtime.block_on(poll.poll());
    let present = |sighting: &&Sighting| matches!(sighting, Sighting::Present(_));
    ensure!(
        first.markers.iter().filter(present).count() == MARKERS,
        "not all markers are seen"
    );
    let before = requests(ground)?;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let round = runtime.block_on(poll.poll());
        times.push(begun.elapsed());
        ensure!(round.guard.is_ok(), "a round failed: {round:?}");
    }
    let after = requests(ground)?;
    let mut rows = vec![
        Row::with_target(
            "wall time of a round",
            times.text(),
            "< 100 ms",
            times.median().as_millis() < 100,
        ),
        Row::plain("fastest round", millis(times.quantile(0.0))),
    ];
    if let (Some(before), Some(after)) = (before, after) {
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        let each = (after - before) as f64 / ROUNDS as f64;
        rows.push(Row::with_target(
            "requests to the NameNode a round",
            format!("{each:.1}"),
            "about 10",
            each <= 15.0,
        ));
    }
    let what = match ground {
        Ground::Local => "on local disk",
        Ground::Hdfs(_) => "in HDFS (Hadoop 3.4); the NameNode counted the requests",
    };
    Ok(Table {
        how: format!("{ROUNDS} rounds over {MARKERS} markers in one directory {what}."),
        rows,
    })
}

/// How many requests of clients the NameNode has answered; none where there is no NameNode.
fn requests(ground: &Ground) -> Result<Option<u64>> {
    match ground {
        Ground::Local => Ok(None),
        Ground::Hdfs(hdfs) => {
            // Its figures are of a while ago.
            std::thread::sleep(Duration::from_secs(3));
            let namenode = hdfs.namenode();
            let counted = jmx::client_requests(namenode.http_port(), namenode.port());
            counted.context("the NameNode shows no metrics").map(Some)
        }
    }
}
