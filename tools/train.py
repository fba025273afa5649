"""Train a detector: ``python tools/train.py CONFIG [options]``; ``--help`` lists them."""

import _checkout  # noqa: F401  isort: skip
from models_mm.cli.command import run
from models_mm.mmdet2.training import main

if __name__ == "__main__":
    run(main)
