"""Messages for the user of a job of several processes: each is printed once, by rank 0."""

import functools
import os
import sys


def this_rank() -> int:
    """The rank of this process in the whole job, which the launchers' environment tells.

    It is known before the process group exists. Without a launcher it is 0.
    """
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    return int(rank) if rank.isdecimal() else 0


def say(message: str) -> None:
    """Print a message that all ranks have on stderr, once for the whole job."""
    if this_rank() == 0:
        print(message, file=sys.stderr)


@functools.cache
def say_once(message: str) -> None:
    """Call :func:`say` the first time that this process has the message, and do nothing later."""
    say(message)
