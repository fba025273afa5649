"""A training in two processes, killed again and again: ``kills_job.py WORK_DIR KILLS OPTIONS``.

Prints for each round how it ended. Forked after the imports, which take longer than the training.
"""

import models_mm  # isort: skip  # noqa: F401

import math
import os
import random
import re
import signal
import socket
import sys
import time

from models_mm.engine import train
from models_mm.engine.cli import run


def start(rank: int, port: int, arguments: list[str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.setpgid(0, 0)  # with its data workers
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    run(lambda: train.main(arguments))
    os._exit(0)


def round_of(work: str, iterations: float, seconds: float, arguments: list[str]) -> bool:
    """Train for some iterations and seconds more, then kill; whether both ranks ended before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = os.path.join(work, "output.txt")
    wanted = len(logged(log)) + iterations
    processes = [start(rank, port, arguments, log) for rank in range(2)]
    ended, kill_at = {}, None
    while len(ended) < 2 and (kill_at is None or time.time() < kill_at):
        if kill_at is None and len(logged(log)) >= wanted:
            kill_at = time.time() + seconds
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ended[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for pid in set(processes) - set(ended):
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if any(ended.values()):
        sys.exit(f"a rank ended with {ended}: " + open(log).read()[-3000:])
    return len(ended) == 2


def logged(log: str) -> list[str]:
    """The iterations that have been logged."""
    if not os.path.exists(log):
        return []
    return re.findall(r"(?:Epoch|Iter) \[\S+", open(log).read())


def main() -> None:
    work, kills, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    generator = random.Random(0)
    os.makedirs(work, exist_ok=True)
    arguments = [*arguments[:1], "--work-dir", work, "--launcher", "pytorch", *arguments[1:]]
    for kill in range(kills):
        if kill % 5 == 4:  # while it starts
            iterations, seconds = 0, generator.uniform(0, 3)
        else:
            iterations, seconds = generator.randint(1, 8), generator.uniform(0, 0.1)
        if round_of(work, iterations, seconds, arguments):
            sys.exit(f"the training was over after {kill} kills")
        print(f"killed in {logged(os.path.join(work, 'output.txt'))[-1]}", flush=True)
    assert round_of(work, math.inf, 0, arguments)


if __name__ == "__main__":
    main()
