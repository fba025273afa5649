"""SIGTERM and SIGUSR1: end after this iteration, with a checkpoint; a second one ends at once."""

import ctypes
import os
import signal
import sys
import threading
import time

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with --auto-resume goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler and a launcher may both pass the same signal on: within this time it is one.
SAME_SIGNAL_SECONDS = 1.0
# Names a file that the ranks make when they end for this reason (tools/launch.py)
MARKER = "MODELS_MM_PREEMPTED"

_first: float | None = None
_listening = False


def requested() -> bool:
    """Whether this process has been asked to end."""
    return _first is not None


def listen() -> None:
    """Take both signals from now on, even while the main thread waits for other ranks."""
    global _listening
    if _listening:
        return
    _listening = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        signal.signal(number, _noted)
    # Python runs handlers between two steps of the main thread, which may hang; this is immediate
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, os.getpid()), daemon=True).start()


def live_with_parent() -> None:
    """In a data worker: leave signals to the process that it works for, and do not outlive it."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # a worker whose parent was killed can wait for ever to hand over its last batch
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


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


def _watch(reader: int, process: int) -> None:
    global _first
    while True:
        number = os.read(reader, 1)[0]
        if number not in SIGNALS or os.getpid() != process:
            continue
        name = signal.Signals(number).name
        now = time.monotonic()
        if _first is None:
            _first = now
            print(f"{name}: ending after this iteration, with a checkpoint", file=sys.stderr)
        elif now - _first > SAME_SIGNAL_SECONDS:
            print(f"{name} again: ending at once, without a checkpoint", file=sys.stderr)
            sys.stderr.flush()
            os._exit(128 + number)
