//! Rollouts of a real `PySpark` job with the driver kit: control directory, markers and checkpoints on HDFS.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::applications::watched;
use super::clicks::{Times, other};
use super::soak::{median, turns, write_block};
use super::spark_job::{Stage, Way, spark_env};
use crate::common::spark::pyspark_home;
use crate::common::{Hdfs, SparkVersion};

/// What every rollout of a running job that went well has on record.
fn check_record(record: &Value) -> Result<f64> {
    assert_eq!(record["proof"], "clean", "{record:#}");
    Times::of(record)?.gap()
}

/// Blue, then green, then a while: every batch once, by one query id, nothing lost.
fn takes_over_exactly_once(version: SparkVersion, strategy: &str) -> Result<()> {
    let stage = Stage::new(Hdfs::shared()?, version)?;
    let way = Way::of(strategy);
    stage.roll_out(way, "1")?;
    stage.await_commits("blue", 2)?;
    let record = stage.roll_out(way, "2")?;
    let gap = check_record(&record)?;
    ensure!(gap > 0.0, "{record:#}");
    let own = record["base"][0]["committed"].as_u64().context("no base")?;
    assert_eq!(
        stage.clicks.newest("blue", "commits")?,
        Some(own),
        "what the old job committed last is where the new one began"
    );
    assert_eq!(stage.clicks.newest("blue", "offsets")?, Some(own));
    stage.await_commits("green", own + 2)?;
    stage.stop("green")?;
    let last = stage
        .clicks
        .newest("green", "commits")?
        .context("no commit")?;
    let written = stage.exactly_once("sink")?;
    let batches: Vec<_> = written.into_values().collect();
    assert_eq!(batches, [(0..=last).collect::<BTreeSet<u64>>()]);
    Ok(())
}

#[test]
fn a_spark_job_hands_over_on_hdfs() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V4, "hand-over")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_hand_over_spark_3_5() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V3_5, "hand-over")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_stop_start() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V4, "stop-start")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_stop_start_spark_3_5() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V3_5, "stop-start")
}

/// Each side has a sink of its own: each is exactly once in itself, and together they have everything.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_parallel() -> Result<()> {
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    let way = Way {
        sink: "sink-{slot}",
        ..Way::of("parallel")
    };
    stage.roll_out(way, "1")?;
    stage.await_commits("blue", 2)?;
    let record = stage.roll_out(way, "2")?;
    let gap = check_record(&record)?;
    ensure!(gap < 0.0, "both ran at the same time: {record:#}");
    let old_last = stage
        .clicks
        .newest("blue", "commits")?
        .context("no commit")?;
    stage.await_commits("green", old_last + 2)?;
    stage.stop("green")?;
    let new_last = stage
        .clicks
        .newest("green", "commits")?
        .context("no commit")?;
    let (old, new) = (
        stage.exactly_once("sink-blue")?,
        stage.exactly_once("sink-green")?,
    );
    let (old_id, old) = old.first_key_value().context("nothing of blue")?;
    let (new_id, new) = new.first_key_value().context("nothing of green")?;
    assert_ne!(old_id, new_id, "the copy has an identity of its own");
    assert_eq!(*old, (0..=old_last).collect());
    let all: BTreeSet<u64> = old.union(new).copied().collect();
    assert_eq!(all, (0..=new_last).collect());
    ensure!(old.intersection(new).count() > 0, "both wrote for a while");
    Ok(())
}

