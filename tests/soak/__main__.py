"""``make soak``: every soak at full length; prints counts, exits with 1 if a case went wrong."""

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

# Bits depend on the number of threads, which trainings in forks and by dist_train.sh choose apart.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# module of tests/soak -> cases by default; each has soak(count, seed, folder) -> Tally
SOAKS = {
    "kills": 100,
    "epochs": 2000,
    "data_sets": 300,
    "evaluations": 3000,
    "files": 500,
    "command_lines": 1000,  # all that there are
}


def main() -> int:
    """Run the soaks that are asked for (by default all) and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    for name, count in SOAKS.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, metavar="N", help=f"cases (default: {count})")
    parser.add_argument("--seed", type=int, default=0, help="other cases (default: %(default)s)")
    args = parser.parse_args()
    asked = {name: getattr(args, name) for name in SOAKS if getattr(args, name) is not None}
    wrong = 0
    for name, count in (asked or SOAKS).items():
        if not count:
            continue
        begun = time.monotonic()
        soak = importlib.import_module(f"tests.soak.{name}").soak
        with tempfile.TemporaryDirectory() as folder:
            tally = soak(count, args.seed, Path(folder))
        print(f"{name}: {tally} ({time.monotonic() - begun:.0f} s)", flush=True)
        for failure in tally.failures:
            print(f"  {failure}", flush=True)
        wrong += len(tally.failures)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
