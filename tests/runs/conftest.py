"""Whole trainings of a tiny detector, and how to compare their ends."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import models_mm  # noqa: F401  isort: skip

ROOT = Path(__file__).resolve().parents[2]
TINY = str(Path(__file__).with_name("tiny.py"))


def options(data: Path, *more: str) -> list[str]:
    """``--cfg-options`` that make the tiny config read a data set."""
    paths = [
        f"data.{split}.{key}={data}/{value}"
        for split, year in (("train", "train2017"), ("val", "val2017"), ("test", "val2017"))
        for key, value in (
            ("ann_file", f"annotations/instances_{year}.json"),
            ("img_prefix", f"{year}/"),
        )
    ]
    return ["--cfg-options", *paths, *more]


def checkpoint(work: Path, name: str = "latest.pth") -> dict:
    return torch.load(work / name, weights_only=True)


def differences(one, other, where: str = "") -> list[str]:
    """Where two checkpoints differ in any bit; their ``meta`` (times, paths) left out."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {one.keys() ^ other.keys()}"]
        keys = [key for key in one if where or key != "meta"]
        return [d for key in keys for d in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)):
        pairs = zip(one, other, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]")]
    return [] if one == other else [f"{where}: {one} and {other}"]


@pytest.fixture
def start_tool(tmp_path):  # whose folder is there until this ends
    """Start a script as a user does, in the background, its output in a file; ended afterwards.

    When the test fails, pytest shows what all of them have said.
    """
    running, logs = [], []

    def start(*command, log: Path, **environment) -> subprocess.Popen:
        command = [str(part) for part in command]
        interpreter = ["bash"] if command[0].endswith(".sh") else [sys.executable]
        with log.open("w") as file:
            process = subprocess.Popen(
                interpreter + command,
                env={**os.environ, "PYTHON": sys.executable, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(process)
        logs.append((command, log))
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
    for command, log in logs:
        print(f"$ {shlex.join(command)}\n{log.read_text()[-5000:]}")


def wait_for(what, seconds: float = 240):
    """Ask until the answer is not empty, and return it."""
    deadline = time.time() + seconds
    while not (found := what()):
        assert time.time() < deadline
        time.sleep(0.1)
    return found


def ranks_of(work: Path) -> list[int]:
    """The processes that train into a work dir, in the order of their ranks, without workers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rsplit(")")[1].split()[1])
        except OSError:
            continue
        line = b" ".join(words)
        if b"python" in words[0] and b"tools/train.py" in line and os.fsencode(work) in line:
            rank = [v for v in variables if v.startswith((b"RANK=", b"SLURM_PROCID="))]
            if rank and b"tools/launch.py" not in line:
                found[int(folder.name)] = (int(rank[0].split(b"=")[1]), parent)
    own = [(rank, pid) for pid, (rank, parent) in found.items() if parent not in found]
    return [pid for _, pid in sorted(own)]
