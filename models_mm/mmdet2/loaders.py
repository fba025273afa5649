"""Loaders whose data workers start once, before everything that a fork could disturb.

A fork copies one thread and the locks of all. While a process group works, its threads take locks
of the interpreter, and a data worker that is forked in such a moment hangs before its first line.
So the workers of all loaders start first, before the process group and before every thread, and
live as long as the process. Which images this process loads depends on its rank, which only the
process group knows: :meth:`Loader.take_share` sets it later.
"""

import faulthandler
import os
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait

import torch
import torch.distributed as dist
from mmdet.datasets import build_dataloader
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils.pin_memory import pin_memory

from models_mm.distributed import liveness, signals

# A batch is late after this many times the longest wait among the last thousand batches,
LATE_FACTOR = 20
# but not before this many seconds: file servers pause.
LATE_SECONDS = 120.0

# Settings of PyTorch's loader that it refuses, or falls over, where it has no workers.
OF_WORKERS = ("timeout", "prefetch_factor", "multiprocessing_context")


@dataclass
class WorkerStart:
    """What a data worker does first: leave the job's signals to its process, and end with it."""

    parent: int

    def __call__(self, worker: int) -> None:
        signals.ignore()
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        liveness.end_with_parent(self.parent)


class LateBatchSampler(Sampler):
    """A batch sampler whose batches of indices are set after it is made; until then it has none."""

    def __init__(self):
        self.batches = ()

    def __iter__(self) -> Iterator:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader(DataLoader):
    """mmdet's loader, with data workers that have started when it is made.

    Args:
        name: what messages call its data.
        dataset: what is loaded.
        settings: mmdet's and torch's, of the config (``data.train_dataloader``, ...).
        hang_timeout: seconds after which a batch is late, however long the others took.
    """

    def __init__(self, name: str, dataset: Dataset, settings: dict, hang_timeout: float):
        # our data workers always persist; of mmdet's own loader only the samplers are used
        self.settings = {**settings, "persistent_workers": False}
        if not settings["workers_per_gpu"]:  # what is said of workers waits for some
            self.settings = {k: v for k, v in self.settings.items() if k not in OF_WORKERS}
        plain = self._mmdet_loader(dataset, dist=False, shuffle=False, class_aware_sampler=None)
        super().__init__(
            dataset,
            batch_sampler=LateBatchSampler(),
            num_workers=plain.num_workers,
            collate_fn=plain.collate_fn,
            timeout=plain.timeout,
            worker_init_fn=WorkerStart(os.getpid()),
            multiprocessing_context=plain.multiprocessing_context,
            # of its own: starting to load is not to change what the model draws
            generator=torch.Generator().manual_seed(0),
            prefetch_factor=plain.prefetch_factor,
            persistent_workers=plain.num_workers > 0,
        )
        # not in torch's thread, which would be there when the next loader forks
        self.pinned = plain.pin_memory
        self.name = name
        self.hang_timeout = hang_timeout
        self.waits: deque[float] = deque(maxlen=1000)
        self.end_workers: Callable[[], object] = lambda: None  # there are none yet
        if self.num_workers:
            super().__iter__()
            this = weakref.ref(self)  # a loader that nobody uses any more ends its workers
            liveness.require(
                f"a data worker of {name}", lambda: this() is not None and this().worker_is_gone()
            )

    def _mmdet_loader(self, dataset: Dataset, **settings) -> DataLoader:
        """mmdet's own loader, as far as it knows the processes now."""
        return build_dataloader(dataset, **{**self.settings, **settings})

    def take_share(self, wrap: Callable = lambda batches: batches, **settings) -> None:
        """Load this process's share from now on; the process group must be there.

        Args:
            wrap: turns mmdet's batches of indices into those that are loaded.
            settings: of mmdet's loader, that decide on the batches.
        """
        own = self._mmdet_loader(self.dataset, **settings).batch_sampler
        self.samples_per_gpu: int = own.batch_size
        self.batches = wrap(own)
        self.batch_sampler.batches = self.batches

    def _get_iterator(self):
        if self.num_workers and dist.is_initialized():
            # A hook starts the workers anew, as mmdet's YOLOXModeSwitchHook does. Like mmcv between
            # its epochs: after this time no collective is left that a thread could be busy with.
            time.sleep(2)
        iterator = super()._get_iterator()
        if self.num_workers:
            self.end_workers()  # those before, which a hook has dropped
            # when the loader is no longer used, after an error too, and at the latest at the exit
            self.end_workers = weakref.finalize(self, end_workers, iterator)
        return iterator

    def __iter__(self) -> Iterator:
        with liveness.time_limit(self.patience(), self.late):
            batches = super().__iter__()  # the workers answer that they begin anew
        while True:
            begun = time.monotonic()
            with liveness.time_limit(self.patience(), self.late):
                batch = next(batches, None)
            self.waits.append(time.monotonic() - begun)
            if batch is None:
                return
            yield pin_memory(batch) if self.pinned and torch.cuda.is_available() else batch

    def patience(self) -> float:
        """Seconds after which a batch is late; of the first one nothing is known."""
        if not self.waits:
            return max(LATE_SECONDS, self.hang_timeout)
        return min(self.hang_timeout, max(LATE_SECONDS, LATE_FACTOR * max(self.waits)))

    def late(self) -> str:
        """Let the data workers print where they stand; returns what has not come."""
        for worker in self._iterator._workers if self.num_workers else ():
            with suppress(OSError):
                os.kill(worker.pid, signal.SIGUSR2)
        time.sleep(1)
        usual = f" (the slowest before took {max(self.waits):.1f} s)" if self.waits else ""
        return f"no batch of {self.name} has come for {self.patience():.0f} s{usual}"

    def worker_is_gone(self) -> bool:
        """Whether one has ended that has not been asked to."""
        iterator = self._iterator
        if iterator is None or iterator._shutdown:
            return False
        return bool(wait([worker.sentinel for worker in iterator._workers], timeout=0))

    def close(self) -> None:
        """End the data workers."""
        liveness.release(f"a data worker of {self.name}")
        self._iterator = None
        self.end_workers()


def end_workers(iterator) -> None:
    """End the data workers of a loader's iterator. They ignore what Python's exit handler asks them
    with, and it would wait for them."""
    iterator._shutdown_workers()
    for worker in iterator._workers:
        worker.kill()
