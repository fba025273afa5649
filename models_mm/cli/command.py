"""What all commands share: options, exit codes, and errors without tracebacks.

Only what the standard library brings is imported here: each process of a job starts with it.
"""

import argparse
import faulthandler
import importlib.util
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager

from models_mm import host_imports
from models_mm.distributed import liveness, signals
from models_mm.distributed.liveness import LAST_WORDS, exit_now, exit_within
from models_mm.errors import AFTER_NO_ROOM, Preempted, UserError, no_room
from models_mm.messages import this_rank
from models_mm.values import SEED, option

OVERRIDE_HELP = (
    "override settings of the config: key=value pairs, e.g. data.samples_per_gpu=4 "
    "optimizer.lr=1e-4 model.backbone.out_indices='(1,2,3)'. Lists as key='[a,b]' or key=a,b, "
    "without white space"
)
FAILING = 6.0  # seconds from an error to the end of the process


def run(main: Callable[[], None]) -> None:
    """Run a tool's main; whatever it raises becomes one message and exit code 1.

    With ``MODELS_MM_TRACEBACK=1`` in the environment the traceback is printed before it.
    """
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # where this process stands
    try:
        with explained_faults():
            main()
            sys.stdout.flush()  # here, where a reader that is gone can be told from a fault
    except Preempted as stopped:
        rank = this_rank()
        message = f"ended as asked; --auto-resume goes on from {stopped}"
        exit_now(signals.exit_code(rank), *[message][rank:])
    except UserError as error:
        fail(error, str(error))
    except SystemExit as asked:  # Python's own way out waits for data workers
        if asked.code is None or isinstance(asked.code, int):
            exit_now(asked.code or 0)
        exit_now(1, str(asked.code))
    except KeyboardInterrupt:
        exit_now(130)
    except BrokenPipeError:
        exit_now(141)  # as SIGPIPE ends other programs when `head` has read enough
    except ModuleNotFoundError as error:
        fail(
            error,
            host_imports.missing(error.name) if host_imports.of_host(error) else unexpected(error),
        )
    except Exception as error:
        fail(error, unexpected(error))


def unexpected(error: Exception) -> str:
    """An error that nobody has foreseen."""
    return f"{in_one_line(error)} (MODELS_MM_TRACEBACK=1 shows where)"


def in_one_line(error: Exception) -> str:
    """Type and message of an error; of one in a data worker without where that was."""
    said = _last_line(error) if WORKER_FAULT.search(str(error)) else str(error)
    message = " ".join(said.split())
    if len(message) > 500:
        message = message[:500] + " ..."
    return f"{type(error).__name__}: {message}"


def fail(error: Exception, message: str) -> None:
    """Print an error once for the whole job and exit with 1."""
    exit_within(FAILING)
    wait_for_rank_0()
    prefix = f"error on rank {this_rank()}" if this_rank() else "error"
    traced = os.environ.get("MODELS_MM_TRACEBACK", "0") != "0"
    trace = "".join(traceback.format_exception(error)) if traced else ""
    exit_now(1, f"{trace}{prefix}: {message}")


def wait_for_rank_0() -> None:
    """Let rank 0 speak, which most likely says the same; its end ends this process in the wait."""
    if this_rank() > 0:
        time.sleep(FAILING - LAST_WORDS)


class Parser(argparse.ArgumentParser):
    """The standard parser; a distributed job speaks once, and options are never abbreviated."""

    def __init__(self, **settings):
        settings.setdefault("prog", os.path.basename(sys.argv[0]))
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )

    def error(self, message: str):
        wait_for_rank_0()
        super().error(message)


# A fault inside a data worker arrives as "Caught X in DataLoader worker ... <traceback> X: why".
WORKER_FAULT = re.compile(r"Caught (\w+) in DataLoader worker")
# What torch says of one that was killed.
LOST_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")
# What gloo and NCCL say when another process is gone.
LOST_RANK = re.compile(
    r"Connection (closed|reset)|Connection was likely closed|Broken pipe|NCCL|gloo|recvVal|sendVal",
    re.IGNORECASE,
)


