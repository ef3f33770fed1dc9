//! `kill -9` of a copy at random moments: the destination is absent or whole, and what was recorded as
//! verified is not copied again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Copying, Yard, contents, true_manifest};
use crate::common::checkpoint_tree::Shape;
use crate::common::{Hdfs, wait_until};
use crate::soak::{Record, add_row, build, machine};

/// More files than one segment of the journal has.
const SHAPE: Shape = Shape {
    batches: 55,
    partitions: 40,
    snapshot_each: 0,
};
/// A kill that nobody survives in this time has come too late.
const LONG: Duration = Duration::from_mins(2);

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Direction {
    Up,
    Within,
    Down,
}

/// What came of a series of kills.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Series {
    number: u64,
    direction: Direction,
    kills: u64,
    /// Kills that left a copy to be completed.
    cut: u64,
    /// Kills that came when the copy stood already.
    published: u64,
    /// Files that were not copied again, over all kills.
    kept: u64,
    seconds: u64,
}

/// A copy to be killed again and again.
struct Victim<'a> {
    yard: &'a Yard,
    direction: Direction,
    source: String,
    destination: String,
}

impl<'a> Victim<'a> {
    fn prepare(yard: &'a Yard, direction: Direction) -> Result<Self> {
        let local = yard.tree("ck", SHAPE)?;
        let mut source = local.clone();
        if direction != Direction::Up {
            source = yard.uri("ck");
            yard.json(&["copy", "--full", &local, &source], 0)?;
        }
        let destination = match direction {
            Direction::Up | Direction::Within => yard.uri("copy"),
            Direction::Down => yard.text("copy"),
        };
        Ok(Self {
            yard,
            direction,
            source,
            destination,
        })
    }

    fn begin(&self, name: &str) -> Result<Copying<'_>> {
        self.yard.begin(name, &[&self.source, &self.destination])
    }

    /// The lengths of the files of the work directory.
    fn staged(&self) -> Result<BTreeMap<String, usize>> {
        let name = ".copy.stepdown-copy/tree";
        match self.direction {
            Direction::Up | Direction::Within => self.yard.eye().lengths(&self.yard.at(name)),
            Direction::Down => {
                let files = self.files(name)?.into_iter();
                Ok(files.map(|(name, content)| (name, content.len())).collect())
            }
        }
    }

    fn files(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        match self.direction {
            Direction::Up | Direction::Within => self.yard.eye().contents(&self.yard.at(name)),
            Direction::Down => {
                let dir = self.yard.remote.path(name);
                if dir.exists() {
                    contents(&dir)
                } else {
                    Ok(BTreeMap::new())
                }
            }
        }
    }

    fn has(&self, name: &str) -> Result<bool> {
        match self.direction {
            Direction::Up | Direction::Within => self.yard.eye().exists(&self.yard.at(name)),
            Direction::Down => Ok(self.yard.remote.path(name).exists()),
        }
    }

    /// Whether the copy is there; it is whole then.
    fn is_published(&self) -> Result<bool> {
        if !self.has("copy")? {
            return Ok(false);
        }
        let manifest = true_manifest(self.files("copy")?)?;
        ensure!(
            manifest["last_committed_batch"] == SHAPE.batches - 1,
            "{manifest:#}"
        );
        Ok(true)
    }

    fn remove_copy(&self) -> Result<()> {
        match self.direction {
            Direction::Up | Direction::Within => self.yard.eye().remove(&self.yard.at("copy")),
            Direction::Down => Ok(fs::remove_dir_all(self.yard.remote.path("copy"))?),
        }
    }

    /// How many files are recorded as verified, and are there.
    fn recorded(&self) -> Result<u64> {
        let mut recorded = BTreeMap::new();
        for (name, content) in self.files(".copy.stepdown-copy/journal")? {
            if name.starts_with('.') {
                continue;
            }
            let segment: Value = serde_json::from_slice(&content).context(name)?;
            for file in segment["files"].as_array().context("no files")? {
                let path = file["path"].as_str().context("no path")?.to_owned();
                let bytes = usize::try_from(file["bytes"].as_u64().context("no length")?)?;
                recorded.insert(path, bytes);
            }
        }
        if recorded.is_empty() {
            return Ok(0);
        }
        let there = self.staged()?;
        let mut count = 0;
        for (path, bytes) in recorded {
            if let Some(found) = there.get(&path) {
                ensure!(bytes == *found, "{path} is recorded and not whole");
                count += 1;
            }
        }
        Ok(count)
    }

    /// The names of what the journal has.
    fn journal(&self) -> Result<BTreeSet<String>> {
        let found = self.files(".copy.stepdown-copy/journal")?.into_keys();
        Ok(found.filter(|name| !name.starts_with('.')).collect())
    }

    /// Waits for a moment of the `kill`th copy, of which this share is left to do: one by the clock,
    /// one by what it recorded, so that there is something to keep also where the machine is slow.
    fn await_moment(
        &self,
        copying: &mut Copying<'_>,
        kill: u64,
        whole: Option<Duration>,
        left: f64,
        rng: &mut Rng,
    ) -> Result<()> {
        let begun = Instant::now();
        let (false, Some(whole)) = (kill.is_multiple_of(3), whole) else {
            // It leaves a record.
            let before = self.journal()?;
            return wait_until(LONG, "files are recorded", || {
                copying.has_ended()
                    || !copying.events("checking").is_empty()
                    || self.journal().is_ok_and(|now| !now.is_subset(&before))
            });
        };
        let pause = if kill % 5 == 4 {
            // While it is checked and published.
            wait_until(LONG, "it is checked", || {
                copying.has_ended() || !copying.events("checking").is_empty()
            })?;
            begun.elapsed() + whole.mul_f64(rng.f64() * 0.2)
        } else {
            whole.mul_f64(rng.f64() * (left + 0.05))
        };
        wait_until(LONG, "the moment comes", || {
            copying.has_ended() || begun.elapsed() >= pause
        })
    }

    /// Kills it so many times, then lets it come to its end.
    fn play(&self, number: u64, kills: u64) -> Result<Series> {
        let mut rng = Rng::with_seed(number);
        let begun = Instant::now();
        let mut series = Series {
            number,
            direction: self.direction,
            kills,
            cut: 0,
            published: 0,
            kept: 0,
            seconds: 0,
        };
        let mut whole = None;
        for kill in 0..kills {
            let recorded = self.recorded()?;
            let left = 1.0
                - f64::from(u32::try_from(recorded)?) / f64::from(u32::try_from(SHAPE.files())?);
            let mut copying = self.begin(&format!("copy-{kill}"))?;
            let started = Instant::now();
            self.await_moment(&mut copying, kill, whole, left, &mut rng)?;
            if let Some(planned) = copying.events("planned").first() {
                let kept = planned["kept"]["files"].as_u64().context("no count")?;
                ensure!(kept >= recorded, "{kept} of {recorded} files were kept");
                series.kept += kept;
            }
            let log = copying.log();
            copying.daemon.kill()?;
            whole.get_or_insert(started.elapsed());
            if !self
                .is_published()
                .with_context(|| format!("kill {kill}: {log}"))?
            {
                series.cut += 1;
                continue;
            }
            series.published += 1;
            if self.has(".copy.stepdown-copy/purpose.json")? {
                let (code, report, log) = self.begin("again")?.end(LONG)?;
                ensure!(code == 0, "kill {kill}: {log}");
                ensure!(report["copied"]["files"] == 0, "kill {kill}: {log}");
            }
            self.remove_copy()?;
        }
        let recorded = self.recorded()?;
        let (code, report, log) = self.begin("last")?.end(LONG)?;
        ensure!(code == 0, "{log}");
        let count = |of: &str| report[of]["files"].as_u64().context("no count");
        ensure!(
            count("copied")? + recorded <= count("total")?,
            "{recorded} were recorded: {log}"
        );
        ensure!(self.is_published()?, "{log}");
        ensure!(!self.has(".copy.stepdown-copy")?, "{log}");
        self.remove_copy()?;
        series.seconds = begun.elapsed().as_secs();
        Ok(series)
    }
}

