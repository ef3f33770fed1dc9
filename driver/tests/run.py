#!/usr/bin/env python3
"""The driver kit in real Spark.

    run.py [--spark VERSION] [NAME...]

Without names, all tests on all Sparks; prints totals as `N passed, N failed`.
"""

import argparse
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
import cases  # noqa: E402
from harness import Failed, spark_home  # noqa: E402

SPARKS = ["3.3.4", "3.5.9", "4.0.5", "4.3.0"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spark", action="append", choices=SPARKS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    unknown = set(args.names) - set(cases.ALL)
    if unknown:
        parser.error(f"no such test: {', '.join(sorted(unknown))}")
    # So that a job is not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed, failed = 0, []
    for version in args.spark or SPARKS:
        home = spark_home(version)
        for name, test in cases.ALL.items():
            if args.names and name not in args.names:
                continue
            begun = time.monotonic()
            try:
                test(home)
                passed += 1
                outcome = "ok"
            except Failed as error:
                failed.append(f"{version} {name}")
                outcome = f"FAILED: {error}"
            except Exception:
                failed.append(f"{version} {name}")
                outcome = "FAILED: " + traceback.format_exc()
            print(f"spark {version}: {name} ... {outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
    for name in failed:
        print(f"failed: {name}")
    print(f"{passed} passed, {len(failed)} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
