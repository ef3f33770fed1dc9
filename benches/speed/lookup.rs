//! `stepdown marker stat` against `hdfs dfs -test -e`, in turns.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::common::hdfs::HdfsBuilder;
use crate::common::{HadoopVersion, Hdfs};
use crate::page::{Row, Table};
use crate::places::STEPDOWN;
use crate::sample::{Sample, millis};

/// Turns: one of each at a time, so that what else the machine does hits both.
const TURNS: usize = 15;
/// The quick one is run more often in its turn.
const LOOKUPS_A_TURN: usize = 10;

pub fn measure() -> Result<Table> {
    let builder: HdfsBuilder = Hdfs::builder().version(HadoopVersion::V3_4);
    let hdfs = builder.start()?;
    let marker = format!("{}/marker", hdfs.nn_uri());
    hdfs.dfs(&["-touchz", &marker])?;
    let (mut ours, mut tuned, mut plain) =
        (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..TURNS {
        for _ in 0..LOOKUPS_A_TURN {
            ours.push(look_up(&hdfs, &marker)?);
        }
        let begun = Instant::now();
        hdfs.dfs(&["-test", "-e", &marker])?;
        tuned.push(begun.elapsed());
        let begun = Instant::now();
        let stock = hdfs.client().stock_dfs(&["-test", "-e", &marker])?;
        ensure!(stock.is_ok(), "{stock:?}");
        plain.push(begun.elapsed());
    }
    let ratio = |slow: &Sample| slow.median().as_secs_f64() / ours.median().as_secs_f64();
    let (against_tuned, against_plain) = (ratio(&tuned), ratio(&plain));
    Ok(Table {
        how: format!(
            "Wall time of the whole process, {TURNS} turns of {LOOKUPS_A_TURN} lookups and one of \
             each `hdfs dfs`, on a NameNode of this machine. \"As shipped\" starts `java` as the \
             `hdfs` script does, without the script itself; \"tuned\" adds a class data archive and \
             the quick compiler only, which no cluster has by default."
        ),
        rows: vec![
            Row::plain("`stepdown marker stat`", ours.text()),
            Row::plain("`hdfs dfs -test -e`, as shipped", plain.text()),
            Row::plain("`hdfs dfs -test -e`, tuned", tuned.text()),
            Row::with_target(
                "ratio of the medians, as shipped",
                format!("{against_plain:.0}"),
                "≥ 100",
                against_plain >= 100.0,
            ),
            Row::plain("ratio of the medians, tuned", format!("{against_tuned:.0}")),
            Row::plain("fastest lookup", millis(ours.quantile(0.0))),
        ],
    })
}

fn look_up(hdfs: &Hdfs, marker: &str) -> Result<Duration> {
    let begun = Instant::now();
    let status = Command::new(STEPDOWN)
        .args(["marker", "stat", marker])
        .env("HADOOP_CONF_DIR", hdfs.conf_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let taken = begun.elapsed();
    ensure!(status.success(), "the lookup ended with {status}");
    Ok(taken)
}
