"""No process of a job outlives one that it needs, and nothing keeps a process from ending.

A rank needs its data workers, its launcher and the other ranks of its machine (lost machines are
:mod:`models_mm.distributed.watchdog`'s). The main thread often notices such a loss by itself and
can say more about it; but it may also wait, for minutes, for something that will not come. A
thread looks once per second.
"""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass

TICK = 1.0  # seconds between two looks
GRACE = 4.0  # seconds that the main thread has to say it better
LAST_WORDS = 2.0  # seconds for what is printed at the end

_nowhere = open(os.devnull, "w")  # noqa: SIM115 - kept open for a moment with no file to spare
_needed: dict[str, Callable[[], bool]] = {}
_wait: "Wait | None" = None
_begun = _leaving = False


def exit_within(seconds: float) -> None:
    """Exit with 1 when this time is over, whatever this process is doing then.

    This needs neither Python's lock nor a stream, both of which a thread can keep for ever: that of
    a pipe, for example, that nobody reads any more.
    """
    global _leaving
    _leaving = True
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere)


def leave(code: int, *lines: str) -> None:
    """Print, then exit without destructors: other ranks may hang in a collective that will not
    complete, data workers in their queues. The workers end with this process."""
    exit_within(LAST_WORDS)
    try:
        for line in lines:
            print(line, file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # its reader may be gone
                stream.flush()
    finally:
        os._exit(code)


def end_with_parent(parent: int) -> None:
    """Make this process end when its parent ends, which may already have happened.

    Args:
        parent: process id.
    """
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    else:
        threading.Thread(target=_wait_for_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(TICK)
    os._exit(1)


def need(name: str, gone: Callable[[], bool]) -> None:
    """End this process soon after something that it needs is gone.

    Args:
        name: what messages call it.
        gone: asked once a second, by another thread.
    """
    _needed[name] = gone


def need_no_more(name: str) -> None:
    """The work with it is done."""
    _needed.pop(name, None)


def gone() -> list[str]:
    """What this process needs and has lost."""
    return [name for name, is_gone in list(_needed.items()) if is_gone()]


def begin() -> None:
    """Start to look; not before all data workers are there, since a fork copies no thread."""
    global _begun
    if not _begun:
        _begun = True
        in_background(_look, "liveness")


def in_background(duty: Callable[[], None], name: str) -> None:
    """Run something in a thread that the job depends on: should it fail, this process ends."""

    def run() -> None:
        try:
            duty()
        except BaseException as error:
            leave(1, f"error: {name}: {type(error).__name__}: {error}; the job is over")

    threading.Thread(target=run, name=name, daemon=True).start()


@dataclass
class Wait:
    """Something that the main thread waits for."""

    looks: float  # that are left; a suspended process does not look
    late: Callable[[], str]


@contextmanager
def within(seconds: float, late: Callable[[], str]):
    """End this process if what is inside takes longer.

    Args:
        seconds: of which those do not count in which this process is suspended.
        late: says then what has not come.
    """
    global _wait
    _wait = Wait(seconds / TICK, late)
    try:
        yield
    finally:
        _wait = None


def _look() -> None:
    while True:
        time.sleep(TICK)
        lost = gone()
        if lost:
            time.sleep(GRACE)
        wait = _wait
        if wait is not None:
            wait.looks -= 1
        if _leaving:
            return
        if lost:
            leave(1, f"error: {' and '.join(lost)} is gone; the job is over")
        if wait is not None and wait.looks < 0:
            leave(1, f"error: {wait.late()}; the job is over")
