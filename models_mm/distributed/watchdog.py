"""Ends a job whose ranks wait for one that died or hangs, and names that rank and its host.

Every rank publishes its status once per second in a key-value store beside the process group: that
it is alive, and how far it is. Waits without a time limit, such as that for the evaluation of rank
0, go through the store too: the time limit of the process group does not apply to them.
"""

import faulthandler
import math
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait

import torch.distributed as dist

from models_mm.distributed import liveness, ranks

INTERVAL = 1.0  # seconds between two statuses of a rank
TIMEOUT = 1800.0  # seconds without progress, where the config does not say


@dataclass
class RankStatus:
    """The newest status of a rank, and when (on this rank's clock) it changed.

    Attributes:
        beat: changes with every status.
        steps: how often the rank has reported progress.
        paused: the rank does something that may take any time.
        activity: what the rank is doing, for messages.
        alive_at: when ``beat`` changed last.
        progress_at: when ``steps`` changed last, or the rank was paused.
    """

    beat: str
    steps: int
    paused: bool
    activity: str
    alive_at: float
    progress_at: float


class Watchdog:
    """Publishes the status of this rank, and watches those of all ranks.

    Args:
        timeout: seconds without progress after which a rank counts as lost.
    """

    def __init__(self, timeout: float):
        self.rank, self.world_size = ranks.rank_and_world_size()
        self.timeout = timeout
        self.steps = self.barriers = 0
        self.activity = "starting"
        self.pauses = 1  # until the first step
        self.ended = threading.Event()
        address = os.environ["MASTER_ADDR"]
        patience = timedelta(seconds=max(timeout, 30))
        if self.rank == 0:
            self.store = dist.TCPStore(address, 0, is_master=True, timeout=patience)
        port = ranks.from_rank_0(self.store.port if self.rank == 0 else 0)
        if self.rank != 0:
            self.store = dist.TCPStore(address, port, is_master=False, timeout=patience)
        self.hosts = ranks.gather(socket.gethostname())
        self._require_neighbours()
        now = time.monotonic()
        first = RankStatus("", 0, True, "starting", now, now)
        self.statuses = [first for _ in range(self.world_size)]
        self._publish(0)
        dist.barrier()
        self.contact = time.monotonic()
        for task in (self._exchange, self._watch):
            liveness.in_background(task, "watchdog")

    def _require_neighbours(self) -> None:
        """End soon after the process of another rank of this machine has ended: launchers do not
        always end the others in time, and a process that waits for that one would never end."""
        self.neighbours: dict[int, int] = {}  # by rank: a file descriptor for its process
        here = [ranks.machine(), os.getpid()]
        for rank, (machine, process) in enumerate(ranks.gather(here)):
            if rank != self.rank and machine == here[0] is not None:
                with suppress(OSError):
                    self.neighbours[rank] = os.pidfd_open(process)
                    liveness.require(self.name(rank), partial(self.has_ended, rank))

    def has_ended(self, rank: int) -> bool:
        """Whether the process of a rank of this machine has ended."""
        return bool(wait([self.neighbours[rank]], timeout=0))

    def name(self, rank: int) -> str:
        """What messages call a rank."""
        return f"rank {rank} (host {self.hosts[rank]})"

    def _publish(self, beat: int) -> None:
        """Publish the status of this rank."""
        status = f"{beat} {self.steps} {self.pauses} {self.activity}"
        self.store.set(f"rank {self.rank}", status)

    def _exchange(self) -> None:
        """Publish and read statuses; a suspended rank 0 blocks this thread, and no other."""
        beat = 0
        while not self.ended.wait(INTERVAL):
            beat += 1
            try:
                self._publish(beat)
                self._read_statuses()
            except (RuntimeError, ValueError):  # rank 0, which keeps the store, is gone
                self.contact = -math.inf
                return
            self.contact = time.monotonic()

    def _read_statuses(self) -> None:
        """Read the statuses of all ranks."""
        for rank, before in enumerate(self.statuses):
            now = time.monotonic()
            beat, steps, pauses, activity = self.store.get(f"rank {rank}").decode().split(" ", 3)
            idle = int(steps) == before.steps and pauses == "0"
            self.statuses[rank] = RankStatus(
                beat,
                int(steps),
                pauses != "0",
                activity,
                alive_at=before.alive_at if beat == before.beat else now,
                progress_at=before.progress_at if idle else now,
            )

    def _watch(self) -> None:
        """End this process, with a message, when a rank is lost; runs in a thread."""
        while not self.ended.wait(INTERVAL):
            if time.monotonic() - self.contact > self.timeout:
                if self.ended.wait(2 * INTERVAL):
                    return
                lost, speaker, why = [0], 1, "does not answer any more"
            else:
                lost = self.lost(self.timeout)
                living = set(range(self.world_size)) - set(self.silent(self.timeout))
                speaker = min(living, default=0)
                why = f"made no progress for {self.timeout:.0f} s (faults.hang_timeout)"
            if lost:
                liveness.exit_within(5 + liveness.LAST_WORDS)
                if self.rank in lost:
                    # now: the launcher kills this process as soon as another one has ended
                    faulthandler.dump_traceback()
                self.ended.wait(1 if speaker == self.rank else 5)
                self._end(lost, why)

    def silent(self, seconds: float) -> list[int]:
        """The ranks that have published no status for some time."""
        now = time.monotonic()
        return [r for r, status in enumerate(self.statuses) if now - status.alive_at > seconds]

    def lost(self, seconds: float) -> list[int]:
        """The ranks that the others wait for: those furthest behind when one makes no progress.

        A rank that waits in a collective is at the same step as the one that hangs, and its status
        may have arrived a little earlier: both are named.
        """
        silent = self.silent(seconds)
        if silent or not self._idle(seconds):
            return silent
        idle = self._idle(seconds / 2)
        least = min(self.statuses[rank].steps for rank in idle)
        return [rank for rank in idle if self.statuses[rank].steps == least]

    def _idle(self, seconds: float) -> list[int]:
        """The ranks that have made no progress for some time."""
        now = time.monotonic()
        return [r for r, status in enumerate(self.statuses) if now - status.progress_at > seconds]

    def _end(self, lost: list[int], why: str) -> None:
        """Name the ranks that are lost, and end this process."""
        liveness.exit_now(
            1,
            *(
                f"error: {self.name(rank)} {why}, last seen {self.statuses[rank].activity}; "
                "the job is over"
                for rank in lost
            ),
        )

    def explain(self, seconds: float = 5.0) -> str | None:
        """Say which ranks are gone, after communication has failed.

        Args:
            seconds: how long a rank of another machine must be silent to count as gone.

        Returns:
            A sentence; ``None`` if no rank is gone.
        """
        elsewhere = len(self.neighbours) < self.world_size - 1
        limit = time.monotonic() + (seconds + 1 if elsewhere else 2)
        while time.monotonic() < limit:
            silent = [0] if time.monotonic() - self.contact > seconds else self.silent(seconds)
            gone = [rank for rank in self.neighbours if self.has_ended(rank)]
            gone += [rank for rank in silent if rank not in self.neighbours and rank != self.rank]
            if gone:
                # a launcher checks five times per second, and is to find the dead rank first
                time.sleep(1)
                return " and ".join(map(self.name, gone)) + " is gone"
            time.sleep(0.2)
        return None

    def wait_for_all(self, place: str, seconds: float = math.inf) -> None:
        """Wait until every rank has set its key of a place."""
        keys = [f"{place} {rank}" for rank in range(self.world_size)]
        limit = time.monotonic() + seconds
        while not self.store.check(keys) and time.monotonic() < limit:
            time.sleep(0.1)


