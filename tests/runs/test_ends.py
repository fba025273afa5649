"""Whatever dies, all processes of a job are gone within ten seconds, and it is said why."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT, TINY, options, ranks_of, wait_for

# A data set and a hook that fail in the last rank, as FAULT says, and write down when.
FAULTY = """
import os
import signal
import sys
import threading
import time

import torch.distributed as dist
from mmcv.runner import HOOKS, Hook
from mmdet.datasets import DATASETS

from models_mm.mmdet2.datasets import CocoDataset

FAULT = os.environ.get("FAULT", "")
LAST = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
FOLDER = os.path.dirname(__file__)


def due(fault):
    if LAST and fault == FAULT:
        with open(os.path.join(FOLDER, "died"), "w") as file:
            file.write(str(time.time()))
        return True


@DATASETS.register_module()
class Faulty(CocoDataset):
    def __getitem__(self, index):
        kind = "evaluation" if self.test_mode else "training"
        self.loaded = getattr(self, "loaded", 0) + 1
        sample = super().__getitem__(index)
        if self.loaded == 3 and due("a worker is killed in " + kind):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.loaded == 3 and due("samples that do not collate"):
            sample["extra"] = object()
        return sample


@HOOKS.register_module()
class Fails(Hook):
    def after_train_iter(self, runner):
        if runner.iter == 1 and due("an error in a hook"):
            raise RuntimeError("NCCL: no rank is to blame")
        if runner.iter == 1 and due("a hook that exits"):
            sys.exit(3)


def record():
    threads = [thread.name for thread in threading.enumerate()]
    with open(os.path.join(FOLDER, f"forks_{os.environ.get('RANK', 0)}"), "a") as file:
        file.write(f"{dist.is_initialized()} {','.join(threads)}\\n")


os.register_at_fork(before=record)
"""

CONFIG = f"""
_base_ = "{TINY}"
custom_imports = dict(imports=["models_mm", "faulty"], allow_failed_imports=False)
custom_hooks = [dict(type="Fails")]
data = dict(train=dict(type="Faulty"), val=dict(type="Faulty"))
"""


@pytest.fixture
def command(demo_data, tmp_path):
    """The command of a training in some processes that only a fault ends, and its environment."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "config.py").write_text(CONFIG)

    def make(processes: int, *more: str, epochs: int = 5000) -> list:
        start = [ROOT / "dist_train.sh", tmp_path / "config.py", processes]
        if processes == 1:
            start = [ROOT / "tools/train.py", tmp_path / "config.py"]
        settings = options(demo_data, f"runner.max_epochs={epochs}", *more)
        return [*start, "--work-dir", tmp_path / "w", *settings]

    return make


