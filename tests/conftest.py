"""Data and commands that many tests use."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from .drawn import draw, draw_coco

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """8 + 5 drawn images (an odd number, so that two processes share them unevenly)."""
    return draw(tmp_path_factory.mktemp("data") / "demo", train=8, val=5)


@pytest.fixture(scope="session")
def coco_data(tmp_path_factory) -> Path:
    """The same under names of COCO's classes, for the configs as they stand."""
    return draw_coco(tmp_path_factory.mktemp("data") / "coco", train=8, val=5)


def children(pid: int) -> list[psutil.Process]:
    """All processes that a process has started, with theirs."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


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
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={"PYTHONFAULTHANDLER": "1", **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # every Python among them says where its threads stand
            family = [psutil.Process(process.pid), *children(process.pid)]
            for sign in (signal.SIGABRT, signal.SIGKILL):
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.send_signal(sign)
                psutil.wait_procs(family, timeout=5)
            out, err = process.communicate()
            pytest.fail(f"{shlex.join(command)}: not over after {timeout} s\n{out}\n{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return call
