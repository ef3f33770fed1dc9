"""The tests, each a function of the Spark to run on."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter

from connect import ConnectServer, environment_of_client, jars_of_connect
from harness import ROOT, START_S, JavaJob, Job, check, described_attempt, newest, stepdown, wait_until
from hdfs import Hdfs
from kafka import Kafka, Producer, Reader
from queries import AVAILABLE_NOW, TOPIC, rows_of_batches, written_rows
from rollouts import OnYarn
from standalone import Standalone
from yarn import Yarn

ALL = {}
# Tests of what not every Spark has.
ONLY = {}


def case(test):
    ALL[test.__name__] = test
    return test


def only(*sparks):
    def mark(test):
        ONLY[test.__name__] = sparks
        return case(test)
    return mark


def drain(job, queries=1):
    """Removes the marker; the job must end by itself, cleanly, with exit code 0."""
    job.marker.unlink()
    code = job.await_end()
    check(code == 0, f"exit code {code}")
    job.check_clean(queries)


@case
def a_slow_batch_is_finished(home):
    with Job(home, args=["--batch-seconds", 3]) as job:
        batch = job.await_batch()
        drain(job)
        check(job.last_committed() == batch, "another batch than the running one was the last")
        check(job.notes()[-1][2] == "returned", "main did not return")


@case
def launched_by_python(home):
    with Job(home, args=["--batch-seconds", 2], launcher="python") as job:
        batch = job.await_batch()
        drain(job)
        check(job.last_committed() == batch, "another batch than the running one was the last")


@case
def several_queries_of_several_sessions(home):
    with Job(home, args=["--batch-seconds", 0, 1, 4, "--sessions"]) as job:
        job.await_batch(1, "2")
        drain(job, queries=3)


@case
def a_main_that_awaits_any_and_stops_the_context(home):
    with Job(home, args=["--batch-seconds", 0, 5, "--main", "any"]) as job:
        batch = job.await_batch(1, "1")
        drain(job, queries=2)
        check(job.last_committed(1) == batch, "the slow query ran another batch")


@case
def a_main_that_polls_is_active_and_stops_the_context(home):
    with Job(home, args=["--batch-seconds", 3, "--main", "poll"]) as job:
        job.await_batch()
        drain(job)


@case
def a_main_that_returns_while_its_query_runs(home):
    with Job(home, args=["--sink", "noop", "--main", "none"]) as job:
        code = job.await_end()
        check(code == 0, f"exit code {code}")
        check(job.log_has("draining: the JVM was told to shut down"), "it was not drained")
        job.check_clean()


@case
def a_main_that_loops_on_start(home):
    conf = {"spark.stepdown.end-loop-after": "2s"}
    with Job(home, args=["--batch-seconds", 2, "--main", "loop"], conf=conf) as job:
        job.await_batch()
        drain(job)
        check(job.log_has("refused query"), "no query was refused")


@case
def an_idle_query_ends_at_once(home):
    # Spark triggers at the multiples of the interval since 1970: the next of this one is in 2243.
    with Job(home, args=["--batch-seconds", 0, "--trigger", "100000 days"]) as job:
        job.await_commit(0)
        wait_until(60, "the query sleeps", lambda: job.notes()[-1][2] == "end")
        time.sleep(1)
        begun = time.monotonic()
        drain(job)
        check(time.monotonic() - begun < 30, "it waited for its trigger")
        check(job.last_committed() == 0, "it ran another batch")


@case
def a_sink_without_python(home):
    with Job(home, args=["--sink", "noop", "--trigger", "200 milliseconds"]) as job:
        job.await_commit(5)
        drain(job)


@case
def available_now_ends_after_its_batch(home):
    with Job(home, args=["--trigger", AVAILABLE_NOW, "--batch-seconds", 2]) as job:
        batch = job.await_batch(1)
        drain(job)
        check(job.last_committed() < 199, f"it went on to the end from batch {batch}")


@case
def available_now_with_a_main_that_stops_the_context(home):
    """Such a main sees its query end when its batch is over, not before."""
    args = ["--trigger", AVAILABLE_NOW, "--batch-seconds", 0.2, 3, "--main", "any"]
    with Job(home, args=args) as job:
        batch = job.await_batch(1, "1")
        drain(job, queries=2)
        check(job.last_committed(1) == batch, "the slow query ran another batch")


@case
def sigterm_in_a_batch(home):
    with Job(home, args=["--batch-seconds", 4]) as job:
        batch = job.await_batch()
        os.kill(job.java_pid(), signal.SIGTERM)
        code = job.await_end()
        check(code in (143, -15), f"exit code {code}")
        job.check_clean()
        check(job.last_committed() == batch, "another batch than the running one was the last")
        check(job.marker.exists(), "the marker was removed")
        check(job.status()["phase"] == "ended", "the status does not say that it ended")


@case
def sigterm_to_the_python_parent(home):
    """Its JVM sees that it is gone, and drains what needs no Python."""
    args = ["--sink", "noop", "--trigger", "200 milliseconds"]
    with Job(home, args=args, launcher="python") as job:
        job.await_commit(5)
        os.kill(job.process.pid, signal.SIGTERM)
        job.await_end()
        wait_until(60, "phase ended", lambda: job.status().get("phase") == "ended")
        job.check_clean()


@case
def a_marker_that_comes_back_in_time_stops_nothing(home):
    conf = {"spark.stepdown.confirm": "3", "spark.stepdown.confirm-spacing": "2s",
            "spark.stepdown.status-interval": "50ms"}
    with Job(home, args=["--batch-seconds", 0.2], conf=conf) as job:
        job.await_batch(1)
        wait_until(60, "armed", lambda: job.status().get("armed"))
        for _ in range(3):
            job.marker.unlink()
            wait_until(60, "seen missing", lambda: job.status().get("sighting") == "absent")
            job.marker.touch()
            wait_until(60, "seen again", lambda: job.status().get("sighting") == "present")
        batch = job.await_batch(job.last_committed() + 3)
        check(job.status()["phase"] == "running", "it stopped")
        # Between two looks: nobody sees that.
        job.marker.unlink()
        job.marker.touch()
        job.await_batch(batch + 3)
        drain(job)


@case
def an_unreadable_or_missing_directory_stops_nothing(home):
    conf = {"spark.stepdown.status-interval": "50ms"}
    with Job(home, args=["--batch-seconds", 0.2], conf=conf) as job:
        job.await_batch(1)
        wait_until(60, "armed", lambda: job.status().get("armed"))
        aside = job.markers.with_name("aside")

        def goes_on():
            wait_until(60, "unknown", lambda: job.status().get("sighting") == "unknown")
            job.await_batch(job.last_committed() + 3)
            check(job.status()["phase"] == "running", "it stopped")

        # Moved away, as by an unmount.
        job.markers.rename(aside)
        goes_on()
        # Another one at its place, as by a mount point's own directory.
        job.markers.mkdir()
        time.sleep(0.5)
        goes_on()
        job.markers.rmdir()
        # A file at its place.
        job.markers.touch()
        time.sleep(0.5)
        goes_on()
        job.markers.unlink()
        # A loop of links at its place: an error of its own kind.
        job.markers.symlink_to(job.markers)
        time.sleep(0.5)
        goes_on()
        job.markers.unlink()
        aside.rename(job.markers)
        wait_until(60, "seen again", lambda: job.status().get("sighting") == "present")
        if os.getuid() != 0:
            job.markers.chmod(0)
            goes_on()
            job.markers.chmod(0o755)
            wait_until(60, "seen again", lambda: job.status().get("sighting") == "present")
        drain(job)


@case
def a_marker_that_was_never_there_stops_nothing(home):
    conf = {"spark.stepdown.status-interval": "50ms"}
    with Job(home, args=["--batch-seconds", 0.2], conf=conf, marker=False) as job:
        batch = job.await_batch(3)
        wait_until(60, "a look", lambda: job.status().get("sighting") == "absent")
        check(not job.status()["armed"], "it is armed")
        job.await_batch(batch + 3)
        job.marker.touch()
        wait_until(60, "armed", lambda: job.status().get("armed"))
        drain(job)


@case
def held_until_the_go_of_its_rollout(home):
    conf = {"spark.stepdown.go": "control", "spark.stepdown.rollout": "r-7",
            "spark.stepdown.generation": "3"}
    with Job(home, args=["--batch-seconds", 0.2], conf=conf) as job:
        status = job.await_phase("held")
        check((status["rollout_id"], status["generation"]) == ("r-7", 3), "wrong rollout in the status")
        for rollout, generation in (("r-6", 3), ("r-6", 4), ("r-7", 2)):
            job.write_go(rollout, generation)
            job.await_log(f"of rollout {rollout}, generation {generation}")
        (job.control / "state/clicks/go.blue.json").write_text("{")
        job.await_log("held: " + str(job.control / "state/clicks/go.blue.json") + ": ")
        check(job.status()["phase"] == "held", "a wrong go started it")
        check([n[2] for n in job.notes()] == ["main"], "user code went on")
        check(not (job.dir / "checkpoint-0").exists(), "there is a checkpoint")
        job.write_go("r-7", 3)
        job.await_batch(1)
        drain(job)


@case
def held_at_a_call(home):
    conf = {"spark.stepdown.go": "control", "spark.stepdown.rollout": "r-7",
            "spark.stepdown.generation": "3", "spark.stepdown.hold": "call"}
    with Job(home, args=["--batch-seconds", 0.2, "--call"], conf=conf) as job:
        job.await_phase("held")
        check([n[2] for n in job.notes()] == ["main", "session"], "the call did not hold it")
        job.write_go("r-7", 3)
        job.await_batch(1)
        drain(job)


@case
def held_as_the_environment_says(home):
    """As a rollout starts it; the lease of the rollout changes hands while it is held."""
    environment = {"STEPDOWN_ROLLOUT_ID": "r-8", "STEPDOWN_GENERATION": "5"}
    conf = {"spark.stepdown.go": "control"}
    with Job(home, args=["--batch-seconds", 0.2], conf=conf, environment=environment) as job:
        status = job.await_phase("held")
        check((status["rollout_id"], status["generation"]) == ("r-8", 5), "wrong rollout in the status")
        job.write_go("r-8", 4)
        job.await_log("of rollout r-8, generation 4")
        job.write_go("r-8", 6)
        job.await_batch(1)
        drain(job)


@case
def held_for_longer_than_it_may_be(home):
    conf = {"spark.stepdown.go": "control", "spark.stepdown.rollout": "r-7",
            "spark.stepdown.generation": "3", "spark.stepdown.go-timeout": "3s"}
    with Job(home, conf=conf) as job:
        check(job.await_end() == 1, "exit code is not 1")
        check(job.log_has("not started in time: there is no "), "no word of it in the log")
        check([n[2] for n in job.notes()] == ["main"], "user code went on")
        check(not (job.dir / "checkpoint-0").exists(), "there is a checkpoint")


@case
def a_held_job_whose_marker_goes_does_not_start(home):
    conf = {"spark.stepdown.go": "control", "spark.stepdown.rollout": "r-7",
            "spark.stepdown.generation": "3", "spark.stepdown.status-interval": "50ms"}
    with Job(home, conf=conf) as job:
        job.await_phase("held")
        wait_until(60, "armed", lambda: job.status().get("armed"))
        job.marker.unlink()
        check(job.await_end() == 1, "exit code is not 1")
        check(not (job.dir / "checkpoint-0").exists(), "there is a checkpoint")
        check(job.status()["phase"] == "ended", "the status does not say that it ended")


@case
def makes_and_removes_its_own_marker(home):
    conf = {"spark.stepdown.create-marker": "true"}
    args = ["--trigger", AVAILABLE_NOW, "--files", 20, "--batch-seconds", 0.2]
    with Job(home, args=args, conf=conf, marker=False) as job:
        job.await_batch(1)
        check(job.marker.exists(), "there is no marker")
        check(job.await_end() == 0, "exit code")
        job.check_clean()
        check(job.last_committed() == 19, "it did not run to its end")
        check(not job.marker.exists(), "the marker is still there")


@case
def leaves_a_marker_of_others(home):
    conf = {"spark.stepdown.create-marker": "true"}
    args = ["--trigger", AVAILABLE_NOW, "--files", 5, "--batch-seconds", 0]
    with Job(home, args=args, conf=conf) as job:
        check(job.await_end() == 0, "exit code")
        check(job.marker.exists(), "the marker of others was removed")


@case
def drains_by_its_own_marker(home):
    conf = {"spark.stepdown.create-marker": "true"}
    with Job(home, args=["--batch-seconds", 1], conf=conf, marker=False) as job:
        job.await_batch(1)
        drain(job)


@case
def the_status_file_says_what_goes_on(home):
    conf = {"spark.stepdown.status-interval": "100ms"}
    with Job(home, args=["--batch-seconds", 1, 4], conf=conf) as job:
        job.await_batch(1, "1")
        status = wait_until(60, "both queries", lambda: (
            len(job.status().get("queries", [])) == 2 and job.status()["phase"] == "running"
            and all(q["last_batch"] is not None for q in job.status()["queries"]) and job.status()))
        check((status["format"], status["kind"]) == (1, "status"), "envelope")
        check((status["job"], status["slot"]) == ("clicks", "blue"), "job and slot")
        check(status["attempt"] == described_attempt(job.java_pid()), f"attempt {status['attempt']}")
        check(status["marker"] == str(job.marker), "marker")
        check(status["application_id"].startswith("local-"), "application id")
        check(status["can_drain"] is True and "missing" not in status, "can_drain")
        check(status["kit_version"] and status["kit_revision"], "version of the kit")
        check(str(home).find(status["spark_version"]) > 0, "version of Spark")
        check({q["name"] for q in status["queries"]} == {"q0", "q1"}, "names of queries")
        checkpoints = sorted(q["checkpoint"].replace("file:", "") for q in status["queries"])
        check(checkpoints == [f"{job.dir}/checkpoint-{i}" for i in (0, 1)], f"{checkpoints}")
        check(all(q["id"] != q["run_id"] for q in status["queries"]), "ids of queries")
        wait_until(60, "a heartbeat", lambda: job.status()["written_at"] > status["written_at"])

        job.await_batch(2, "1")
        job.marker.unlink()
        wait_until(60, "phase draining", lambda: job.status()["phase"] == "draining")
        check(job.await_end() == 0, "exit code")
        job.check_clean(2)
        status = job.status()
        check(status["phase"] == "ended", f"phase {status['phase']}")
        check("is gone" in status["drain_reason"], "reason")
        for query in status["queries"]:
            index = int(query["name"][1:])
            check(query["last_batch"] == query["last_planned"] == job.last_committed(index), f"{query}")
        left = [p.name for p in job.status_file.parent.iterdir()]
        check(left == ["clicks.blue.json"], f"left behind: {left}")


@case
def a_marker_without_a_control_directory(home):
    conf = {"spark.stepdown.marker": "{dir}/control/markers/clicks.blue"}
    with Job(home, args=["--batch-seconds", 1], conf=conf, control=False) as job:
        job.await_batch()
        drain(job)
        check(not job.status(), "there is a status file")


@case
def a_marker_whose_directory_comes_later(home):
    """It says what is missing and what to do, and goes by the marker as soon as it is there."""
    conf = {"spark.stepdown.marker": "{dir}/later/clicks"}
    with Job(home, args=["--batch-seconds", 1], conf=conf, control=False) as job:
        later = job.dir / "later"
        job.await_log(f"{later} does not exist: make it, and touch the marker in it")
        job.await_batch()
        later.mkdir()
        (later / "clicks").touch()
        job.await_log("the marker is there")
        job.await_batch(job.last_committed() + 2)
        (later / "clicks").unlink()
        check(job.await_end() == 0, "exit code")
        job.check_clean()


@case
def a_wrong_setting_refuses_to_start(home):
    with Job(home, conf={"spark.stepdown.makrer": "/x"}) as job:
        check(job.await_end() == 1, "exit code is not 1")
        check(job.log_has("spark.stepdown.makrer: it is not known"), "no word of it in the log")


@only("3.5.9")
def a_spark_that_lacks_a_private_part_is_not_drained(home):
    """The status says so at the start; the job runs as without the kit."""
    conf = {"spark.stepdown.status-interval": "50ms"}
    classes = [ROOT / "target/driver/test-java-missing"]
    with Job(home, args=["--batch-seconds", 0.2], conf=conf, classes=classes) as job:
        batch = job.await_batch(1)
        status = wait_until(60, "armed", lambda: job.status().get("armed") and job.status())
        check(status["can_drain"] is False, "it says that it can drain")
        check("getLatestExecutionContext" in status["missing"], f"missing: {status['missing']}")
        check(job.log_has("lacks what a drain needs"), "no word of it in the log")
        job.marker.unlink()
        wait_until(60, "seen missing", lambda: job.status().get("sighting") == "absent")
        job.await_batch(batch + 3)
        check(job.status()["phase"] == "running", f"phase {job.status()['phase']}")
        os.kill(job.java_pid(), signal.SIGTERM)
        check(job.await_end() in (143, -15), "exit code")


@case
def dstreams_stop_gracefully(home):
    with Job(home, script="dstreams_job.py") as job:
        batch = job.await_batch(1)
        job.marker.unlink()
        code = job.await_end()
        check(code == 0, f"exit code {code}")
        begun = {n[3] for n in job.notes() if n[2] == "begin"}
        ended = {n[3] for n in job.notes() if n[2] == "end"}
        check(begun == ended and batch in ended, f"batches without an end: {begun - ended}")
        check(job.notes()[-1][2] == "returned", "main did not return")


@case
def stepdown_follows_the_drain(home):
    """`stepdown stop` removes the marker, reads the kit's status and the checkpoint: clean."""
    with Job(home, args=["--batch-seconds", 4]) as job:
        stepdown("init", job.control)
        config = job.write_config()

        batch = job.await_batch()
        status = stepdown("--config", config, "--json", "status", "clicks")
        check(str(job.java_pid()) in status, f"status: {status}")
        stop = stepdown("--config", config, "--json", "stop", "clicks")
        check('"clean"' in stop, f"not clean: {stop}")
        check(job.await_end() == 0, "exit code")
        job.check_clean()
        check(job.last_committed() == batch, "another batch than the running one was the last")


