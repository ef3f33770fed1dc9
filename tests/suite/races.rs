//! Races of touch and rm on local disk, with real processes: what `docs/markers.md` promises.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use crate::common::daemon::Daemon;
use crate::common::isolated::{isolated, run_inside};
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON, await_receipt_in, receipts_in};
use crate::common::{Job, wait_until};

/// Jobs of a place, each with its marker, armed by `watch`.
struct Scene {
    place: Place,
    jobs: Vec<(String, Job, BareJob)>,
}

impl Scene {
    /// The jobs, started as `behaviour` has it.
    fn set(names: &[&str], behaviour: &[&str]) -> Result<Scene> {
        let place = Place::new("races")?;
        let tables: Vec<String> = names
            .iter()
            .map(|name| place.pid_file_job(name, "", ""))
            .collect();
        place.configure(&tables.concat())?;
        let mut jobs = Vec::new();
        for name in names {
            let job = place.job(name)?;
            let bare = job.start(behaviour)?;
            place.write_pid(name, bare.pid())?;
            place.touch(name)?;
            jobs.push(((*name).to_owned(), job, bare));
        }
        Ok(Scene { place, jobs })
    }

    fn watch_armed(&self, name: &str) -> Result<Daemon> {
        let watch = self.place.watch(name, &[])?;
        let all = self.jobs.len();
        wait_until(SOON, "all jobs are armed", || {
            self.place.log(name).matches(" armed ").count() == all
        })
        .with_context(|| self.place.log(name))?;
        Ok(watch)
    }

    /// That this job was stopped for its marker, once.
    fn assert_stopped(&mut self, index: usize) -> Result<()> {
        let (name, job, bare) = &mut self.jobs[index];
        let receipt = self
            .place
            .await_receipt(name, 1)
            .with_context(|| name.clone())?;
        assert_eq!(receipt["outcome"], "stopped", "{name}");
        assert_eq!(receipt["reason"], "marker", "{name}");
        wait_until(SOON, "the job is gone", || bare.exit_status().is_some())?;
        assert_eq!(job.count("TERM"), 1, "{name}");
        Ok(())
    }

    fn assert_untouched(&mut self, index: usize) {
        let (name, job, bare) = &mut self.jobs[index];
        assert_eq!(job.notes().len(), 1, "{name}: {:?}", job.notes());
        assert!(bare.exit_status().is_none(), "{name} ended");
    }
}

/// Has the two names change places, with no moment at which one is missing.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).context("exchange")
}

#[test]
fn touched_and_removed_again_during_the_drain() -> Result<()> {
    let mut scene = Scene::set(&["clicks"], &["drain=1"])?;
    let _watch = scene.watch_armed("watch")?;
    scene.place.remove("clicks")?;
    scene.jobs[0].1.await_notes("TERM", 1, SOON)?;
    scene.place.touch("clicks")?;
    scene.place.await_rounds("watch", 2)?;
    scene.place.remove("clicks")?;
    scene.assert_stopped(0)?;
    let receipt = scene.place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["start_requested"], false);
    let requests = fs::read_dir(scene.place.path("control/requests"))?;
    assert_eq!(requests.count(), 0);
    Ok(())
}

#[test]
fn only_presence_counts_whatever_takes_the_name() -> Result<()> {
    let mut scene = Scene::set(&["clicks"], &[])?;
    let _watch = scene.watch_armed("watch")?;
    let marker = scene.place.marker("clicks");
    let other = marker.with_file_name("other");
    fs::create_dir(&other)?;
    exchange(&marker, &other)?;
    assert!(marker.is_dir());
    scene.place.await_rounds("watch", 5)?;
    scene.assert_untouched(0);
    fs::remove_dir(&marker)?;
    scene.assert_stopped(0)
}