@contextmanager
def explained_faults():
    """Turn faults of files, memory and processes that surface inside libraries into user errors."""
    try:
        yield
    except UserError as error:
        if WORKER_FAULT.search(str(error)):
            raise UserError(_last_line(error)) from error
        raise
    except FileNotFoundError as error:
        if not WORKER_FAULT.search(str(error)):
            raise_lost_worker(error)
            raise
        raise UserError(f"{_last_line(error)}; check the data set's folder") from error
    except BrokenPipeError:
        raise  # whoever reads what is printed is gone
    except (OSError, EOFError, RuntimeError) as error:
        reason = no_room(error)
        if reason is not None:
            raise UserError(f"{reason}: {AFTER_NO_ROOM}") from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            why = " ".join(str(error).split())[:300]
            raise UserError(
                f"torch.compile failed ({type(error).__name__}: {why}): leave `compile` out"
            ) from error
        raise_lost_worker(error)
        from models_mm.distributed import watchdog  # imports torch, which such an error has done

        # a rank is blamed only when it is gone; the error itself is never left out
        lost = watchdog.explain_lost() if LOST_RANK.search(str(error)) else None
        if lost is None:
            raise
        raise UserError(
            f"{lost}; the job is over, --auto-resume goes on ({in_one_line(error)})"
        ) from error


def raise_lost_worker(error: Exception) -> None:
    """Explain an error that comes of a data worker that was killed, if it does.

    Raises:
        UserError: a data worker is gone.
    """
    why = str(error).strip().rstrip(".")
    if not LOST_WORKER.search(why):
        # one that dies while it hands a batch over breaks the connection
        if not isinstance(error, (ConnectionError, EOFError, FileNotFoundError)):
            return
        time.sleep(0.5)  # until the system says so
        lost = liveness.lost()
        if not lost:
            return
        why = f"{' and '.join(lost)} is gone ({in_one_line(error)})"
    raise UserError(
        f"{why}; the system does so when memory is short (data.workers_per_gpu); the job is over, "
        "--auto-resume goes on"
    ) from error


def _last_line(error: Exception) -> str:
    """The message of the original error at the end of a worker's traceback."""
    lines = str(error).strip().splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith(("  ", "Traceback"))) + 1
    return "\n".join(lines[start:]).partition(": ")[2]


class KeyValues(argparse.Action):
    """KEY=VALUE pairs, read by :class:`models_mm.mmdet2.overrides.DictAction`."""

    def __call__(self, parser, namespace, values, option_string=None):
        from models_mm.mmdet2.overrides import DictAction  # imports mmcv, which takes a second

        read = DictAction(self.option_strings, self.dest, nargs="+")
        read(parser, namespace, values, option_string)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The option ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=KeyValues, metavar="KEY=VALUE", help=OVERRIDE_HELP
    )


def add_providers(parser: argparse.ArgumentParser) -> None:
    """The option ``--providers``."""
    parser.add_argument(
        "--providers",
        nargs="+",
        metavar="NAME",
        help="what runs an exported detector, the first ones first: tensorrt, cuda, openvino, cpu "
        "(default: a GPU if there is one)",
    )


def require_torch() -> None:
    """Refuse a Python that lacks PyTorch."""
    if importlib.util.find_spec("torch") is None:
        sys.exit(
            f"error: {sys.executable} has no PyTorch: run 'make install' once, then "
            "'source .venv/bin/activate' (or activate the environment that models_mm is in)"
        )


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Options that training and testing have in common."""
    add_overrides(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes of a distributed job were started (default: %(default)s)",
    )
    # torch.distributed.launch passes one or the other; torchrun uses the environment
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data set of a command, with the image folder of a JSON file."""
    parser.add_argument("data", metavar="DATA", help="labelled images")
    add_images(parser)


def add_images(parser: argparse.ArgumentParser) -> None:
    """The option ``--images``."""
    parser.add_argument("--images", help="image folder of a JSON file (default: looked for)")


def add_seed(parser: argparse.ArgumentParser, result: str) -> None:
    """The option ``--seed``; ``result`` is what another seed changes."""
    parser.add_argument(
        "--seed",
        type=option(SEED, int),
        default=0,
        help=f"another seed gives {result} (default: %(default)s)",
    )


def child_environment(**more: str) -> dict[str, str]:
    """The environment of this process for a new Python that is to import this package too."""
    place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line and publish the local rank where the launchers' code looks."""
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args