@case
def doctor_knows_whose_a_file_sink_is(home):
    """A sink's log is as far as the checkpoint of its query; another query would skip what it has."""
    def said(job, checkpoint):
        config = job.dir / "doctor.toml"
        config.write_text(f'''control = "{job.control}"
[jobs.clicks]
checkpoints = ["{checkpoint}"]
file-sinks = ["{job.dir}/query-0/files"]
[jobs.clicks.stop]
backend = "driver"
''')
        checks = json.loads(stepdown("--config", config, "--json", "doctor"))["checks"]
        (found,) = [one for one in checks if one["name"].startswith("file-sink clicks")]
        return found["verdict"], found["found"]

    with Job(home, args=["--sink", "files", "--trigger", "200 milliseconds"]) as job:
        stepdown("init", job.control)
        job.await_commit(5)
        drain(job)
        last = job.last_committed()
        level, message = said(job, job.dir / "checkpoint-0")
        check(level == "ok" and "as far as a checkpoint" in message, f"its own: {level} {message}")
        level, message = said(job, job.dir / "checkpoint-of-nobody")
        check(level == "warn" and f"skips batches up to {last}" in message, f"none: {level} {message}")


def receipt_of(job):
    """The only receipt of the job."""
    (receipt,) = (job.control / "state/clicks/receipts").iterdir()
    return json.loads(receipt.read_text())


