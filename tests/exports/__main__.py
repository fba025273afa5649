"""``make test-export``: export every published detector, and compare each file with PyTorch.

    python -m tests.exports                          all of them: hours
    python -m tests.exports biformer ^mask_rcnn_kw   those whose names match a regular expression

All files have free sizes, and all weights are random. Each detector gets a row of the table; those
that have one already are left out, so that a run can be interrupted. The exit code is 1 if a
detector is not equal.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.exports.detectors import NAMES, export_random
from tests.exports.tables import HEAD, row


def main() -> int:
    """Export detectors, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.exports", description=__doc__)
    parser.add_argument("pattern", nargs="*", default=[""], help="regular expression of names")
    parser.add_argument("--table", type=Path, default=Path("exports.md"), help="%(default)s")
    args = parser.parse_args()
    if not args.table.exists():
        args.table.write_text(HEAD)
    wrong = 0
    for name in (name for pattern in args.pattern for name in NAMES if re.search(pattern, name)):
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
