"""Test a detector: ``python tools/test.py CONFIG CHECKPOINT --eval bbox segm [options]``."""

import _checkout  # noqa: F401  isort: skip
from models_mm.cli.command import run
from models_mm.mmdet2.testing import main

if __name__ == "__main__":
    run(main)