@case
def below_run_the_kit_has_a_status_of_its_own(home):
    """The slot's status file is `run`'s, and the marker too, where the application has no setting of either."""
    with Job(home, args=["--batch-seconds", 2], control=False, below_run=True) as job:
        word = job.control / "status/clicks.blue.kit.json"
        wait_until(60, "armed", lambda: word.exists() and json.loads(word.read_text()).get("armed"))
        batch = job.await_batch()
        status = json.loads(stepdown("--config", job.dir / "stepdown.toml", "--json", "status", "clicks"))
        driver = status["slots"][0]["driver"]
        check(driver["can_drain"] is True and driver["phase"] == "running", f"{driver}")
        check(job.status()["run_id"] and "kit_version" not in job.status(), "two write the status")
        job.marker.unlink()
        check(job.await_end() == 0, "exit code")
        job.check_clean()
        check(job.last_committed() == batch, "another batch than the running one was the last")
        check(json.loads(word.read_text())["phase"] == "ended", "the kit did not say that it ended")
        receipt = receipt_of(job)
        said = {key: receipt[key] for key in ("outcome", "reason", "backend", "how", "boundary")}
        check(said == {"outcome": "stopped", "reason": "marker", "backend": "driver", "how": "drained",
                       "boundary": None}, f"{said}")
        check(receipt["proof"]["verdict"] == "clean", "not clean")


