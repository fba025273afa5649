"""Data and commands that many tests use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .data import COCO_NAMES, draw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """8 + 5 drawn images (an odd number, so that two processes share them unevenly)."""
    return draw(tmp_path_factory.mktemp("data") / "demo", train=8, val=5)


@pytest.fixture(scope="session")
def coco_data(tmp_path_factory) -> Path:
    """The same under names of COCO's classes, for the configs as they stand."""
    folder = draw(tmp_path_factory.mktemp("data") / "coco", train=8, val=5)
    for file in (folder / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = COCO_NAMES[category["name"]]
        file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def run_tool():
    """Call a script as a user does; returns the finished process with its output as text."""

    def call(*command, cwd=None, timeout=300, env=None, **environment):
        command = [str(part) for part in command]
        if command[0].endswith(".py"):
            command = [sys.executable, *command]
        if command[0].endswith(".sh"):
            command = ["bash", *command]
        environment = {**os.environ, "PYTHON": sys.executable, **(env or {}), **environment}
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            timeout=timeout,
            text=True,
            capture_output=True,
        )

    return call
