"""SIGTERM and SIGUSR1 end a run after its iteration, with a checkpoint and exit code 75."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from .conftest import ROOT, TINY, checkpoint, differences, options, ranks_of, wait_for


def arguments(data: Path, work: Path, epochs: int = 150) -> list:
    more = (f"runner.max_epochs={epochs}", "checkpoint_config.interval=50")
    return [TINY, "--work-dir", work, "--no-validate", "--seed", "0", *options(data, *more)]


@pytest.fixture(scope="module")
def uninterrupted(demo_data, run_tool, tmp_path_factory) -> Path:
    """A training in two processes."""
    work = tmp_path_factory.mktemp("uninterrupted")
    config, *rest = arguments(demo_data, work)
    done = run_tool(ROOT / "dist_train.sh", config, 2, *rest)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        pytest.param(signal.SIGTERM, "the launcher", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "the launcher", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "rank 1", marks=pytest.mark.slow),
    ],
)
def test_a_job_ends_with_a_checkpoint(
    demo_data, uninterrupted, start_tool, run_tool, tmp_path, number, whom
):
    config, *rest = arguments(demo_data, tmp_path)
    log = tmp_path / "output"
    job = start_tool(ROOT / "dist_train.sh", config, 2, *rest, log=log)
    wait_for(lambda: "epoch 2/" in log.read_text())
    os.kill(job.pid if whom == "the launcher" else ranks_of(tmp_path)[1], number)
    assert job.wait(timeout=60) == 75
    said = log.read_text()
    assert len(re.findall("ended as asked; --auto-resume goes on from", said)) == 1
    assert "Traceback" not in said
    assert list(tmp_path.glob("interim_*.pth"))
    assert not ranks_of(tmp_path)
    done = run_tool(ROOT / "dist_train.sh", config, 2, "--auto-resume", *rest)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_one_process_and_its_workers(demo_data, start_tool, tmp_path):
    """A scheduler signals whole groups of processes: the data workers go on until the end."""
    log = tmp_path / "output"
    job = start_tool(ROOT / "tools/train.py", *arguments(demo_data, tmp_path, 5000), log=log)
    wait_for(lambda: "epoch 2/" in log.read_text())
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(timeout=60) == 75
    assert "ended as asked" in log.read_text() and "Traceback" not in log.read_text()


STUCK = """
import time
from pathlib import Path

from mmcv.runner import HOOKS, Hook


@HOOKS.register_module()
class StuckHook(Hook):
    def after_train_iter(self, runner):
        while (Path(runner.work_dir) / "stuck").exists():
            time.sleep(0.1)
"""


def test_a_second_signal_ends_at_once(demo_data, start_tool, tmp_path):
    """Even a process that will not finish its iteration."""
    (tmp_path / "stuck_hook.py").write_text(STUCK)
    config = tmp_path / "config.py"
    config.write_text(
        f'_base_ = "{TINY}"\n'
        'custom_imports = dict(imports=["models_mm", "stuck_hook"], allow_failed_imports=False)\n'
        'custom_hooks = [dict(type="StuckHook")]\n'
    )
    log = tmp_path / "output"
    _, *rest = arguments(demo_data, tmp_path / "work", 5000)
    command = (ROOT / "tools/train.py", config, *rest)
    job = start_tool(*command, log=log, PYTHONPATH=str(tmp_path))
    wait_for(lambda: "epoch 2/" in log.read_text())
    (tmp_path / "work/stuck").touch()
    time.sleep(1)
    os.kill(job.pid, signal.SIGTERM)
    time.sleep(3)
    assert job.poll() is None
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(timeout=10) == 128 + signal.SIGTERM
    assert "SIGTERM again: ending at once, without a checkpoint" in log.read_text()
