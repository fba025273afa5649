"""Test a detector: ``python tools/test.py CONFIG CHECKPOINT --eval bbox segm [options]``."""

import _checkout  # noqa: F401  isort: skip
from models_mm.engine.cli import run
from models_mm.engine.test import main

if __name__ == "__main__":
    run(main)
