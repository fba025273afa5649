"""A process of a job ends when another process that it needs is gone, and nothing prevents its end.

A rank needs its data workers, its launcher and the other ranks of its machine (other machines are
watched by :mod:`models_mm.distributed.watchdog`). The main thread often notices such a loss itself
and can say more about it; but it may also wait, for minutes, for something that will not come.
Therefore a thread checks twice per second.
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

CHECK_SECONDS = 0.5  # between two checks
GRACE_SECONDS = 3.0  # for the main thread, which may have a better message
LAST_WORDS = 2.0  # seconds for what is printed at the end

_nowhere = open(os.devnull, "w")  # noqa: SIM115 - stays open: at the end no file may be left to open
_required: dict[str, Callable[[], bool]] = {}
_limit: "TimeLimit | None" = None
_started = _exiting = False


def exit_within(seconds: float) -> None:
    """Exit with 1 when this time is over, whatever this process is doing then.

    This needs neither Python's lock nor a stream, which a thread can hold for ever: for example
    the stream of a pipe that nobody reads any more.
    """
    global _exiting
    _exiting = True
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere)


def exit_now(code: int, *lines: str) -> None:
    """Print lines on stderr, then exit without destructors, which may wait for ever: other ranks
    hang in collectives, data workers in their queues. The data workers end with this process."""
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
        time.sleep(CHECK_SECONDS)
    os._exit(1)


def require(name: str, is_gone: Callable[[], bool]) -> None:
    """End this process soon after something that it needs is gone.

    Args:
        name: what messages call it.
        is_gone: called twice per second, by another thread.
    """
    _required[name] = is_gone


def release(name: str) -> None:
    """Stop requiring something: the work with it is done."""
    _required.pop(name, None)


def lost() -> list[str]:
    """The names of what this process requires and has lost."""
    return [name for name, is_gone in list(_required.items()) if is_gone()]


def start() -> None:
    """Start to check; not before all data workers exist, since a fork does not copy threads."""
    global _started
    if not _started:
        _started = True
        in_background(_check, "liveness")


def in_background(task: Callable[[], None], name: str) -> None:
    """Run a task in a thread that the job depends on: if the task fails, this process ends."""

    def run() -> None:
        try:
            task()
        except BaseException as error:
            exit_now(1, f"error: {name}: {type(error).__name__}: {error}; the job is over")

    threading.Thread(target=run, name=name, daemon=True).start()


@dataclass
class TimeLimit:
    """A limit on what the main thread is waiting for.

    Attributes:
        checks: number of checks that are left; a suspended process makes none.
        describe: says what has not come in time.
    """

    checks: float
    describe: Callable[[], str]


@contextmanager
def time_limit(seconds: float, describe: Callable[[], str]):
    """End this process if what is inside takes longer.

    Args:
        seconds: time while this process is suspended does not count.
        describe: says what has not come in time.
    """
    global _limit
    _limit = TimeLimit(seconds / CHECK_SECONDS, describe)
    try:
        yield
    finally:
        _limit = None


def _check() -> None:
    """Check twice per second; runs in a thread."""
    while True:
        time.sleep(CHECK_SECONDS)
        missing = lost()
        if missing:
            time.sleep(GRACE_SECONDS)
        limit = _limit
        if limit is not None:
            limit.checks -= 1
        if _exiting:
            return
        if missing:
            exit_now(1, f"error: {' and '.join(missing)} is gone; the job is over")
        if limit is not None and limit.checks < 0:
            exit_now(1, f"error: {limit.describe()}; the job is over")
