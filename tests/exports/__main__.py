"""``make test-export``: export every published detector, and compare each file with PyTorch.

    python -m tests.exports                      all of them: hours
    python -m tests.exports biformer dfvt_t      those whose names contain one of these texts

All files have free sizes, and all weights are random. Each detector gets a row of the table; those
that have one already are left out, so that a run can be interrupted. The exit code is 1 if a
detector is not equal.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.exports.detectors import NAMES, export_random
from tests.exports.tables import HEAD, row


def main() -> int:
    """Export detectors, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.exports", description=__doc__)
    parser.add_argument("text", nargs="*", default=[""], help="part of the name of a detector")
    parser.add_argument("--table", type=Path, default=Path("exports.md"), help="%(default)s")
    args = parser.parse_args()
    if not args.table.exists():
        args.table.write_text(HEAD)
    wrong = 0
    for name in (name for name in NAMES if any(text in name for text in args.text)):
        if f"| {name} |" in args.table.read_text():
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = export_random(name, Path(folder))
            except Exception as error:
                found = error
        line = row(name, found, time.monotonic() - begun)
        wrong += "| no" in line
        with args.table.open("a") as file:
            file.write(line)
        print(line, end="", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