#[test]
fn a_marker_under_another_name_is_gone() -> Result<()> {
    let names = ["upper", "blank", "slot", "suffix", "hidden", "standing"];
    let mut scene = Scene::set(&names, &[])?;
    let _watch = scene.watch_armed("watch")?;
    for (name, renamed) in [
        ("upper", "UPPER.blue"),
        ("blank", "blank.blue "),
        ("slot", "slot.green"),
        ("suffix", "suffix.blue.old"),
        ("hidden", ".hidden.blue"),
    ] {
        let marker = scene.place.marker(name);
        fs::rename(&marker, marker.with_file_name(renamed))?;
    }
    for index in 0..5 {
        scene.assert_stopped(index)?;
    }
    scene.place.await_rounds("watch", 3)?;
    scene.assert_untouched(5);
    Ok(())
}

#[test]
fn removed_and_touched_again_while_nobody_watches() -> Result<()> {
    let mut scene = Scene::set(&["gone", "back", "standing"], &["drain=0.1"])?;
    scene.watch_armed("first")?.kill()?;
    scene.place.remove("gone")?;
    scene.place.remove("back")?;
    scene.place.touch("back")?;
    let _second = scene.place.watch("second", &[])?;
    scene.assert_stopped(0)?;
    scene.place.await_rounds("second", 5)?;
    scene.assert_untouched(1);
    scene.assert_untouched(2);
    let armed_again = scene.place.log("second").matches(" armed ").count();
    assert_eq!(armed_again, 0, "what is on record needs no second arming");
    Ok(())
}

/// `run` of a job with its marker in the place, and the job.
fn run(place: &Place, name: &str, args: &[&str], behaviour: &[&str]) -> Result<(Job, Daemon)> {
    let job = place.job(name)?;
    let marker = place.text(&format!("m/{name}"));
    let args = [&["--marker", &marker], args].concat();
    let daemon = place.run(name, &args, job.argv(behaviour), &[])?;
    Ok((job, daemon))
}

fn place_of_runs() -> Result<Place> {
    let place = Place::new("races")?;
    fs::create_dir(place.path("m"))?;
    Ok(place)
}

#[test]
fn removed_while_run_is_down_or_waits_to_restart() -> Result<()> {
    let place = place_of_runs()?;
    let (down, first) = run(&place, "down", &[], &["drain=0.1", "code=4"])?;
    let restarts = ["--restart", "on-failure", "--restart-min-delay", "10s"];
    let (waiting, mut waits) = run(&place, "waiting", &restarts, &["lives=0.1", "dies=1"])?;
    place.await_log("down", "the command runs")?;
    down.await_starts(1)?;
    first.kill()?;
    fs::remove_file(place.path("m/down"))?;
    // The next one takes it over, and stops it for the marker that it never saw.
    let marker = place.text("m/down");
    let args = ["--marker", &marker];
    let mut second = place.run("second", &args, down.argv(&[]), &[])?;
    second.await_end(SOON)?;
    let receipt = await_receipt_in(&place.path("m/down.stepdown"), "down", 1)?;
    assert_eq!(receipt["reason"], "marker", "{receipt:#}");
    assert_eq!((down.starts().len(), down.count("TERM")), (1, 1));

    place.await_log("waiting", "starting the command again")?;
    fs::remove_file(place.path("m/waiting"))?;
    assert_eq!(waits.await_end(SOON)?.code(), Some(1));
    assert_eq!(waiting.starts().len(), 1);
    Ok(())
}

#[test]
fn a_marker_of_an_earlier_run_counts_and_stays() -> Result<()> {
    let place = place_of_runs()?;
    let earlier = r#"{"format":1,"kind":"marker","run_id":"00000000-0000-4000-8000-000000000000"}"#;
    fs::write(place.path("m/earlier"), earlier)?;
    fs::write(place.path("m/empty"), "")?;
    let mut runs = Vec::new();
    for name in ["earlier", "empty", "own"] {
        let (job, daemon) = run(&place, name, &[], &["lives=0.3", "dies=5"])?;
        runs.push((name, job, daemon));
    }
    for (name, _, daemon) in &mut runs {
        assert_eq!(daemon.await_end(SOON)?.code(), Some(5), "{name}");
        let there = place.path(&format!("m/{name}")).exists();
        assert_eq!(there, *name != "own", "{name}");
    }
    assert_eq!(fs::read_to_string(place.path("m/earlier"))?, earlier);
    // What is there counts: its removal stops the command.
    let (job, mut daemon) = {
        let job = place.job("again")?;
        let args = ["--marker", &place.text("m/empty")];
        let daemon = place.run("again", &args, job.argv(&["code=6"]), &[])?;
        (job, daemon)
    };
    job.await_starts(1)?;
    fs::remove_file(place.path("m/empty"))?;
    assert_eq!(daemon.await_end(SOON)?.code(), Some(6));
    assert_eq!(job.count("TERM"), 1);
    Ok(())
}

