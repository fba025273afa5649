"""The command line that the tools share: options, exit codes, and errors without tracebacks."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

from mmcv import DictAction

from models_mm.errors import UserError

OVERRIDE_HELP = (
    "override settings of the config: key=value pairs, e.g. data.samples_per_gpu=4 "
    "optimizer.lr=1e-4 model.backbone.out_indices='(1,2,3)'. Lists as key='[a,b]' or key=a,b, "
    "without white space"
)


def run(main: Callable[[], None]) -> None:
    """Run a tool's main; a :class:`UserError` becomes one message and exit code 1."""
    try:
        with explained_faults():
            main()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(error: UserError) -> None:
    """Print an error once for the whole job and exit with 1."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    prefix = "error"
    if rank > 0:
        # Rank 0 most likely says the same; its end ends this process within the wait.
        time.sleep(5)
        prefix = f"error on rank {rank}"
    print(f"{prefix}: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)  # no destructors: other ranks may hang in a collective that will not complete


# A fault inside a data worker arrives as "Caught X in DataLoader worker ... <traceback> X: why".
WORKER_FAULT = re.compile(r"Caught (\w+) in DataLoader worker")


@contextmanager
def explained_faults():
    """Turn faults of files and memory that surface deep inside libraries into user errors."""
    try:
        yield
    except FileNotFoundError as error:
        if not WORKER_FAULT.search(str(error)):
            raise
        raise UserError(f"{_last_line(error)}; check the data set's folder") from error
    except OSError as error:
        if error.errno != 28:
            raise
        raise UserError("no space left on the disk; free some and use --auto-resume") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].partition(": ")[2]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that training and testing have in common."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help=OVERRIDE_HELP
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes of a distributed job were started (default: %(default)s)",
    )
    # torch.distributed.launch passes one or the other; torchrun uses the environment
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line and publish the local rank where the launchers' code looks."""
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args
