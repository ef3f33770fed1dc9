#!/usr/bin/env python3
"""The driver kit in real Spark.

    run.py [--spark VERSION]... [--jobs N] [--sample] [NAME...]

Without names, all tests on all Sparks; with --sample the few that belong to every change. Up to four
tests in which something did not come in time are run once more, alone, and are named FLAKY if they pass
then. What was seen to be wrong, as a stop that was not clean, is not tried again. Prints totals as
`N passed, N failed`.
"""

import argparse
import concurrent.futures
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
import cases  # noqa: E402
from harness import Failed, TooLate, spark_home  # noqa: E402

SPARKS = ["3.3.4", "3.5.9", "4.0.5", "4.3.0"]
SAMPLE = {
    "3.5.9": [
        "a_slow_batch_is_finished",
        "several_queries_of_several_sessions",
        "sigterm_in_a_batch",
        "an_idle_query_ends_at_once",
    ],
    "4.3.0": [
        "stepdown_follows_the_drain",
        "a_successor_takes_over",
        "a_main_that_polls_is_active_and_stops_the_context",
        "available_now_ends_after_its_batch",
        "a_marker_that_comes_back_in_time_stops_nothing",
        "held_as_the_environment_says",
        "sigterm_in_a_batch",
        "drains_at_the_moment_of_the_plan",
    ],
}
AGAIN_AT_MOST = 4


PASSED, LATE, WRONG = range(3)


def run(version, name):
    begun = time.monotonic()
    came_to, outcome = WRONG, "ok"
    try:
        cases.ALL[name](spark_home(version))
        came_to = PASSED
    except TooLate as error:
        came_to, outcome = LATE, f"FAILED: {error}"
    except Failed as error:
        outcome = f"FAILED: {error}"
    except Exception:
        outcome = "FAILED: " + traceback.format_exc()
    print(f"spark {version}: {name} ... {outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
    return came_to


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spark", action="append", choices=SPARKS)
    parser.add_argument("--jobs", type=int, default=1, help="tests at once")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    unknown = set(args.names) - set(cases.ALL)
    if unknown:
        parser.error(f"no such test: {', '.join(sorted(unknown))}")
    # So that a job is not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    versions = args.spark or (SAMPLE if args.sample else SPARKS)
    tests = [(version, name) for version in versions
             for name in args.names or (SAMPLE[version] if args.sample else cases.ALL)
             if version in cases.ONLY.get(name, SPARKS)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda test: run(*test), tests))
    failed = [test for test, came_to in zip(tests, outcomes) if came_to != PASSED]
    late = [test for test, came_to in zip(tests, outcomes) if came_to == LATE]
    if 0 < len(late) <= AGAIN_AT_MOST:
        print("once more, one at a time:", *(" ".join(test) for test in late), flush=True)
        for test in late:
            if run(*test) == PASSED:
                print("FLAKY: was late at first, passed alone:", *test)
                failed.remove(test)
    for test in failed:
        print("failed:", *test)
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not tests else 0)


if __name__ == "__main__":
    main()
