"""Data workers that start before it is known what they load, and stay."""

import os
import subprocess
import sys

import numpy as np
import psutil
from torch.utils.data import Dataset

from models_mm.mmdet2.loaders import Loader


class Numbers(Dataset):
    """Each sample is a number and the process that has loaded it."""

    def __init__(self):
        self.flag = np.zeros(6, dtype=np.uint8)
        self.first = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.first + index, os.getpid()


def loaded(loader: Loader) -> tuple[list[int], set[int]]:
    pairs = [pair for numbers, workers in loader for pair in zip(numbers, workers, strict=True)]
    return [int(number) for number, _ in pairs], {int(worker) for _, worker in pairs}


def test_workers_stay_until_they_are_started_anew():
    settings = {"samples_per_gpu": 2, "workers_per_gpu": 2, "persistent_workers": False}
    loader = Loader("numbers", Numbers(), settings, hang_timeout=60)
    mine = set(psutil.Process().children())
    assert list(loader) == [] and len(mine) >= 2
    loader.take_share(dist=False, shuffle=False)
    numbers, workers = loaded(loader)
    assert numbers == list(range(6)) and workers <= {process.pid for process in mine}
    assert loaded(loader) == (numbers, workers)
    # what mmdet's YOLOXModeSwitchHook does
    loader.dataset.first = 10
    loader._DataLoader__initialized = False
    loader._iterator = None
    numbers, others = loaded(loader)
    assert numbers == list(range(10, 16)) and not others & workers
    assert not loader.worker_is_gone()
    psutil.Process(others.pop()).suspend()  # it will not end by itself
    loader.close()
    assert not any(map(psutil.pid_exists, workers | others))


def test_no_workers():
    settings = {"samples_per_gpu": 2, "workers_per_gpu": 0, "persistent_workers": True}
    loader = Loader("numbers", Numbers(), settings, hang_timeout=60)
    loader.take_share(dist=False, shuffle=False)
    assert loaded(loader) == (list(range(6)), {os.getpid()})


def test_nothing_stands_between_the_decision_to_end_and_the_end():
    """The last words go to a pipe that is full, or that nobody reads."""
    for reads in (True, False):
        reader, writer = os.pipe()
        program = "from models_mm.distributed.liveness import exit_now\nprint(flush=True)\n"
        program += "exit_now(3, 'x' * 10**6)"
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer
        )
        os.close(writer)
        if not reads:
            os.close(reader)
        process.stdout.readline()  # all is imported
        assert process.wait(timeout=10) != 0
        if reads:
            os.close(reader)
