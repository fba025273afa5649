"""A training in two processes, killed again and again.

``kills_job.py WORK_DIR KILLS SEED LAUNCHED ARGUMENTS``: the arguments of train.py; LAUNCHED is
``fork`` (after the imports, which take longer than the training) or ``launcher``
(``dist_train.sh``, as users start it). A line for each kill says who was killed when; a line with
"wrong:" what went wrong. The last round is left alone until the training is over.
"""

import models_mm  # isort: skip  # noqa: F401

import ctypes
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from models_mm.cli import train
from models_mm.cli.command import run
from models_mm.mmdet2 import training  # noqa: F401 (imported before the forks)

ROOT = Path(__file__).resolve().parents[2]
WHO = ("all", "rank 0", "rank 1", "worker", "launcher")
WHEN = ("any moment", "any moment", "starting", "writing", "evaluating")
GONE_WITHIN = 10.0  # seconds after the first process's end
HANGS_AFTER = 180.0  # seconds in which nothing is printed
ITERATION = re.compile(r"(?:Epoch|Iter) \[\S+")
EVALUATION = re.compile(r"predicting \d+ images\s*\Z")


class Round:
    """One start of the training, until it ends or is killed.

    Args:
        work: the work dir; what the ranks print goes to ``output.txt`` there.
        launched: ``"fork"`` or ``"launcher"``.
        arguments: of ``train.py``.
    """

    def __init__(self, work: str, launched: str, arguments: list[str]):
        self.work = Path(work)
        self.log = self.work / "output.txt"
        self.log.touch()
        self.seen = self.log.stat().st_size
        self.launched = launched == "launcher"
        self.codes: dict[int, int] = {}
        if self.launched:
            self.children = [self.launch(arguments)]
        else:
            port = free_port()
            self.children = [self.fork(rank, port, arguments) for rank in range(2)]

    def launch(self, arguments: list[str]) -> int:
        command = ["bash", str(ROOT / "dist_train.sh"), arguments[0], "2", *arguments[1:]]
        with self.log.open("a") as log:
            job = subprocess.Popen(
                command,
                env={**os.environ, "PYTHON": sys.executable},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return job.pid

    def fork(self, rank: int, port: int, arguments: list[str]) -> int:
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
        output = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        run(lambda: train.main([*arguments, "--launcher", "pytorch"]))
        os._exit(0)

    def said(self) -> str:
        """What this round has printed."""
        with self.log.open(errors="replace") as file:
            file.seek(self.seen)
            return file.read()

    def over(self) -> bool:
        """Whether the processes that were started have ended; collects those that have."""
        for pid in set(self.children) - set(self.codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.children)

    def finished(self) -> bool:
        """Whether the training is over as it should be."""
        return self.over() and not any(self.codes.values())

    def processes(self) -> dict[str, list[psutil.Process]]:
        """What could be killed, by the names in ``WHO``."""
        tops = [process for process in map(found, self.children) if process]
        ranks = tops
        if self.launched:
            ranks = [p for top in tops for p in top.children() if rank_of(p) is not None]
            ranks.sort(key=rank_of)
        workers = [worker for rank in ranks for worker in workers_of(rank)]
        named = {f"rank {i}": [rank] for i, rank in enumerate(ranks)}
        return {
            "all": [*tops, *ranks, *workers],
            **named,
            "worker": workers[:1] or ranks[-1:],
            "launcher": tops if self.launched else ranks[:1],
        }

    def has_met(self) -> bool:
        """Whether the ranks know of each other; before, only a launcher can miss one of them."""
        return "Random seed" in self.said()

    def wait_for(self, when: str, generator: random.Random) -> bool:
        """Wait until it is time to kill; whether the training still runs."""
        delay = generator.uniform(0, 0.1)
        if when == "starting":
            time.sleep(generator.uniform(0, 12 if self.launched else 4))
            return not self.over()
        iterations = generator.randint(1, 8)
        size, changed = self.seen, time.monotonic()
        while not self.over():
            said = self.said()
            if len(ITERATION.findall(said)) >= iterations:
                writes = when == "writing" and any(self.work.glob(".*.pth.*"))
                evaluates = when == "evaluating" and EVALUATION.search(said[-300:])
                if writes or evaluates or when == "any moment":
                    time.sleep(0 if writes else delay)
                    return not self.over()
            if self.seen + len(said) != size:
                size, changed = self.seen + len(said), time.monotonic()
            if time.monotonic() - changed > HANGS_AFTER:
                raise TimeoutError(f"nothing printed for {HANGS_AFTER:.0f} s")
            time.sleep(0.001 if when == "writing" else 0.005)
        return False

    def kill(self, who: str) -> None:
        """Send SIGKILL, then see that nothing is left."""
        while not (victims := self.processes().get(who)) and not self.over():
            time.sleep(0.02)  # the launcher has not started it yet
        for process in victims or ():
            with_luck(process.kill)
        limit = time.monotonic() + GONE_WITHIN + 2  # a loaded machine takes its time
        while not (gone := self.over() and not everybody()) and time.monotonic() < limit:
            time.sleep(0.02)
        if not gone:
            left = [" ".join(with_luck(process.cmdline) or [])[-80:] for process in everybody()]
            after = f"{GONE_WITHIN} s after the kill of {who}"
            print(f"wrong: {len(left)} processes left {after}: {left}; {self.said()[-500:]}")
            end_everybody()
        elif 0 in self.codes.values():
            print(f"wrong: exit codes {list(self.codes.values())}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def with_luck(call):
    """Ask about or kill a process that may just have ended."""
    try:
        return call()
    except psutil.Error:
        return None


def found(pid: int) -> psutil.Process | None:
    process = with_luck(lambda: psutil.Process(pid))
    return process if process and with_luck(process.status) != psutil.STATUS_ZOMBIE else None


def rank_of(process: psutil.Process) -> int | None:
    """The rank that a child of the launcher has; None for other children."""
    rank = (with_luck(process.environ) or {}).get("RANK")
    return None if rank is None else int(rank)


def workers_of(rank: psutil.Process) -> list[psutil.Process]:
    """The data workers of a rank, which were forked; not the commands that it runs when it starts,
    such as those that ask for the versions of compilers."""
    command = with_luck(rank.cmdline)
    children = with_luck(lambda: rank.children(recursive=True)) or []
    return [child for child in children if with_luck(child.cmdline) == command]


def everybody() -> list[psutil.Process]:
    """All processes that come from this one and live; collects those that have ended."""
    living = []
    for process in psutil.Process().children(recursive=True):
        if with_luck(process.status) != psutil.STATUS_ZOMBIE:
            living.append(process)
    return living


def end_everybody() -> None:
    for process in everybody():
        with_luck(process.kill)


def adopt_orphans() -> None:
    """Become the parent of processes whose own has died: they are found, whatever they do."""
    set_child_subreaper = 36  # of prctl(2)
    ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def finish(work: str, launched: str, arguments: list[str]) -> bool:
    """Let the training end; whether it did as it should."""
    last = Round(work, launched, arguments)
    limit = time.monotonic() + 4 * HANGS_AFTER
    while not last.over() and time.monotonic() < limit:
        time.sleep(0.02)
    if last.finished():
        return True
    print(f"wrong: the training ended with {last.codes}: {last.said()[-1500:]}")
    return False


def main() -> None:
    work, kills, seed, launched = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    generator = random.Random(seed)
    adopt_orphans()
    os.makedirs(work, exist_ok=True)
    config, *more = sys.argv[5:]
    arguments = [config, "--verbose", "--work-dir", work, *more]
    for _ in range(kills):
        who = generator.choice(WHO if launched == "launcher" else WHO[:-1])
        when = generator.choice(WHEN)
        this = Round(work, launched, arguments)
        try:
            running = this.wait_for(when, generator)
        except TimeoutError as error:
            print(f"wrong: hangs, {error}")
            end_everybody()
            continue
        if not running:
            if not this.finished():
                print(f"wrong: ended by itself with {this.codes}: {this.said()[-1500:]}")
            break
        if launched == "fork" and not this.has_met():
            who = "all"
        this.kill(who)
        print(f"killed {who}, {when}, after {len(ITERATION.findall(this.said()))}", flush=True)
    ended = finish(work, launched, arguments)
    end_everybody()
    sys.exit(0 if ended else 1)


if __name__ == "__main__":
    main()