@only("3.5.9")
def below_run_a_spark_that_lacks_a_private_part_is_signalled_between_two_batches(home):
    classes = [ROOT / "target/driver/test-java-missing"]
    args = ["--batch-seconds", 0.2, "--trigger", "5 seconds"]
    with Job(home, args=args, classes=classes, below_run=True) as job:
        job.await_batch(5)
        job.marker.unlink()
        check(job.await_end() == 143, "exit code")
        job.check_clean()
        receipt = receipt_of(job)
        boundary = receipt["boundary"]
        check(receipt["proof"]["verdict"] == "clean", "not clean")
        check(boundary["asked"] == "in-gap", f"{boundary}")
        check("getLatestExecutionContext" in boundary["why"], f"{boundary}")


@case
def a_successor_takes_over(home):
    """Two applications on one checkpoint, one after the other, by one line in the second."""
    with Job(home, args=["--batch-seconds", 2]) as old:
        stepdown("init", old.control)
        old.await_batch()
        args = ["--batch-seconds", 0.2, "--take-over", "2min"]
        with Job(home, args=args, follows=old) as new:
            new.await_log("asking the predecessor")
            check(old.await_end() == 0, "exit code of the old one")
            check(not old.marker.exists(), "the old one's marker is still there")
            last = old.last_committed()
            new.await_commit(last + 3)
            notes = [note for note in new.notes() if note[2] in ("end", "begin", "took-over")]
            (taken,) = [index for index, note in enumerate(notes) if note[2] == "took-over"]
            check(notes[taken - 1][2:] == ("end", last), f"before it: {notes[:taken]}")
            check(notes[taken + 1][2:] == ("begin", last + 1), f"after it: {notes[taken:]}")
            check("took-over clean" in (new.dir / "batches").read_text(), "not clean")
            drain(new)
        rows = written_rows(old.dir / "query-0", old.dir / "checkpoint-0", "foreach", "0 seconds")
        check(rows == (0, 0, 0), f"lost, twice, twice: {rows}")


