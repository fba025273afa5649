"""SIGTERM and SIGUSR1 stop a run after its iteration, with a checkpoint; a second one at once."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

from models_mm.distributed import liveness

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with --auto-resume goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler and a launcher may both pass the same signal on: within this time it counts as one.
SAME_SIGNAL_SECONDS = 1.0
# The environment variable with the name of a file that ranks create when they stop on request
MARKER = "MODELS_MM_PREEMPTED"

_first_at: float | None = None  # the time of the first signal
_handling = False
_reader: int | None = None  # end of the pipe that Python writes the numbers of signals to


def stop_requested() -> bool:
    """Whether this process has been asked to stop."""
    return _first_at is not None


def listen() -> None:
    """Keep both signals from ending this process, and remember them, from now on."""
    global _reader
    if _reader is not None:
        return
    _reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        signal.signal(number, _do_nothing)
    # Python runs handlers between two steps of the main thread, which may hang; this is immediate
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


def start_handling() -> None:
    """Act on the signals, also on earlier ones, even while the main thread waits for other ranks.

    This starts a thread: the data workers must have been forked before.
    """
    global _handling
    if not _handling:
        _handling = True
        liveness.in_background(_handle, "signals")


def ignore() -> None:
    """In a data worker: leave both signals to the process that it works for."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_code(rank: int) -> int:
    """The exit code of a rank that stops on request, after all ranks have agreed to.

    The job's exit code is that of rank 0. Launchers kill the other ranks as soon as one ends with
    anything but 0, and torchrun restarts them.
    """
    marker = os.environ.get(MARKER)
    if marker:  # the launcher exits with the code itself (cli/launch.py)
        open(marker, "w").close()
        return 0
    if rank > 0:
        return 0
    time.sleep(1)  # until the others have ended
    return EXIT_CODE


def _do_nothing(number: int, frame) -> None:
    """The handler, which keeps Python from ending; :func:`_handle` does the rest."""


def _print(message: str) -> None:
    with suppress(OSError):  # its reader may be gone
        print(message, file=sys.stderr)


def _handle() -> None:
    """Wait for signals; runs in a thread."""
    global _first_at
    while True:
        number = os.read(_reader, 1)[0]
        if number not in SIGNALS:
            continue
        name = signal.Signals(number).name
        now = time.monotonic()
        if _first_at is None:
            _first_at = now
            message = f"{name}: ending after this iteration, with a checkpoint"
            # a pipe that nobody reads would keep this thread from a second signal
            threading.Thread(target=_print, args=(message,), daemon=True).start()
        elif now - _first_at > SAME_SIGNAL_SECONDS:
            liveness.exit_now(128 + number, f"{name} again: ending at once, without a checkpoint")
