"""Epochs by the thousand in trainings of two processes: none may stand still at an epoch's end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ..drawn import draw
from ..runs.conftest import ROOT, TINY, options
from .tally import Tally

AT_ONCE = 3  # trainings
EPOCHS = 250  # of one training
STILL = 60.0  # seconds without an iteration or evaluation, after the first epoch


class Training:
    """One training, and how far it is."""

    def __init__(self, number: int, epochs: int, seed: int, data: Path, folder: Path):
        self.name = f"training {number} (seed {seed})"
        self.epochs = epochs
        self.work = folder / f"training_{number}"
        self.log = folder / f"training_{number}.log"
        settings = (
            f"runner.max_epochs={epochs}",
            f"checkpoint_config.interval={epochs}",
            "checkpoint_config.max_keep_ckpts=1",
            f"data.train_dataloader.workers_per_gpu={1 + number % 2}",
        )
        command = [TINY, 2, "--work-dir", self.work, "--seed", seed, *options(data, *settings)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["bash", str(ROOT / "dist_train.sh"), *map(str, command)],
                env={**os.environ, "PYTHON": sys.executable},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.ended = self.lines = 0
        self.since = time.monotonic()

    def look(self) -> int:
        """Epochs that have ended since the last look."""
        logs = list(self.work.glob("*.log.json"))
        lines = logs[0].read_text().splitlines() if logs else ()
        ended = sum('"mode": "val"' in line for line in lines)
        new, self.ended = ended - self.ended, ended
        if len(lines) > self.lines:  # slow, on a loaded machine, is not still
            self.lines, self.since = len(lines), time.monotonic()
        return new

    def family(self) -> list[psutil.Process]:
        try:
            launcher = psutil.Process(self.process.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stacks(self) -> str:
        """Where all processes stand: the kernel's word, and Python's in the log."""
        said = []
        for process in self.family():
            wait = Path(f"/proc/{process.pid}/wchan")
            said.append(f"{process.pid} {process.status()} {wait.read_text()} {process.cmdline()}")
            if "tools/train.py" in " ".join(process.cmdline()[:3]):
                process.send_signal(signal.SIGUSR2)  # faulthandler's
        time.sleep(3)
        return "\n".join([*said, self.log.read_text()[-20000:]])

    def end(self) -> None:
        for process in self.family():
            process.kill()
        self.process.wait()


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Count the ends of epochs, of several trainings at once, each with an evaluation."""
    sys.path.insert(0, str(ROOT / "tools"))  # where the drawing of the data is
    tally = Tally()
    data = draw(folder / "demo", train=4, val=2)
    running: list[Training] = []
    begun = planned = 0
    while running or planned < count:
        while len(running) < AT_ONCE and planned < count:
            epochs = min(EPOCHS, count - planned)
            running.append(Training(begun, epochs, seed + begun, data, folder))
            begun, planned = begun + 1, planned + epochs
        time.sleep(1)
        for training in list(running):
            code = training.process.poll()
            for _ in range(training.look()):
                tally.count("epochs ended")
            # the first epoch begins after imports that a loaded machine takes minutes for
            still = time.monotonic() - training.since > (STILL if training.ended else 10 * STILL)
            if still:
                tally.fail(f"{training.name} stands still:\n{training.stacks()}")
            elif code is not None and (code, training.ended) != (0, training.epochs):
                tail = training.log.read_text()[-3000:]
                tally.fail(f"{training.name} ended with {code} after {training.ended}:\n{tail}")
            if still or code is not None:
                training.end()
                running.remove(training)
                shutil.rmtree(training.work, ignore_errors=True)
    return tally