#[cfg(feature = "crash-points")]
#[test]
fn removed_before_run_has_armed_it() -> Result<()> {
    let place = place_of_runs()?;
    let job = place.job("early")?;
    let args = ["--marker", &place.text("m/early")];
    let halt = [("STEPDOWN_HALT_AT", "gated")];
    let mut run = place.run("early", &args, job.argv(&[]), &halt)?;
    place.await_log("early", "name=\"gated\"")?;
    fs::remove_file(place.path("m/early"))?;
    // It may not have halted yet; one signal after it has is enough.
    let mut code = None;
    wait_until(SOON, "run ends", || {
        code = run.exit_status().map(|status| status.code());
        code.is_some() || run.signal(Signal::CONT).is_err()
    })?;
    assert_eq!(code.flatten(), Some(69), "{}", place.log("early"));
    assert_eq!(job.notes(), [""; 0]);
    assert!(receipts_in(&place.path("m/early.stepdown"), "early")?.is_empty());
    Ok(())
}

#[test]
fn a_mount_point_that_is_the_directory_itself_may_lose_its_disk() -> Result<()> {
    isolated(
        "races::a_mount_point_that_is_the_directory_itself_may_lose_its_disk",
        || {
            let place = Place::new("unmounted")?;
            let [disk, mount] = ["disk", "mount"].map(|name| place.text(name));
            fs::create_dir(&disk)?;
            fs::create_dir(&mount)?;
            run_inside("mount", &["--bind", &disk, &mount])?;
            let job = place.pid_file_job("clicks", "", "");
            let slot = format!("[jobs.clicks.slots.blue]\nmarker = \"{mount}/clicks\"");
            place.configure(&format!("{job}{slot}\n"))?;
            let job = place.job("clicks")?;
            let mut bare = job.start(&[])?;
            place.write_pid("clicks", bare.pid())?;
            fs::write(place.path("mount/clicks"), "")?;
            let _watch = place.watch("watch", &[])?;
            place.await_log("watch", " armed ")?;
            let mut alarms = 0;
            let mut rounds = 0;
            for covered in [false, true] {
                if covered {
                    // Another disk over it.
                    run_inside("mount", &["-t", "tmpfs", "none", &mount])?;
                } else {
                    run_inside("umount", &[&mount])?;
                }
                ensure!(!place.path("mount/clicks").exists(), "it is still there");
                rounds += place.await_rounds("watch", 10)?;
                wait_until(SOON, "the alarm", || {
                    place.count_hooks("on-alarm clicks marker-unknown") > alarms
                })?;
                alarms = place.count_hooks("on-alarm clicks marker-unknown");
                assert_eq!(job.count("TERM"), 0);
                if covered {
                    run_inside("umount", &[&mount])?;
                } else {
                    run_inside("mount", &["--bind", &disk, &mount])?;
                }
                rounds += place.await_rounds("watch", 5)?;
            }
            assert!(bare.exit_status().is_none());
            assert!(place.receipts("clicks")?.is_empty());
            println!("{rounds} rounds of polls, {alarms} alarms, no stop");
            // Known again: a removal is a removal.
            fs::remove_file(place.path("mount/clicks"))?;
            let receipt = place.await_receipt("clicks", 1)?;
            assert_eq!(receipt["reason"], "marker", "{receipt:#}");
            assert_eq!(job.count("TERM"), 1);
            Ok(())
        },
    )
}
