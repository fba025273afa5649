"""Real processes for the jobs of these tests, forked after the imports, which take seconds."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable


def run(function: Callable[[], None]) -> None:
    """Call a function in one process for each dictionary of environment variables in ``RANKS``.

    Exits with 1 as soon as one of them fails: the others may wait for it forever.
    """
    running = set()
    for environment in json.loads(os.environ["RANKS"]):
        pid = os.fork()
        if pid == 0:
            os.environ.update(environment)
            try:
                function()
                sys.stdout.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        running.add(pid)
    while running:
        pid, status = os.wait()
        running.remove(pid)
        if status != 0:
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)