/// Both run all the time, each in its own place, and are exchanged one after the other.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_rolling() -> Result<()> {
    const SLOTS: [&str; 2] = ["blue", "green"];
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    let way = Way {
        sink: "sink-{slot}",
        ..Way::of("rolling")
    };
    for slot in SLOTS {
        let marker = stage.clicks.at(&format!("control/markers/clicks.{slot}"));
        stage.clicks.eye().touch(&marker)?;
        stage.start_by_hand(way, slot)?;
    }
    for slot in SLOTS {
        stage.await_commits(slot, 2)?;
    }
    let before = stage.pids();
    let (record, seen) = watched(&stage, || stage.roll_out(way, "2"))?;
    println!("{seen:?}, path {}", record["path"]);
    ensure!(seen.most == 1 && seen.fewest >= 1, "{seen:?}");
    ensure!(
        stage.pids().iter().all(|pid| !before.contains(pid)),
        "one of them was not exchanged: {record:#}"
    );
    for slot in SLOTS {
        let last = stage.clicks.newest(slot, "commits")?.context("no commit")?;
        stage.await_commits(slot, last + 1)?;
        stage.stop(slot)?;
        let last = stage.clicks.newest(slot, "commits")?.context("no commit")?;
        let written = stage.exactly_once(&format!("sink-{slot}"))?;
        let batches: Vec<_> = written.into_values().collect();
        assert_eq!(batches, [(0..=last).collect::<BTreeSet<u64>>()], "{slot}");
    }
    Ok(())
}

const WARM_UP: &[&str] = &["--warm-up", "60"];

/// How the next version comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    HeldAtACall,
    HeldAtTheStart,
    Scripted,
}

impl Coming {
    const ALL: [Coming; 3] = [
        Coming::HeldAtACall,
        Coming::Scripted,
        Coming::HeldAtTheStart,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Coming::HeldAtACall => "`hand-over`, warm-up before `awaitGo()` (`hold=call`)",
            Coming::HeldAtTheStart => {
                "`hand-over`, no change to the code (`hold=start`): the warm-up lies in the gap"
            }
            Coming::Scripted => "script: marker removed, end awaited, started again",
        }
    }

    fn way(self) -> Way<'static> {
        let (options, arguments): (&[&str], &[&str]) = match self {
            Coming::HeldAtACall => (
                &["--conf", "spark.stepdown.hold=call"],
                &["--warm-up", "60", "--call"],
            ),
            Coming::HeldAtTheStart | Coming::Scripted => (&[], WARM_UP),
        };
        Way {
            options,
            arguments,
            ..Way::of("hand-over")
        }
    }
}

/// What one coming took, in seconds; the parts are known of rollouts only.
#[derive(Debug, Clone, Copy)]
struct Gap {
    whole: f64,
    parts: Option<[f64; 3]>,
}

