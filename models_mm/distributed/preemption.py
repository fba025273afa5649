"""SIGTERM and SIGUSR1: end after this iteration, with a checkpoint; a second one ends at once."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

from models_mm.distributed import liveness

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with --auto-resume goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler and a launcher may both pass the same signal on: within this time it is one.
SAME_SIGNAL_SECONDS = 1.0
# Names a file that the ranks make when they end for this reason (tools/launch.py)
MARKER = "MODELS_MM_PREEMPTED"

_first: float | None = None
_obeying = False
_reader: int | None = None  # of the pipe that Python writes the numbers of signals to


def requested() -> bool:
    """Whether this process has been asked to end."""
    return _first is not None


def listen() -> None:
    """Take note of both signals from now on."""
    global _reader
    if _reader is not None:
        return
    _reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        signal.signal(number, _noted)
    # Python runs handlers between two steps of the main thread, which may hang; this is immediate
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


def obey() -> None:
    """Act on them, also on those that have come, even while the main thread waits for other ranks.

    In a thread: the data workers have been forked before.
    """
    global _obeying
    if not _obeying:
        _obeying = True
        liveness.in_background(_watch, "signals")


def leave_to_parent() -> None:
    """In a data worker: leave both signals to the process that it works for."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_code(rank: int) -> int:
    """The code for a rank to end with, once all have met: that of the job is rank 0's.

    Launchers kill the others as soon as one ends with anything but 0, and torchrun starts again.
    """
    marker = os.environ.get(MARKER)
    if marker:  # tools/launch.py exits with the code itself
        open(marker, "w").close()
        return 0
    if rank > 0:
        return 0
    time.sleep(1)  # the others are gone
    return EXIT_CODE


def _noted(number: int, frame) -> None:
    """Keeps Python from dying of the signal; :func:`_watch` does the rest."""


def _say(message: str) -> None:
    with suppress(OSError):  # its reader may be gone
        print(message, file=sys.stderr)


def _watch() -> None:
    global _first
    while True:
        number = os.read(_reader, 1)[0]
        if number not in SIGNALS:
            continue
        name = signal.Signals(number).name
        now = time.monotonic()
        if _first is None:
            _first = now
            message = f"{name}: ending after this iteration, with a checkpoint"
            # a pipe that nobody reads would keep this thread from a second signal
            threading.Thread(target=_say, args=(message,), daemon=True).start()
        elif now - _first > SAME_SIGNAL_SECONDS:
            liveness.leave(128 + number, f"{name} again: ending at once, without a checkpoint")