@case
def a_successor_does_not_start_without_evidence(home):
    with Job(home, args=["--batch-seconds", 1]) as old:
        args = ["--batch-seconds", 0.2, "--take-over", "5s"]
        old.await_batch()
        with Job(home, args=args, follows=old) as new:
            check(new.await_end() != 0, "it went on without a sentinel")
            check(new.log_has("has no sentinel"), "no word of it in the log")
            check(old.marker.exists(), "the marker was removed")
        stepdown("init", old.control)
        # It can neither drain nor say that it does.
        os.killpg(old.process.pid, signal.SIGSTOP)
        with Job(home, args=args, follows=old) as new:
            check(new.await_end() != 0, "it went on beside the old one")
            check(new.log_has("its marker is gone, its phase is"), "no word of it in the log")
            check("took-over" not in [note[2] for note in new.notes()], "it started its queries")
        os.killpg(old.process.pid, signal.SIGKILL)
        old.process.wait()
        planned, committed = newest(old.dir / "checkpoint-0/offsets"), old.last_committed()
        # Its last status still says that it runs; its process is gone.
        with Job(home, args=args, follows=old) as new:
            new.await_commit(committed + 2)
            said = "clean" if planned == committed else "dirty"
            check(f"took-over {said}\n" in (new.dir / "batches").read_text(), f"it was not told {said}")
            drain(new)


@case
def the_first_one_has_nobody_to_take_over_from(home):
    with Job(home, args=["--batch-seconds", 0.2], conf={"spark.stepdown.take-over": "1min"},
             marker=True) as job:
        stepdown("init", job.control)
        job.await_batch(1)
        check(job.log_has("stepped down: none"), "no word of it in the log")
        drain(job)


@case
def once_ends_with_its_batch(home):
    with Job(home, args=["--once", "--batch-seconds", 4, 1, "--main", "any"]) as job:
        job.await_batch(0)
        drain(job, queries=2)


@case
def continuous_processing_goes_on_from_its_last_epoch(home):
    with Job(home, args=["--continuous"]) as job:
        epochs = job.dir / "checkpoint-0/commits"
        wait_until(START_S, "an epoch", lambda: newest(epochs) or not job.is_running())
        job.marker.unlink()
        code = job.await_end()
        check(code == 0, f"exit code {code}")
        last = newest(epochs)
        job.start_again()
        job.await_commit(last + 1)
        job.marker.unlink()
        check(job.await_end() == 0, "exit code")


@only("4.3.0")
def real_time_mode_ends_with_its_batch(home):
    with Job(home, script="real_time_job.py") as job:
        job.await_commit(1)
        drain(job)
        check(job.notes()[-1][2] == "returned", "main did not return")


@case
def async_progress_tracking(home):
    """Its commits come later than its batches; a restart goes on from the last one."""
    with Job(home, args=["--async-progress", "--trigger", "200 milliseconds"]) as job:
        job.await_commit(5)
        for again in (False, True):
            if again:
                job.start_again()
                job.await_commit(job.last_committed() + 3)
            job.marker.unlink()
            code = job.await_end()
            check(code == 0, f"exit code {code}")
            planned, committed = (newest(job.dir / f"checkpoint-0/{log}") for log in ("offsets", "commits"))
            check(planned == committed, f"planned {planned}, committed {committed}")


@case
def a_query_that_fails_during_the_drain(home):
    """Main gets the exception; the other query ends cleanly all the same.

    It ends long before that: the end of main would take its Python function with it."""
    with Job(home, args=["--batch-seconds", 10, 1, "--fail-at", 1]) as job:
        job.await_batch(1)
        job.marker.unlink()
        code = job.await_end()
        check(code == 1, f"exit code {code}")
        check(job.log_has("this batch fails"), "the exception is not in the log")
        planned, committed = (newest(job.dir / f"checkpoint-1/{log}") for log in ("offsets", "commits"))
        check(planned == committed, f"the other query planned {planned}, committed {committed}")
        check(newest(job.dir / "checkpoint-0/commits") == 0, "the batch that failed is committed")


