"""slurm_train.sh on a real Slurm of two nodes, started on this machine by start.sh."""

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from ..documents import CHOICES, commands, fences, follow
from ..mmdet2.compat.conftest import free_port
from ..runs.conftest import TINY, checkpoint, differences, options, ranks_of, wait_for

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment variables that make Slurm's commands talk to the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    port = random.randrange(10000, 19000)  # tests that run beside this one have clusters too
    command = ["bash", HERE / "start.sh", folder, str(port)]
    started = subprocess.run(command, capture_output=True, text=True, timeout=400)
    if started.returncode == 77:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    assert started.returncode == 0, started.stderr
    # n1 and n2 are names of Slurm's only; the test cluster has no GPUs
    yield {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "SRUN_ARGS": "--gres=none",
        **{"GPUS": "2", "GPUS_PER_NODE": "1", "CPUS_PER_TASK": "1"},
    }
    subprocess.run(["bash", HERE / "stop.sh", folder], check=True)


@pytest.fixture(scope="module")
def arguments(demo_data):
    more = ["checkpoint_config.interval=10", "runner.max_epochs=80", "faults.hang_timeout=60"]
    return ["--no-validate", "--seed", "0", *options(demo_data, *more)]


@pytest.fixture(scope="module")
def uninterrupted(cluster, arguments, run_tool, tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted")
    command = (ROOT / "slurm_train.sh", "two", "whole", TINY, work, *arguments)
    done = run_tool(*command, env=cluster)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


def test_commands_of_the_readme(cluster, demo_data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(demo_data)
    for name in ("slurm_train.sh", "slurm_test.sh"):
        (tmp_path / name).symlink_to(ROOT / name)
    own = {
        r"PARTITION JOB": "two readme",
        r"WORK_DIR": "work",
        r"\bCHECKPOINT\b": "work/latest.pth",
    }
    typed = commands(fences("README.md", CHOICES | own), tmp_path)
    training, testing = (command for command in typed if "slurm" in command)
    said = follow([training, testing], tmp_path, **cluster)
    assert "bbox AP50" in said[0] and "metrics: " in said[1]


def slurm(cluster, *command) -> str:
    done = subprocess.run(
        command, env={**os.environ, **cluster}, capture_output=True, text=True, check=True
    )
    return done.stdout


def submit(cluster, run_tool, work, arguments) -> str:
    """A batch job that requeues itself, waited for until it trains."""
    command = (ROOT / "slurm_train.sh", "two", "requeued", TINY, work, *arguments)
    done = run_tool(*command, env=cluster, REQUEUE="1")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    wait_for(lambda: "epoch 2/" in said(work))
    return job


def said(work: Path) -> str:
    return "".join(file.read_text() for file in work.glob("slurm_*.out"))


def state(cluster, job: str) -> str:
    return re.search(r"JobState=(\w+)", slurm(cluster, "scontrol", "show", "job", job))[1]


def go_on(cluster, job: str) -> None:
    """Slurm lets a requeued job wait for two minutes; within a second it would refuse it."""
    wait_for(lambda: state(cluster, job) == "PENDING")
    slurm(cluster, "scontrol", "update", f"JobId={job}", "StartTime=now+3")


def test_preempted_requeued_finished(cluster, arguments, uninterrupted, run_tool, tmp_path):
    """Twice: by the signal that Slurm sends before a time limit, and by an administrator."""
    job = submit(cluster, run_tool, tmp_path, arguments)
    slurm(cluster, "scancel", "--signal=USR1", job)
    wait_for(lambda: "ended as asked; --auto-resume goes on from" in said(tmp_path))
    go_on(cluster, job)
    wait_for(lambda: said(tmp_path).count("auto-resume: going on from") == 1)
    resumed = len(said(tmp_path))
    wait_for(lambda: "epoch " in said(tmp_path)[resumed:])
    slurm(cluster, "scontrol", "requeue", job)
    go_on(cluster, job)
    wait_for(lambda: state(cluster, job) == "COMPLETED")
    assert said(tmp_path).count("auto-resume: going on from") == 2
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_scancel_is_final_and_nothing_is_lost(
    cluster, arguments, uninterrupted, run_tool, tmp_path
):
    job = submit(cluster, run_tool, tmp_path, arguments)
    slurm(cluster, "scancel", job)
    wait_for(lambda: state(cluster, job) == "CANCELLED" and not slurm(cluster, "squeue", "-h"))
    assert list(tmp_path.glob("interim_*.pth"))
    command = (ROOT / "slurm_train.sh", "two", "again", TINY, tmp_path, "--auto-resume")
    done = run_tool(*command, *arguments, env=cluster)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_a_killed_task_ends_the_job_by_name(cluster, arguments, run_tool, tmp_path):
    job = submit(cluster, run_tool, tmp_path, arguments)
    rank = wait_for(lambda: ranks_of(tmp_path))[-1]
    os.kill(rank, 9)
    wait_for(lambda: state(cluster, job) == "FAILED")
    assert re.search(r"srun: error: n[12]: task [01]: Killed", said(tmp_path))
