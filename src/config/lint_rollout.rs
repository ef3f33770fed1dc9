//! What is odd about rollouts, and about what start and stop commands say of the platform.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lint::{Warnings, shown};
use super::rollout::{RolloutCheckpoint, Strategy};
use super::schema::{Config, Job, JobSlot, Stop};
use crate::model::Slot;
use crate::storage::StorageUri;

/// How long YARN waits between SIGTERM and SIGKILL, and the property that says otherwise.
const YARN_GRACE: (Duration, &str) = (
    Duration::from_millis(250),
    "yarn.nodemanager.sleep-delay-before-sigkill.ms",
);

pub(super) fn of_job(config: &Config, job: &Job, warnings: &mut Warnings) {
    graces(config, job, warnings);
    let Some(rollout) = &job.rollout else {
        return;
    };
    let without: Vec<&str> = job
        .slots
        .iter()
        .filter(|(_, of)| of.start.is_none())
        .map(|(slot, _)| slot.as_str())
        .collect();
    if !without.is_empty() {
        warnings.add(
            format!("jobs.{}.rollout.start", job.name),
            format!(
                "there is no command to start the job in {}: a rollout waits until somebody does, and \
                 cannot start the old job again",
                without.join(" and ")
            ),
            "name the start command here, or in the slot",
        );
    }
    if rollout.checkpoint == RolloutCheckpoint::InPlace {
        return;
    }
    for (slot, of) in &job.slots {
        let other = job.slots.get(&slot.other());
        if let Some(other) = other {
            foreign_words(job, *slot, of, other, warnings);
        }
    }
}

/// File sinks that have another writer, and outputs that do not stay at their place. Spark takes a batch that
/// a sink's log has as written, whoever wrote it.
pub(super) fn file_sinks(config: &Config, warnings: &mut Warnings) {
    let mut writers: BTreeMap<&StorageUri, &Job> = BTreeMap::new();
    for job in config.jobs.values() {
        let key = |slot| format!("jobs.{}.slots.{slot}.file-sinks", job.name);
        for (slot, of) in &job.slots {
            for sink in &of.file_sinks {
                if let Some(other) = writers
                    .insert(sink, job)
                    .filter(|other| other.name != job.name)
                {
                    warnings.add(
                        key(*slot),
                        format!("{sink} is a file sink of {}, too: each skips the batches that the other wrote", other.name),
                        "give each query an output directory of its own",
                    );
                }
                // A checkpoint in the output is common, and Spark's readers pass over it.
                if let Some(dir) = of.checkpoints.iter().find(|dir| sink.is_within(dir)) {
                    warnings.add(
                        key(*slot),
                        format!("{sink} lies in the checkpoint {dir}"),
                        "keep the output out of the checkpoint",
                    );
                }
            }
        }
        let (Some(rollout), Some(blue), Some(green)) = (
            &job.rollout,
            job.slots.get(&Slot::Blue),
            job.slots.get(&Slot::Green),
        ) else {
            continue;
        };
        let shared = blue
            .file_sinks
            .iter()
            .find(|sink| green.file_sinks.contains(sink));
        match (rollout.strategy, shared) {
            (Strategy::Parallel | Strategy::Rolling, Some(sink)) => warnings.add(
                key(Slot::Green),
                format!(
                    "{sink} is the file sink of both slots, which run at the same time: each skips the batches that \
                     the other wrote"
                ),
                "give each slot an output directory of its own",
            ),
            (Strategy::HandOver | Strategy::StopStart, _) if blue.file_sinks != green.file_sinks => warnings.add(
                key(Slot::Green),
                "are not those of blue: a new version goes on with the batches of the old one, in another directory",
                "name the same output directories in both slots",
            ),
            _ => {}
        }
    }
}

/// A start command that names what belongs to the other slot: both are started with it, and the new job
/// would write where the old one does.
fn foreign_words(job: &Job, slot: Slot, of: &JobSlot, other: &JobSlot, warnings: &mut Warnings) {
    let Some(start) = &of.start else {
        return;
    };
    let mut theirs: Vec<(&str, &StorageUri)> = vec![("marker", &other.marker)];
    theirs.extend(other.checkpoints.iter().map(|uri| ("checkpoint", uri)));
    for (what, uri) in theirs {
        let is_ours = *uri == of.marker || of.checkpoints.contains(uri);
        let named = start.words().iter().find(|word| names(word, uri));
        if let (false, Some(word)) = (is_ours, named) {
            warnings.add(
                format!("jobs.{}.slots.{slot}.start", job.name),
                format!("{word:?} names the {what} of {}", slot.other()),
                format!("write {{{what}}}, which stands for the slot's own"),
            );
        }
    }
}

/// Whether a word of a command names this place, or something in it.
fn names(word: &str, uri: &StorageUri) -> bool {
    let path = uri.path.as_str();
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    word.match_indices(path).any(|(at, _)| {
        let head = word.get(..at).unwrap_or_default();
        let tail = word.get(at + path.len()..).unwrap_or_default();
        // Not the end of a longer path, nor the beginning of a longer name.
        let authority = head.rsplit_once("://").map(|(_, authority)| authority);
        let begins = authority.is_some_and(|authority| !authority.contains('/'))
            || !head.ends_with(is_of_name);
        begins && !tail.starts_with(is_of_name)
    })
}

