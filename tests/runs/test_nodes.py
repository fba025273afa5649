"""Two nodes without Slurm (two launchers on this machine), and ranks that die or hang."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from ..mmdet2.compat.conftest import free_port
from .conftest import ROOT, TINY, checkpoint, differences, options, ranks_of, wait_for


def start_nodes(start_tool, data: Path, work: Path, *more: str, **environment) -> list:
    """One training of two ranks, each started by a launcher of its own."""
    settings = options(data, "checkpoint_config.iterations=1", *more)
    train = [TINY, 1, "--work-dir", work, "--no-validate", *settings]
    port = str(free_port())
    work.mkdir(exist_ok=True)
    return [
        start_tool(
            ROOT / "dist_train.sh",
            *train,
            log=work / f"output_{node}",
            **{"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "PORT": port},
            **environment,
        )
        for node in range(2)
    ]


def said(work: Path) -> str:
    return "".join((work / f"output_{node}").read_text() for node in range(2))


@pytest.fixture(scope="module")
def uninterrupted(demo_data, run_tool, tmp_path_factory) -> Path:
    """The same in two processes of one node."""
    work = tmp_path_factory.mktemp("one")
    more = options(demo_data, "runner.max_epochs=60", "checkpoint_config.interval=60")
    done = run_tool(ROOT / "dist_train.sh", TINY, 2, "--work-dir", work, "--no-validate", *more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


@pytest.mark.slow
def test_two_nodes_restart_from_the_last_checkpoint(demo_data, uninterrupted, start_tool, tmp_path):
    """MAX_RESTARTS: a killed rank costs a restart, and the end is the same."""
    more = ("runner.max_epochs=60", "checkpoint_config.interval=60")
    nodes = start_nodes(start_tool, demo_data, tmp_path / "w", *more, MAX_RESTARTS="2")
    wait_for(lambda: "epoch 2/" in said(tmp_path / "w"))
    os.kill(ranks_of(tmp_path / "w")[1], signal.SIGKILL)
    assert [node.wait(timeout=180) for node in nodes] == [0, 0], said(tmp_path / "w")[-3000:]
    assert "auto-resume: going on from" in said(tmp_path / "w")
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path / "w"))


@pytest.mark.slow
def test_a_dead_rank_is_named_on_every_node(demo_data, start_tool, tmp_path):
    nodes = start_nodes(start_tool, demo_data, tmp_path / "w", "runner.max_epochs=5000")
    wait_for(lambda: "epoch 2/" in said(tmp_path / "w"))
    os.kill(ranks_of(tmp_path / "w")[1], signal.SIGKILL)
    assert all(node.wait(timeout=90) for node in nodes)
    wait_for(lambda: not ranks_of(tmp_path / "w"))  # nor data workers, which would be found too
    host = re.escape(socket.gethostname())
    assert re.search(
        rf"error: rank \d \(process \d+ on {host}\) was killed by SIGKILL", said(tmp_path / "w")
    )
    assert re.search(
        rf"error.*: rank \d \(host {host}\) (is gone|does not answer)", said(tmp_path / "w")
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_hanging_rank_is_named_within_the_timeout(demo_data, start_tool, tmp_path, rank):
    """A stopped process stands for a dead node or a file system that hangs."""
    more = ("runner.max_epochs=5000", "faults.hang_timeout=8")
    job = start_tool(
        *(ROOT / "dist_train.sh", TINY, 2, "--work-dir", tmp_path, "--no-validate"),
        *options(demo_data, *more),
        log=tmp_path / "output",
    )
    log = tmp_path / "output"
    wait_for(lambda: "epoch 2/" in log.read_text())
    os.kill(ranks_of(tmp_path)[rank], signal.SIGSTOP)
    assert job.wait(timeout=120) != 0
    name = rf"error: rank {rank} \(host {re.escape(socket.gethostname())}\)"
    assert re.search(name + " (made no progress for 8 s|does not answer)", log.read_text())


HOOK = """
import time
from mmcv.runner import HOOKS, Hook

@HOOKS.register_module()
class Hangs(Hook):
    def before_train_iter(self, runner):
        while runner.iter == 2 and runner.rank == 1:
            time.sleep(1)
"""


@pytest.mark.slow
def test_a_hanging_rank_says_where(demo_data, run_tool, tmp_path):
    (tmp_path / "hangs.py").write_text(HOOK)
    (tmp_path / "config.py").write_text(
        f'_base_ = "{TINY}"\n'
        'custom_imports = dict(imports=["models_mm", "hangs"], allow_failed_imports=False)\n'
        'custom_hooks = [dict(type="Hangs")]\n'
    )
    done = run_tool(
        *(ROOT / "dist_train.sh", tmp_path / "config.py", 2, "--work-dir", tmp_path / "w"),
        *options(demo_data, "faults.hang_timeout=8"),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode != 0
    print(done.stderr)  # all of it, should the test fail
    assert re.search(r"error: rank 1 \(.*\) made no progress for 8 s", done.stderr)
    assert re.search(r'hangs.py", line \d+ in before_train_iter', done.stderr)