@case
def over_hdfs_whose_name_node_hangs_and_dies(home):
    conf = {"spark.stepdown.call-timeout": "2s", "spark.stepdown.status-interval": "500ms"}
    with Hdfs() as hdfs:
        control = f"{hdfs.uri}/stepdown"
        stepdown("init", control)
        stepdown("marker", "touch", f"{control}/markers/clicks.blue")
        conf["spark.stepdown.control"] = control
        with Job(home, args=["--batch-seconds", 0.5], conf=conf) as job:
            config = job.write_config(control)
            there, unknown = "the marker is there", "the marker is unknown"
            job.await_batch(1)
            job.await_log(there)
            for number, (break_it, repair) in enumerate((
                    (hdfs.hang_name_node, hdfs.resume_name_node), (hdfs.kill_name_node, hdfs.start_name_node)), 1):
                break_it()
                wait_until(60, unknown, lambda: job.log.read_text().count(unknown) == number)
                job.await_batch(job.last_committed() + 3)
                repair()
                wait_until(60, there, lambda: job.log.read_text().count(there) == number + 1)
            batch = job.await_batch(job.last_committed() + 3)
            status = stepdown("--config", config, "--json", "status", "clicks")
            check(str(job.java_pid()) in status, f"status: {status}")
            stop = stepdown("--config", config, "--json", "stop", "clicks")
            check('"clean"' in stop, f"not clean: {stop}")
            check(job.await_end() == 0, "exit code")
            job.check_clean()
            check(job.last_committed() >= batch, "a batch was lost")


@case
def over_hdfs_without_a_sentinel(home):
    """The number of the directory's inode vouches for an absence."""
    with Hdfs() as hdfs:
        marker = f"{hdfs.uri}/plain/clicks"
        stepdown("init", f"{hdfs.uri}/plain")
        stepdown("marker", "touch", marker)
        stepdown("marker", "rm", f"{hdfs.uri}/plain/.stepdown")
        conf = {"spark.stepdown.marker": marker}
        with Job(home, args=["--batch-seconds", 1], conf=conf, control=False) as job:
            job.await_batch()
            job.await_log("the marker is there")
            stepdown("marker", "rm", marker)
            check(job.await_end() == 0, "exit code")
            job.check_clean()


def trials(home, *args, seconds):
    """What `trials.py` counted."""
    # Not by the plugin: its drain happens once. With the JVM as it is in production.
    conf = {"spark.plugins": "", "spark.driver.extraJavaOptions": "-XX:+UseSerialGC"}
    tests = [ROOT / "target/driver/test-java"]
    with Job(home, script="trials.py", args=args, conf=conf, classes=tests) as job:
        check(job.await_end(seconds) == 0, "the trials did not end well")
        return json.loads((job.dir / "trials.json").read_text())


@case
def drains_of_many_shapes_at_many_moments(home):
    counted = trials(home, "--count", 12, "--ways", "kit", seconds=900)["kit"]
    check(counted["stops"] == 24 and counted["dirty"] == 0, f"{counted}")
    check(counted["lost"] == counted["twice"] == counted["appended_twice"] == 0, f"{counted}")


@case
def drains_at_the_moment_of_the_plan(home):
    args = ["--sinks", "noop", "--triggers", "200 milliseconds", "--queries", 1, "--moments", "planned"]
    counted = trials(home, "--count", 6, "--ways", "kit", *args, "--delay-ms", 30, seconds=600)["kit"]
    check(counted["stops"] == 12 and counted["dirty"] == 0, f"{counted}")


@case
def no_drain_aborts_the_batch_that_is_planned(home):
    """The moment at which Spark 4.3 interrupts a query that is marked as ended."""
    args = ["--triggers", "1 second", "--queries", 1, "--moments", "planned", "--delay-ms", 30]
    ways = ["kit", "mark"]
    counted = trials(home, "--count", 6, "--ways", *ways, "--sinks", "noop", *args, seconds=900)
    check(counted["kit"]["stops"] == 12 and counted["kit"]["dirty"] == 0, f"{counted}")
    if "4.3" in home.name:
        # Else this would not show that the moment was met.
        check(counted["mark"]["dirty"] > 0, f"the mark alone did no harm: {counted}")


@case
def an_application_in_java(home):
    with JavaJob(home, args=[3]) as job:
        batch = job.await_batch()
        drain(job)
        check(job.last_committed() == batch, "another batch than the running one was the last")


def on_a_standalone_cluster(home, kind, args, deploy_mode):
    """Its marker goes: the Master says so, and the receipt says clean."""
    with Standalone(home) as cluster:
        with kind(home, args=args, conf=cluster.settings(deploy_mode)) as job:
            stepdown("init", job.control)
            config = job.write_config()
            batch = job.await_batch()
            (application,) = cluster.ask()["activeapps"]
            check(application["state"] == "RUNNING", f"{application}")
            said = stepdown("--config", config, "--json", "stop", "clicks")
            check('"clean"' in said, f"not clean: {said}")
            check(job.await_end() == 0, "exit code")
            job.check_clean()
            check(job.last_committed() == batch, "another batch than the running one was the last")
            ended = wait_until(60, "the Master knows its end", lambda: cluster.ask()["completedapps"])
            check(ended[0]["id"] == application["id"] and ended[0]["state"] == "FINISHED", f"{ended}")
            return job.status(), application, cluster.ask()


@case
def on_a_standalone_cluster_in_client_mode(home):
    on_a_standalone_cluster(home, Job, ["--batch-seconds", 2], "client")