/// Commands that say how long the platform waits before it kills, where that is less than the job may
/// drain.
fn graces(config: &Config, job: &Job, warnings: &mut Warnings) {
    for (slot, of) in &job.slots {
        let section = format!("jobs.{}.slots.{slot}", job.name);
        let mut commands = Vec::new();
        if let Stop::Command(stop) = &of.stop {
            commands.push((format!("{section}.stop.request"), stop.request.words()));
        }
        if let Some(start) = &of.start {
            commands.push((format!("{section}.start"), start.words()));
        }
        for (key, words) in commands {
            let yarn = config
                .hadoop
                .overrides
                .get(YARN_GRACE.1)
                .and_then(|text| text.parse().ok())
                .map_or(YARN_GRACE.0, Duration::from_millis);
            if let Some((word, grace)) = grace_in(words, yarn)
                && grace < job.drain_deadline
            {
                warnings.add(
                    key,
                    format!(
                        "{word:?} has the platform kill after {}, and drain-deadline is {}",
                        shown(grace),
                        shown(job.drain_deadline)
                    ),
                    "give the platform more time than drain-deadline, or have the driver kit drain the job",
                );
            }
        }
    }
}

/// The word of a command that says how long its platform waits between asking and killing.
fn grace_in(words: &[String], yarn: Duration) -> Option<(String, Duration)> {
    // Scripts stand in one word.
    let words: Vec<&str> = words
        .iter()
        .flat_map(|word| word.split_whitespace())
        .collect();
    let is_stop_of_container = words.contains(&"stop")
        && words
            .iter()
            .any(|word| matches!(word.rsplit('/').next(), Some("docker" | "podman")));
    let named = [
        ("--grace-period", true),
        ("TimeoutStopSec", true),
        ("spark.kubernetes.appKillPodDeletionGracePeriod", true),
        ("terminationGracePeriodSeconds", true),
        ("--time", is_stop_of_container),
        ("--timeout", is_stop_of_container),
        ("-t", is_stop_of_container),
    ];
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        if *word == "-kill"
            && words
                .iter()
                .any(|word| matches!(*word, "application" | "app"))
        {
            return Some(((*word).to_owned(), yarn));
        }
        for (name, _) in named.iter().filter(|(_, counts)| *counts) {
            // `name=value`, also within a longer word, or `name value`.
            let value = match word.rsplit_once(name) {
                Some((_, "")) if word.len() == name.len() => Some((format!("{word} {next}"), next)),
                Some((_, rest)) => rest
                    .strip_prefix('=')
                    .map(|value| ((*word).to_owned(), value)),
                None => None,
            };
            if let Some((shown, value)) = value
                && let Some(grace) = seconds(value)
            {
                return Some((shown, grace));
            }
        }
    }
    None
}

/// A time as these tools write it; a number alone is seconds.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim_matches(['"', '\'']);
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "" | "s" | "sec" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grace(command: &[&str]) -> Option<Duration> {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        grace_in(&words, YARN_GRACE.0).map(|(_, grace)| grace)
    }

    #[test]
    fn commands_that_say_how_long_their_platform_waits() {
        let of = |count| Some(Duration::from_secs(count));
        for (command, expected) in [
            (
                &["kubectl", "delete", "pod", "x", "--grace-period=30"][..],
                of(30),
            ),
            (
                &["kubectl", "delete", "pod", "x", "--grace-period", "45"],
                of(45),
            ),
            (
                &["sh", "-c", "kubectl delete pod x --grace-period=30"],
                of(30),
            ),
            (&["docker", "stop", "-t", "10", "x"], of(10)),
            (&["/usr/bin/podman", "stop", "--time=20", "x"], of(20)),
            (&["systemd-run", "-p", "TimeoutStopSec=2min", "x"], of(120)),
            (
                &[
                    "spark-submit",
                    "--conf",
                    "spark.kubernetes.appKillPodDeletionGracePeriod=90s",
                ],
                of(90),
            ),
            (&["yarn", "application", "-kill", "x"], Some(YARN_GRACE.0)),
            (&["tail", "-t", "10", "stop"], None),
            (&["kill", "-TERM", "1"], None),
            (&["/opt/clicks/stop.sh"], None),
            (&["kubectl", "delete", "--grace-period"], None),
        ] {
            assert_eq!(grace(command), expected, "{command:?}");
        }
    }

    #[test]
    fn a_place_is_named_by_its_path_or_what_lies_in_it() {
        let place: StorageUri = "hdfs://ns/ck/clicks.blue".parse().unwrap();
        for (word, expected) in [
            ("--checkpoint=hdfs://ns/ck/clicks.blue", true),
            ("/ck/clicks.blue", true),
            ("hdfs://ns/ck/clicks.blue/one", true),
            ("/ck/clicks.blue2", false),
            ("/ck/clicks.blue.old", false),
            ("/backup/ck/clicks.blue", false),
            ("/ck/clicks", false),
        ] {
            assert_eq!(names(word, &place), expected, "{word}");
        }
    }
}
