"""Ends a job whose ranks wait for one that died or hangs, and says which one on which host.

Every rank tells the others each second that it lives and how far it is, through a key-value store
beside the process group. Waits that have no limit of their own, such as that for the evaluation,
go through the store too: the process group's timeout does not apply to them.
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
from mmcv.runner import get_dist_info

from models_mm.distributed import liveness, ranks

TICK = 1.0  # seconds
TIMEOUT = 1800.0  # seconds, where the config does not say


@dataclass
class Heard:
    """What a rank has said last, and when (on this rank's clock) that changed."""

    tick: str
    steps: int
    paused: bool
    doing: str
    ticked: float
    stepped: float


class Watchdog:
    """What this rank knows of all.

    Args:
        timeout: seconds without progress after which a rank is taken for lost.
    """

    def __init__(self, timeout: float):
        self.rank, self.world = get_dist_info()
        self.timeout = timeout
        self.steps = self.meetings = 0
        self.doing = "starting"
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
        self._need_neighbours()
        now = time.monotonic()
        self.heard = [Heard("", 0, True, "starting", now, now) for _ in range(self.world)]
        self._tick(0)
        dist.barrier()
        self.contact = time.monotonic()
        for duty in (self._talk, self._watch):
            liveness.in_background(duty, "watchdog")

    def _need_neighbours(self) -> None:
        """End soon after the process of another rank of this machine has ended: launchers do not
        always see to that in time, and a process that waits for the other one would never do it."""
        self.neighbours: dict[int, int] = {}  # rank: a file descriptor for its process
        here = [ranks.machine(), os.getpid()]
        for rank, (machine, process) in enumerate(ranks.gather(here)):
            if rank != self.rank and machine == here[0] is not None:
                with suppress(OSError):
                    self.neighbours[rank] = os.pidfd_open(process)
                    liveness.need(self.name(rank), partial(self.has_ended, rank))

    def has_ended(self, rank: int) -> bool:
        """Whether the process of a rank of this machine is gone."""
        return bool(wait([self.neighbours[rank]], timeout=0))

    def name(self, rank: int) -> str:
        """A rank as messages call it."""
        return f"rank {rank} (host {self.hosts[rank]})"

    def _tick(self, number: int) -> None:
        word = f"{number} {self.steps} {self.pauses} {self.doing}"
        self.store.set(f"rank {self.rank}", word)

    def _talk(self) -> None:
        """Tell and listen; a rank 0 that is stopped blocks this thread, and no other."""
        number = 0
        while not self.ended.wait(TICK):
            number += 1
            try:
                self._tick(number)
                self.listen()
            except (RuntimeError, ValueError):  # rank 0, which keeps the store, is gone
                self.contact = -math.inf
                return
            self.contact = time.monotonic()

    def _watch(self) -> None:
        while not self.ended.wait(TICK):
            if time.monotonic() - self.contact > self.timeout:
                if self.ended.wait(2 * TICK):
                    return
                lost, speaker, why = [0], 1, "does not answer any more"
            else:
                lost = self.lost(self.timeout)
                speaker = min(set(range(self.world)) - set(self.dead(self.timeout)), default=0)
                why = f"made no progress for {self.timeout:.0f} s (faults.hang_timeout)"
            if lost:
                liveness.exit_within(5 + liveness.LAST_WORDS)
                if self.rank in lost:
                    # now: the launcher kills this process as soon as another one has ended
                    faulthandler.dump_traceback()
                self.ended.wait(1 if speaker == self.rank else 5)
                self.end(lost, why)

    def listen(self) -> None:
        """Hear what all ranks say."""
        for rank, before in enumerate(self.heard):
            now = time.monotonic()
            tick, steps, pauses, doing = self.store.get(f"rank {rank}").decode().split(" ", 3)
            still = int(steps) == before.steps and pauses == "0"
            self.heard[rank] = Heard(
                tick,
                int(steps),
                pauses != "0",
                doing,
                ticked=before.ticked if tick == before.tick else now,
                stepped=before.stepped if still else now,
            )

    def dead(self, seconds: float) -> list[int]:
        """Ranks whose process has not been heard of for some time."""
        now = time.monotonic()
        return [rank for rank, heard in enumerate(self.heard) if now - heard.ticked > seconds]

    def lost(self, seconds: float) -> list[int]:
        """The ranks that the others wait for: those furthest behind when one stands still.

        One that waits in a collective stands at the same step as the one that hangs, and may have
        been heard a little earlier: both are named.
        """
        dead = self.dead(seconds)
        if dead or not self._still(seconds):
            return dead
        still = self._still(seconds / 2)
        least = min(self.heard[rank].steps for rank in still)
        return [rank for rank in still if self.heard[rank].steps == least]

    def _still(self, seconds: float) -> list[int]:
        """Ranks that have not got further for some time."""
        now = time.monotonic()
        return [rank for rank, heard in enumerate(self.heard) if now - heard.stepped > seconds]

    def end(self, lost: list[int], why: str) -> None:
        """Say who is lost, and end this process."""
        liveness.leave(
            1,
            *(
                f"error: {self.name(rank)} {why}, last seen {self.heard[rank].doing}; "
                "the job is over"
                for rank in lost
            ),
        )

    def explain(self, seconds: float = 5.0) -> str | None:
        """Who is gone, when talking to the others has failed; waits until it shows, if it does."""
        elsewhere = len(self.neighbours) < self.world - 1
        limit = time.monotonic() + (seconds + 1 if elsewhere else 2)
        while time.monotonic() < limit:
            silent = [0] if time.monotonic() - self.contact > seconds else self.dead(seconds)
            gone = [rank for rank in self.neighbours if self.has_ended(rank)]
            gone += [rank for rank in silent if rank not in self.neighbours and rank != self.rank]
            if gone:
                time.sleep(1)  # a launcher looks five times a second, and is to find that one first
                return " and ".join(map(self.name, gone)) + " is gone"
            time.sleep(0.2)
        return None


_current: Watchdog | None = None


def timeout_of(cfg: dict) -> float:
    """What a config sets."""
    return cfg.get("faults", {}).get("hang_timeout", TIMEOUT)


def start(cfg: dict) -> None:
    """Begin to watch, in a distributed job; every rank calls it."""
    global _current
    if dist.is_initialized() and get_dist_info()[1] > 1:
        _current = Watchdog(timeout_of(cfg))


def stop() -> None:
    """The work is done: ranks may leave at different times."""
    global _current
    if _current is not None:
        meet("the end")
        _current.ended.set()
        for rank in _current.neighbours:
            liveness.need_no_more(_current.name(rank))
        _current.store.set(f"left {_current.rank}", "1")
        # none ends before all know that this is the end; rank 0, which keeps the store, is the last
        with suppress(RuntimeError):
            _wait(_current, "left", range(_current.world), seconds=10)
        _current = None


def step(doing: str) -> None:
    """This rank has got further."""
    if _current is not None:
        _current.steps += 1
        _current.doing = doing
        if _current.pauses and _current.steps == 1:
            _current.pauses = 0


@contextmanager
def paused(doing: str):
    """Something that may take any time, on this rank."""
    if _current is None:
        yield
        return
    before, _current.doing = _current.doing, doing
    _current.pauses += 1
    try:
        yield
    finally:
        if _current is not None:
            _current.pauses -= 1
            _current.steps += 1
            _current.doing = before


def meet(place: str) -> None:
    """Wait until all ranks are here, however long it takes; they meet in the same order."""
    if _current is None:
        return
    _current.meetings += 1
    place = f"{place} ({_current.meetings})"
    with paused(f"waiting for {place}"):
        _current.store.set(f"{place} {_current.rank}", "1")
        _wait(_current, place, range(_current.world))


def _wait(watchdog: Watchdog, place: str, who: range, seconds: float = math.inf) -> None:
    keys = [f"{place} {rank}" for rank in who]
    limit = time.monotonic() + seconds
    while not watchdog.store.check(keys) and time.monotonic() < limit:
        time.sleep(0.1)


def explain_lost() -> str | None:
    """Which rank is gone, if one is, after an error in talking to other ranks."""
    return None if _current is None else _current.explain()