@case
def on_a_standalone_cluster_in_cluster_mode(home):
    """Python has no such mode; the driver runs on a worker, with the environment of that."""
    status, application, master = on_a_standalone_cluster(home, JavaJob, [2], "cluster")
    named = {"kind": "named", "name": f"{application['id']}/1"}
    check(status["attempt"] == named, f"attempt {status['attempt']}")
    (driver,) = master["completeddrivers"]
    check(driver["state"] == "FINISHED", f"{driver}")


@only("4.3.0")
def the_server_of_spark_connect(home):
    """The queries of its clients end after their batch; it runs on itself, and no other query begins."""
    with ConnectServer(home) as server:
        server.await_log("SparkConnectServer")
        client = server.start_client("--batch-seconds", 2, 1)
        last = [server.await_batch(query=str(index)) for index in range(2)]
        server.marker.unlink()
        check(server.await_client(client) == 0, "exit code of the client")
        server.await_phase("drained")
        server.check_clean(2)
        for index in range(2):
            committed = server.last_committed(index)
            check(committed in (last[index], last[index] + 1), f"{index}: {last} and then {committed}")
        before = server.notes()
        late = server.await_client(server.start_client("--batch-seconds", 0))
        begun = [note for note in server.notes()[len(before):] if note[2] == "begin"]
        check(not begun, f"a batch began after the drain: {begun}")
        check(late == 0, f"exit code of a later client: {late}")
        server.is_running()
        server.check_clean(2)
        os.kill(server.java_pid(), signal.SIGTERM)
        check(server.await_end() == 143, "exit code")


@only("4.3.0")
def spark_connect_in_the_application(home):
    """PySpark sets spark.plugins itself there; what stands in spark.plugins.defaultList is loaded as well."""
    remote = environment_of_client(home, "local[2]")
    plugin = {"spark.plugins.defaultList": "io.stepdown.StepdownPlugin"}
    for conf in ({}, plugin):
        with Job(home, conf=conf, launcher="python", classes=jars_of_connect(home), environment=remote) as job:
            batch = job.await_batch()
            check(job.log_has("stepdown driver kit") == bool(conf), f"the kit, with {conf}")
            if conf:
                drain(job)
                check(job.last_committed() == batch, "another batch than the running one was the last")


def on_yarn(home, deploy_mode):
    """Its marker goes: FINISHED, SUCCEEDED, one attempt, a receipt that says clean."""
    with Yarn(home) as yarn:
        conf, environment = yarn.settings(deploy_mode)
        with Job(yarn.home, args=["--batch-seconds", 3], conf=conf, environment=environment) as job:
            stepdown("init", job.control)
            config = job.write_config()
            batch = job.await_batch()
            status = wait_until(60, "status", lambda: job.status().get("queries") and job.status())
            application = yarn.await_application("RUNNING")
            check(status["application_id"] == application["id"], f"{status['application_id']}")
            if deploy_mode == "cluster":
                named = {"kind": "named", "name": f"{application['id']}/1"}
                check(status["attempt"] == named, f"attempt {status['attempt']}")
            said = stepdown("--config", config, "--json", "stop", "clicks")
            check('"clean"' in said, f"not clean: {said}")
            check(job.await_end() == 0, "exit code")
            job.check_clean()
            check(job.last_committed() == batch, "another batch than the running one was the last")
            yarn.check_succeeded(yarn.await_application("FINISHED"))
            check(job.status()["phase"] == "ended", f"phase {job.status()['phase']}")


@only("3.5.9", "4.3.0")
def on_yarn_in_client_mode(home):
    on_yarn(home, "client")


@only("3.5.9", "4.3.0")
def on_yarn_in_cluster_mode(home):
    on_yarn(home, "cluster")


@only("4.3.0")
def rollouts_on_yarn(home):
    """Applications in cluster mode take over from each other, started as docs/rollouts.md says."""
    with Yarn(home) as yarn, OnYarn(yarn) as clicks:
        roll_out_on(yarn, clicks)


@only("4.3.0")
def rollouts_on_yarn_with_all_on_hdfs(home):
    """The same, with markers, control directory and checkpoints on HDFS."""
    with Hdfs() as hdfs, Yarn(home) as yarn, OnYarn(yarn, f"{hdfs.uri}/streams") as clicks:
        roll_out_on(yarn, clicks)


def roll_out_on(yarn, clicks):
    """Each strategy, and what was written by then."""
    clicks.roll_out("stop-start")
    for strategy in ("hand-over", "stop-start", "parallel"):
        clicks.await_commits()
        if strategy == "parallel":
            clicks.stop()
            check(clicks.rows() == (0, 0, 0), f"{clicks.rows()}")
            clicks.roll_out("stop-start")
            clicks.await_commits()
        clicks.roll_out(strategy)
    clicks.await_commits()
    clicks.stop()
    # While both ran, both did the same batches; the new one need not have come as far as the old one.
    lost, twice, _ = clicks.rows()
    check(lost <= 0 and twice == 0, f"{clicks.rows()}")
    check(len(yarn.applications()) == clicks.version, f"{yarn.applications()}")
    for application in yarn.applications():
        check(application["state"] == "FINISHED", f"{application}")
        yarn.check_succeeded(application)