def left(folder: Path) -> list[str]:
    """All processes of the job whose files are in a folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(f"{process.info['pid']} ({process.info['status']}): {line}")
    return found


def over(folder: Path, died: float) -> None:
    """Wait until nothing of a job is left, for ten seconds from the time of a death."""
    while processes := left(folder):
        late = time.time() - died - 10
        assert late < 0, "\n".join(processes)
        time.sleep(0.1)


KILLED = r"error.*: (DataLoader worker \(pid.*\) (is killed|exited)|a data worker .*is gone)"
FAULTS = [
    pytest.param(1, "a worker is killed in training", 1, KILLED, marks=pytest.mark.slow),
    pytest.param(1, "a worker is killed in evaluation", 1, KILLED),
    pytest.param(1, "an error in a hook", 1, r"error: RuntimeError: NCCL: no rank"),
    pytest.param(1, "a hook that exits", 3, "", marks=pytest.mark.slow),
    pytest.param(1, "samples that do not collate", 1, r"error: TypeError.*object"),
    pytest.param(2, "a worker is killed in training", 1, KILLED),
    pytest.param(2, "a worker is killed in evaluation", 1, KILLED, marks=pytest.mark.slow),
    pytest.param(
        *(2, "an error in a hook", 1, r"error on rank 1: RuntimeError: NCCL: no rank"),
        marks=pytest.mark.slow,
    ),
    pytest.param(2, "a hook that exits", 3, r"rank 1 \(.*\) ended with 3", marks=pytest.mark.slow),
    pytest.param(
        *(2, "samples that do not collate", 1, r"error.*: TypeError.*object"),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("processes", "fault", "code", "reason"), FAULTS)
def test_a_fault_inside(command, start_tool, tmp_path, processes, fault, code, reason):
    log = tmp_path / "log"
    environment = {"FAULT": fault, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    job = start_tool(*command(processes), log=log, **environment)
    wait_for(lambda: (tmp_path / "died").exists() or job.poll() is not None)
    over(tmp_path, float((tmp_path / "died").read_text()))
    assert job.wait(timeout=10) == code
    assert re.search(reason, log.read_text())
    assert not re.search("another rank|Traceback", log.read_text())


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("rank", r"error: rank 1 \(process \d+ on .*\) was killed by SIGKILL"),
        ("launcher", r"error: the launcher \(process \d+\) was killed; the job is over"),
        pytest.param("reader and rank", "", marks=pytest.mark.slow),
        pytest.param("stopped reader and rank", "", marks=pytest.mark.slow),
    ],
)
def test_a_kill_from_outside(command, tmp_path, victim, reason):
    """With a reader that is gone, or reads no more, the reason cannot be said."""
    words = [str(word) for word in command(2)]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    job = subprocess.Popen(
        ["bash", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert any(b"epoch 2/" in line for line in job.stdout)
        ranks = ranks_of(tmp_path / "w")
        if victim == "reader and rank":
            job.stdout.close()
        if victim == "stopped reader and rank":
            time.sleep(20)  # nobody reads: the pipe is full, and who prints waits
        os.kill(job.pid if victim == "launcher" else ranks[1], signal.SIGKILL)
        over(tmp_path, time.time())
        assert job.wait(timeout=10) != 0
        if reason:
            assert re.search(reason, job.stdout.read().decode())
    finally:
        for process in [job, *map(psutil.Process, filter(psutil.pid_exists, ranks_of(tmp_path)))]:
            process.kill()


@pytest.mark.slow
def test_a_batch_that_does_not_come(command, start_tool, tmp_path):
    """Its data worker is stopped, as one whose file system hangs."""
    log = tmp_path / "log"
    more = ("faults.hang_timeout=5",)
    job = start_tool(*command(1, *more), log=log, PYTHONPATH=f"{tmp_path}:{ROOT}")
    wait_for(lambda: "epoch 2/" in log.read_text())
    for worker in psutil.Process(job.pid).children():
        worker.suspend()
    assert job.wait(timeout=30) == 1
    assert re.search(r"error: no batch of data\.(train|val) has come for 5 s", log.read_text())
    over(tmp_path, time.time())


@pytest.mark.slow
def test_data_workers_are_forked_before_threads_and_process_group(command, run_tool, tmp_path):
    """Once, over epochs and evaluations: a fork beside a busy process group may hang."""
    more = ("data.workers_per_gpu=2", "data.val_dataloader.workers_per_gpu=2")
    done = run_tool(*command(2, *more, epochs=4), PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"^ {6}[1-4] ", done.stderr, re.M)) == 4  # rows of the table
    for rank in range(2):
        assert (tmp_path / f"forks_{rank}").read_text() == "False MainThread\n" * 4


END = """
import time

import torch.distributed as dist

from models_mm.distributed import liveness, watchdog

dist.init_process_group("gloo")
watchdog.start({})
if dist.get_rank() == 0:  # the last to leave finds that all the others have left
    release = liveness.release
    liveness.release = lambda name: (time.sleep(1), release(name))
watchdog.stop()
dist.destroy_process_group()
"""


def test_a_job_that_ends_well_prints_no_stack(run_tool, tmp_path):
    """As torch does where a rank still asks the store of rank 0, which has ended."""
    (tmp_path / "end.py").write_text(END)
    done = run_tool(ROOT / "tools/launch.py", "2", tmp_path / "end.py", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "frame #" not in done.stderr
