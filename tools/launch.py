"""Start a tool in several processes with torchrun, and end with a failed rank's exit code.

The shell scripts call it: ``python tools/launch.py PROCESSES TOOL [arguments]``. Environment:

NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1): the machines of the job;
PORT: where they meet (several machines: 29500; one machine: any free port).
"""

import argparse
import logging
import os
import signal
import sys

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main() -> int:
    """Run the job; the exit code is that of the rank that failed first (128 + signal)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("processes", help="number of processes on this machine: one a GPU")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="tool and its arguments")
    args = parser.parse_args()
    processes, command = args.processes, args.command
    if not processes.isdigit() or int(processes) < 1:
        return error(f"GPUS must be a positive number of processes, not {processes!r}")
    gpus = torch.cuda.device_count()
    if 0 < gpus < int(processes):
        return error(
            f"{processes} GPUs were asked for and this machine has {gpus}: ask for at most {gpus}"
        )
    # One thread a process when GPUs compute; on the CPU the processes share the cores.
    threads = 1 if gpus else max(1, (os.cpu_count() or 1) // int(processes))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # torchrun's own account of a failed rank; ours is one line, below
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun([*rendezvous(), f"--nproc-per-node={processes}", *command])
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        print(f"error: rank {rank} (process {failure.pid}) {how}; the job is over", file=sys.stderr)
        return 128 - code if code < 0 else code
    except SignalException as stopped:
        print(f"stopped by {signal.Signals(stopped.sigval).name}", file=sys.stderr)
        return 128 + stopped.sigval
    return 0


def rendezvous() -> list[str]:
    """How the processes find each other, as torchrun's options."""
    nodes, port = os.environ.get("NNODES", "1"), os.environ.get("PORT")
    if nodes == "1" and not port:
        return ["--standalone"]  # any free port
    return [
        f"--nnodes={nodes}",
        f"--node-rank={os.environ.get('NODE_RANK', '0')}",
        f"--master-addr={os.environ.get('MASTER_ADDR', '127.0.0.1')}",
        f"--master-port={port or 29500}",
    ]


def error(message: str) -> int:
    """Print what is wrong with the call."""
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