def stops_on_kafka(home, sink, trigger, stops, batch_seconds=0.0):
    """Stops a job at random moments while rows are written into its topic, starts it again after each,
    lets it read the rest, and counts."""
    counted = dict.fromkeys("stops dirty wrong_exits lost twice appended_twice".split(), 0)
    counted |= {"seconds": 0.0, "details": []}
    args = ["--sink", sink, "--trigger", trigger, "--batch-seconds", batch_seconds]
    with Kafka() as kafka, Reader(home, kafka, *args) as job, Producer(kafka, TOPIC) as producer:
        for number in range(stops):
            if number:
                job.start_again()
            before = -1 if job.last_committed() is None else job.last_committed()
            if number < stops - 1:
                job.await_commit(before + 2)
                time.sleep(random.uniform(0, 2))
                job.is_running()
            else:
                written = producer.finish()
                job.await_all_rows()
            begun = time.monotonic()
            job.marker.unlink()
            code = job.await_end()
            counted["seconds"] = max(counted["seconds"], time.monotonic() - begun)
            logs = newest(job.dir / "checkpoint-0/offsets"), job.last_committed()
            counted["stops"] += 1
            counted["dirty"] += logs[0] != logs[1]
            counted["wrong_exits"] += code != 0
            if code != 0 or logs[0] != logs[1]:
                counted["details"].append([sink, trigger, code, logs])
        kept, every = job.rows(sink)
        distinct = len(set(kept))
        counted["lost"] = written - distinct
        counted["twice"] = 0 if sink == "kafka" else len(kept) - distinct
        counted["appended_twice"] = len(every) - len(set(every))
    return counted


def all_clean(counted, stops):
    check(counted["stops"] == stops, f"{counted}")
    wrong = [counted[key] for key in "dirty wrong_exits lost twice appended_twice".split()]
    check(not any(wrong), f"{counted}")


@case
def a_topic_of_kafka_into_an_idempotent_sink(home):
    all_clean(stops_on_kafka(home, "foreach", "0 seconds", 4, batch_seconds=0.5), 4)


@case
def a_topic_of_kafka_every_two_seconds(home):
    all_clean(stops_on_kafka(home, "foreach", "2 seconds", 3), 3)


@case
def from_kafka_to_kafka(home):
    """Its sink is at least once; after clean stops every row is there once."""
    all_clean(stops_on_kafka(home, "kafka", "0 seconds", 4), 4)


@case
def a_broker_that_hangs_during_the_drain(home):
    """The batch waits for it, and the drain for the batch."""
    args = ["--batch-seconds", 3]
    with Kafka() as kafka, Reader(home, kafka, *args) as job, Producer(kafka, TOPIC) as producer:
        batch = job.await_batch()
        kafka.hang()
        job.marker.unlink()
        job.await_phase("draining")
        time.sleep(20)
        # It has to read its rows once more before it ends.
        job.is_running()
        check(job.last_committed() == batch - 1, "a batch was committed without the broker")
        check(job.status()["phase"] == "draining", f"phase {job.status()['phase']}")
        kafka.resume()
        check(job.await_end() == 0, "exit code")
        job.check_clean()
        check(job.last_committed() == batch, "another batch than the running one was the last")
        rows = producer.finish()
        job.start_again()
        job.await_all_rows()
        drain(job)
        once = Counter(range(rows))
        for kept in job.rows("foreach"):
            check(Counter(map(int, kept)) == once, f"{rows} rows were written, {len(kept)} read")


@case
def offsets_of_kafka_in_a_checkpoint(home):
    """What `checkpoint inspect` and `diff` say of them is what the broker says; a copy restarts."""
    with Kafka() as kafka, Reader(home, kafka, "--batch-seconds", 0) as job:
        def write_and_stop(first):
            with Producer(kafka, TOPIC, first) as producer:
                time.sleep(3)
                count = producer.finish()
            ends = job.await_all_rows()
            drain(job)
            return count, ends

        checkpoint, copy = job.dir / "checkpoint-0", job.dir / "copy"
        first, earlier = write_and_stop(0)
        check(len(earlier) == 3 and all(earlier.values()), f"not in every partition: {earlier}")
        (source,) = json.loads(stepdown("--json", "checkpoint", "inspect", checkpoint))["sources"]
        said = source["kind"], source["planned_offset"], source["committed_offset"]
        check(said == ("kafka", {TOPIC: earlier}, {TOPIC: earlier}), f"{source}, the broker: {earlier}")

        stepdown("checkpoint", "copy", checkpoint, copy)
        stepdown("checkpoint", "diff", checkpoint, copy)
        at_copy = job.last_committed()
        job.start_again()
        second, later = write_and_stop(first)
        differs = json.loads(stepdown("--json", "checkpoint", "diff", copy, checkpoint, code=3))
        for offsets in ("planned_offsets", "committed_offsets"):
            found = {each["partition"]: (each["offset"]["a"], each["offset"]["b"], each["difference"])
                     for each in differs[offsets]}
            expected = {f"{TOPIC}/{partition}": (str(earlier[partition]), str(end), end - earlier[partition])
                        for partition, end in later.items()}
            check(found == expected, f"{offsets}: {found}, the broker: {expected}")
            check(sum(each["difference"] for each in differs[offsets]) == second - first, f"not {second - first} rows")

        # What the original has read since the copy, the copy reads too, and nothing else.
        checkpoint.rename(job.dir / "original")
        copy.rename(checkpoint)
        shutil.rmtree(job.dir / "query-0")
        job.start_again()
        job.await_all_rows()
        drain(job)
        last, every = rows_of_batches(job.dir / "query-0")
        check(min(last) == at_copy + 1, f"it began with batch {min(last)}, copied at {at_copy}")
        check(Counter(map(int, every)) == Counter(range(first, second)),
              f"{len(every)} rows, {second - first} were written")