#[test]
fn a_copy_that_is_killed_is_absent_or_whole_and_goes_on() -> Result<()> {
    let yard = Yard::on(Hdfs::shared()?, "killed")?;
    let victim = Victim::prepare(&yard, Direction::Up)?;
    let series = victim.play(7, 10)?;
    println!("{series:?}");
    ensure!(series.cut >= 3, "{series:?}");
    ensure!(series.kept >= 2000, "{series:?}");
    Ok(())
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_copies_that_are_killed() -> Result<()> {
    const SERIES: u64 = 12;
    const KILLS: u64 = 10;
    let hdfs = Hdfs::shared()?;
    let record: Record<Series> = Record::open("copies-killed")?;
    let done: Vec<u64> = record.done.iter().map(|series| series.number).collect();
    println!("copies under kill -9: {} of {SERIES} are done", done.len());
    for number in (0..SERIES).filter(|number| !done.contains(number)) {
        let direction = match number % 3 {
            0 => Direction::Up,
            1 => Direction::Within,
            _ => Direction::Down,
        };
        let yard = Yard::on(hdfs, "killed")?;
        let series = Victim::prepare(&yard, direction)?
            .play(number, KILLS)
            .with_context(|| format!("series {number}, {direction:?}"))?;
        println!("{} {series:?}", jiff::Timestamp::now());
        record.add(&series)?;
        fs::remove_dir_all(yard.remote.path("ck"))?;
    }
    let all = Record::<Series>::open("copies-killed")?.done;
    for (direction, name) in [
        (Direction::Up, "local to HDFS"),
        (Direction::Within, "within HDFS"),
        (Direction::Down, "HDFS to local"),
    ] {
        let of = |count: fn(&Series) -> u64| -> u64 {
            let own = all.iter().filter(|series| series.direction == direction);
            own.map(count).sum()
        };
        // One that is partial, or copies again, ends the test before this.
        let row = format!(
            "| {} | {name} | {} | {} | {} | {} | {} | {} | 0 | 0 | {} |\n",
            jiff::Zoned::now().date(),
            machine(),
            build(),
            of(|series| series.kills),
            of(|series| series.cut),
            of(|series| series.published),
            of(|series| series.kept),
            of(|series| series.seconds),
        );
        print!("{row}");
        add_row(&row, "<!-- end of copies -->")?;
    }
    if all.len() as u64 != SERIES {
        bail!("{} of {SERIES} series are recorded", all.len());
    }
    record.close()
}