impl Stage {
    /// Starts the job in `slot` with what a start command would get; its marker is there.
    fn start_by_hand(&self, way: Way<'_>, slot: &str) -> Result<()> {
        let (clicks, dir) = (&self.clicks, self.clicks.dir());
        let hdfs = Hdfs::shared()?;
        let home = pyspark_home(self.version)?;
        let words: Vec<String> = self
            .start_words(way)?
            .iter()
            .map(|word| word.replace("{slot}", slot))
            .collect();
        let (program, args) = words.split_first().context("no words")?;
        let log = fs::File::create(clicks.path(&format!("{slot}.log")))?;
        let mut child = Command::new(program)
            .args(args)
            .env("STEPDOWN_JOB", "clicks")
            .env("STEPDOWN_SLOT", slot)
            .env("STEPDOWN_CONTROL", format!("hdfs://{dir}/control"))
            // Spark takes no checkpoint without an authority; the kit does.
            .env(
                "STEPDOWN_CHECKPOINT",
                format!("{}{dir}/ck/{slot}", hdfs.nn_uri()),
            )
            .envs(hdfs.env())
            .envs(spark_env(&home))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // It is not to stay as a zombie.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Stops the job in `slot` and starts it again there, as a script does it.
    fn stop_and_start(&self, way: Way<'_>, slot: &str) -> Result<Gap> {
        self.stop(slot)?;
        let last = self.clicks.newest(slot, "commits")?.context("no commit")?;
        let clicks = &self.clicks;
        clicks
            .eye()
            .touch(&clicks.at(&format!("control/markers/clicks.{slot}")))?;
        self.start_by_hand(way, slot)?;
        self.await_commits(slot, last)?;
        let at = |batch: u64| -> Result<u64> {
            let commit = clicks
                .eye()
                .stat(&clicks.at(&format!("ck/{slot}/commits/{batch}")))?;
            Ok(commit.context("no such commit")?.modification_time)
        };
        let whole = Duration::from_millis(at(last + 1)? - at(last)?).as_secs_f64();
        Ok(Gap { whole, parts: None })
    }

    fn hand_over(&self, way: Way<'_>, version: &str) -> Result<Gap> {
        let record = self.roll_out(way, version)?;
        let whole = check_record(&record)?;
        // The go follows on the entry of `cutover` by one rename.
        let times = Times::of(&record)?;
        let parts = [
            times.between("old_committed_at", "old_ended_at")?,
            times.between("old_ended_at", "cutover")?,
            times.between("cutover", "new_committed_at")?,
        ];
        Ok(Gap {
            whole,
            parts: Some(parts),
        })
    }
}

/// The same job, stopped and started by a script and handed over, in turn. Its warm-up is 60 s of sleep and
/// one small query, before its stream starts.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_gap() -> Result<()> {
    let turns = turns(3)?;
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    stage.roll_out(Way::of("hand-over"), "first")?;
    let mut slot = "blue";
    let mut gaps: Vec<(Coming, Gap)> = Vec::new();
    for turn in 0..turns {
        let mut order = Coming::ALL;
        let shift = turn % order.len();
        order.rotate_left(shift);
        for coming in order {
            let last = stage.clicks.newest(slot, "commits")?.unwrap_or(0);
            stage.await_commits(slot, last + 2)?;
            let begun = Instant::now();
            let gap = if coming == Coming::Scripted {
                stage.stop_and_start(coming.way(), slot)?
            } else {
                slot = other(slot);
                stage.hand_over(coming.way(), &format!("{turn}-{coming:?}"))?
            };
            let took = begun.elapsed().as_secs_f64();
            println!("turn {turn}: {coming:?} {gap:?}, {took:.0} s in all");
            gaps.push((coming, gap));
        }
        write_gaps(&gaps, turn + 1)?;
    }
    stage.stop(slot)?;
    let last = stage.clicks.newest(slot, "commits")?.context("no commit")?;
    let written = stage.exactly_once("sink")?;
    let batches: Vec<_> = written.into_values().collect();
    assert_eq!(batches, [(0..=last).collect::<BTreeSet<u64>>()]);
    println!("{} batches, each written once by one query id", last + 1);
    Ok(())
}

/// The table of `docs/benchmarks.md`.
fn write_gaps(gaps: &[(Coming, Gap)], turns: usize) -> Result<()> {
    let of = |coming: Coming| -> Vec<Gap> {
        let own = gaps.iter().filter(|(of, _)| *of == coming);
        own.map(|(_, gap)| *gap).collect()
    };
    let middle = |coming| median(of(coming).iter().map(|gap| gap.whole).collect());
    let scripted = middle(Coming::Scripted);
    let mut text = format!(
        "{turns} turns, the order rotated. PySpark {spark}, one query, batches of 0.5 s and their commits.\n\n\
         | how the new job comes | gap, each turn | median | end of the job | stepdown | first batch | to the script |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        spark = SparkVersion::V4.as_str()
    );
    for coming in Coming::ALL {
        let all = of(coming);
        let each: Vec<String> = all.iter().map(|gap| format!("{:.1}", gap.whole)).collect();
        let part = |index: usize| {
            let values: Vec<f64> = all
                .iter()
                .filter_map(|gap| Some(gap.parts?[index]))
                .collect();
            if values.is_empty() {
                String::new()
            } else {
                format!("{:.2} s", median(values))
            }
        };
        let row = format!(
            "| {} | {} s | {:.1} s | {} | {} | {} | 1 : {:.1} |\n",
            coming.as_str(),
            each.join(", "),
            middle(coming),
            part(0),
            part(1),
            part(2),
            scripted / middle(coming),
        );
        text.push_str(&row);
    }
    write_block("rollout-gap", &text)
}
