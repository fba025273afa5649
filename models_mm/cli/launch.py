"""Start a command in several processes with torchrun, and end with a failed rank's exit code.

    models_mm launch PROCESSES train CONFIG [options]
    models_mm launch PROCESSES test CONFIG CHECKPOINT [options]
    models_mm launch PROCESSES FILE.py [arguments]

The first two do what dist_train.sh and dist_test.sh do, which call the third. Environment:

NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1): the machines of the job;
PORT: where they meet (several machines: 29500; one machine: any free port);
MAX_RESTARTS (0): how often the job starts again after a rank failed, from its last checkpoint.

SIGTERM and SIGUSR1 go to all processes, which end after their iteration, with a checkpoint.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from models_mm.cli.command import Parser
from models_mm.distributed.signals import EXIT_CODE, MARKER

CROWD = 16  # processes per core; a larger number is taken for a mistake
# What the commands of several processes get, as from dist_train.sh and dist_test.sh.
OPTIONS = {
    "train": ["--default-seed", "0", "--launcher", "pytorch"],
    "test": ["--launcher", "pytorch"],
}


def main(argv: list[str] | None = None) -> None:
    """Run the job; the exit code is that of the rank that failed first (128 + signal)."""
    parser = Parser(description=__doc__)
    parser.add_argument("processes", help="number of processes on this machine, one per GPU")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command and its arguments")
    args = parser.parse_args(argv)
    sys.exit(run_job(args.processes, args.command))


def run_job(processes: str, command: list[str]) -> int:
    """Run a command in several processes; returns the exit code of the job."""
    gpus = torch.cuda.device_count()
    wrong = wrong_call(processes, command, gpus) or wrong_environment(os.environ)
    if wrong:
        return error(wrong)
    # One thread per process when GPUs compute; on the CPU the processes share the cores.
    threads = 1 if gpus else max(1, (os.cpu_count() or 1) // int(processes))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # torchrun's own account of a failed rank; ours is one line, below
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # torchrun passes SIGTERM on; its older versions die of SIGUSR1
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    # After a failure the other ranks wait for the one that failed: torchrun would ask them to end,
    # which they do after an iteration that does not end, and wait for half a minute.
    api._get_default_signal = lambda: signal.SIGKILL
    LocalElasticAgent._stop_workers = lambda agent, group, **more: agent._shutdown(
        signal.SIGKILL, **more
    )
    os.environ["MODELS_MM_LAUNCHER"] = str(os.getpid())  # the ranks end with it: cli/main.py
    with announced_death(), tempfile.TemporaryDirectory() as folder:
        # a file, since torchrun tells no exit code of processes that it stops, and takes any but 0
        # for a fault to start again after
        os.environ[MARKER] = marker = os.path.join(folder, "preempted")
        code = launch([*rendezvous(), f"--nproc-per-node={processes}", *program(command)])
        return EXIT_CODE if Path(marker).exists() else code


def program(command: list[str]) -> list[str]:
    """What torchrun starts: a script with its arguments, or a module with those of a command."""
    name, *rest = command
    return ["-m", "models_mm", name, *OPTIONS[name], *rest] if name in OPTIONS else command


@contextmanager
def announced_death():
    """Have another process say so should this one be killed; its ranks are killed then too."""
    program = "import sys; sys.stdin.read(1) or print(sys.argv[1], file=sys.stderr)"
    message = f"error: the launcher (process {os.getpid()}) was killed; the job is over"
    witness = subprocess.Popen(
        [sys.executable, "-ISc", program, message],
        stdin=subprocess.PIPE,
        start_new_session=True,  # signals for the job are not for it
    )
    try:
        yield
    finally:
        witness.communicate(b".")


def wrong_call(processes: str, command: list[str], gpus: int) -> str | None:
    """What is wrong with the arguments, if anything."""
    if whole(processes) < 1:
        return f"GPUS must be a positive number of processes, not {processes!r}"
    if 0 < gpus < int(processes):
        return (
            f"{processes} GPUs were asked for and this machine has {gpus}: ask for at most {gpus}"
        )
    most = CROWD * (os.cpu_count() or 1)
    if gpus == 0 and int(processes) > most:
        return f"{processes} processes are too many for a machine without GPUs: at most {most}"
    if not command or (command[0] not in OPTIONS and not Path(command[0]).is_file()):
        return f"no such tool: {command[0] if command else '(none was given)'}"
    return None


def wrong_environment(environment) -> str | None:
    """What is wrong with the variables of :func:`rendezvous`, if anything."""
    nodes, rank = environment.get("NNODES", "1"), environment.get("NODE_RANK", "0")
    port, restarts = environment.get("PORT") or "29500", environment.get("MAX_RESTARTS", "0")
    if whole(nodes) < 1:
        return f"NNODES must be a positive number of machines, not {nodes!r}"
    if not 0 <= whole(rank) < whole(nodes):
        return f"NODE_RANK must be a number from 0 to NNODES - 1 ({int(nodes) - 1}), not {rank!r}"
    if not 1 <= whole(port) <= 65535:
        return f"PORT must be a number from 1 to 65535, not {port!r}"
    if whole(restarts) < 0:
        return f"MAX_RESTARTS must be a number of 0 or more, not {restarts!r}"
    if nodes != "1":
        address = environment.get("MASTER_ADDR", "127.0.0.1")
        try:
            socket.getaddrinfo(address, int(port))
        except (OSError, UnicodeError) as reason:
            return f"MASTER_ADDR {address!r} is no address of a machine ({reason})"
    return None


def whole(text: str) -> int:
    """A whole number of 0 or more; -1 for a text that is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def launch(arguments: list[str]) -> int:
    """Run torchrun and say in one line how the job ended."""
    try:
        torchrun(arguments)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        print(
            f"error: rank {rank} (process {failure.pid} on {socket.gethostname()}) {how}; "
            "the job is over",
            file=sys.stderr,
        )
        return 128 - code if code < 0 else code
    except SignalException as stopped:
        print(f"stopped by {signal.Signals(stopped.sigval).name}", file=sys.stderr)
        return 128 + stopped.sigval
    return 0


def rendezvous() -> list[str]:
    """How the processes find each other, as torchrun's options."""
    environment = os.environ
    nodes, port = environment.get("NNODES", "1"), environment.get("PORT")
    restarts = environment.get("MAX_RESTARTS", "0")
    options = [f"--max-restarts={restarts}", "--monitor-interval=0.2"]
    if nodes == "1" and not port:
        return [*options, "--standalone"]  # any free port
    address, port = environment.get("MASTER_ADDR", "127.0.0.1"), port or "29500"
    options.append(f"--nnodes={nodes}")
    if restarts != "0" and nodes != "1":
        # Agents that agree on starting again; they share out the ranks themselves. Each start gets
        # a store of its own: in the agents' the ranks would find addresses of the last one.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        return [
            *options,
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={address}:{port}",
            f"--rdzv-id={port}",
        ]
    return [
        *options,
        f"--node-rank={environment.get('NODE_RANK', '0')}",
        f"--master-addr={address}",
        f"--master-port={port}",
    ]


def error(message: str) -> int:
    """Print what is wrong with the call."""
    print(f"error: {message}", file=sys.stderr)
    return 2