_current: Watchdog | None = None


def timeout_of(cfg: dict) -> float:
    """``faults.hang_timeout`` of a config, in seconds."""
    return cfg.get("faults", {}).get("hang_timeout", TIMEOUT)


def start(cfg: dict) -> None:
    """Start to watch, in a distributed job; every rank calls it."""
    global _current
    if ranks.rank_and_world_size()[1] > 1:
        _current = Watchdog(timeout_of(cfg))


def stop() -> None:
    """Stop to watch: the work is done, and ranks may end at different times."""
    global _current
    if _current is not None:
        barrier("the end")
        _current.ended.set()
        for rank in _current.neighbours:
            liveness.release(_current.name(rank))
        # No rank ends before all know that this is the end. Rank 0 keeps the store: it ends last,
        # because torch prints a stack in processes whose store is gone.
        with suppress(RuntimeError):
            _current.store.set(f"left {_current.rank}", "1")
            _current.wait_for_all("left", seconds=10)
            _current.store.set(f"done {_current.rank}", "1")
            if _current.rank == 0:
                _current.wait_for_all("done", seconds=10)
        _current = None


def report_progress(activity: str) -> None:
    """Report that this rank has made progress.

    Args:
        activity: where it is now, for messages, as in "last seen after iteration 7".
    """
    if _current is not None:
        _current.steps += 1
        _current.activity = activity
        if _current.pauses and _current.steps == 1:
            _current.pauses = 0


@contextmanager
def paused(activity: str):
    """Do something that may take any time on this rank."""
    if _current is None:
        yield
        return
    before, _current.activity = _current.activity, activity
    _current.pauses += 1
    try:
        yield
    finally:
        if _current is not None:
            _current.pauses -= 1
            _current.steps += 1
            _current.activity = before


def barrier(place: str) -> None:
    """Wait until all ranks are here, however long it takes; all pass the same barriers in order."""
    if _current is None:
        return
    _current.barriers += 1
    place = f"{place} ({_current.barriers})"
    with paused(f"waiting for {place}"):
        _current.store.set(f"{place} {_current.rank}", "1")
        _current.wait_for_all(place)


def explain_lost() -> str | None:
    """Which rank is gone, if one is, after an error in talking to other ranks."""
    return None if _current is None else _current.explain()
