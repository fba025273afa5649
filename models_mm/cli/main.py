"""The console command ``models_mm``, ``python -m models_mm``, and the start of ``tools/*.py``.

Only the standard library is imported before it is known which command runs, and a command imports
what it needs after it has read its command line: ``--help`` and wrong options answer at once.
"""

import argparse
import atexit
import ctypes
import importlib
import os
import signal
import sys
from typing import NamedTuple

from models_mm.cli.command import Parser, require_torch, run
from models_mm.distributed.liveness import exit_now
from models_mm.errors import did_you_mean
from models_mm.version import __version__

NAME = "models_mm"


class Command(NamedTuple):
    """One command: its module in this package, its script in ``tools/``, and its summary."""

    module: str
    script: str
    summary: str


COMMANDS = {
    "train": Command("train", "train", "train a detector"),
    "test": Command("test", "test", "test a detector: metrics, results, pictures"),
    "predict": Command("predict", "predict", "detect objects in images, folders and videos"),
    "export": Command("export", "", "export a detector to one ONNX file"),
    "data check": Command("check", "check_dataset", "find what is wrong with a data set"),
    "data convert": Command("convert_data", "", "convert between COCO, YOLO and Pascal VOC"),
    "data split": Command("split_data", "", "split labelled images for training and validation"),
    "data browse": Command("browse", "browse_dataset", "draw labels, or data after augmentation"),
    "data demo": Command("demo", "make_demo_coco", "draw a small data set in COCO's layout"),
    "analyze": Command("analyze", "analyze_results", "draw error analysis and confusion matrix"),
    "show": Command("show", "show_results", "draw predictions beside the truth"),
    "plot": Command("plot", "plot_logs", "plot losses, learning rate and AP of runs"),
    "report": Command("report", "", "write a page about a training: curves, AP, worst images"),
    "zoo": Command("zoo", "zoo", "list, show and download the published models"),
    "convert": Command("convert", "convert_checkpoint", "inspect, convert, publish a checkpoint"),
    "benchmark": Command("benchmark", "benchmark", "measure time, memory, FLOPs, parameters"),
    "benchmark-eval": Command("benchmark_eval", "benchmark_eval", "measure COCO's evaluation"),
    "gpu-check": Command("gpu_check", "", "check and measure on a GPU, and write a report"),
    "launch": Command("launch", "launch", "run a command in several processes of this machine"),
    "env": Command("env", "check_env", "print what is installed, and what is wrong with it"),
    "setup": Command("setup", "", "install MMDetection and what it needs"),
}

WITHOUT_TORCH = ("predict",)  # modules that do without PyTorch for exported detectors


def main() -> None:
    """Run the command that the command line names; never returns."""
    prepare()
    run(lambda: dispatch(sys.argv[1:]))
    finish()


def tool(script: str) -> None:
    """Run the command of a script in ``tools/``; never returns."""
    prepare()
    (module,) = (command.module for command in COMMANDS.values() if command.script == script)
    run(lambda: start(module))
    finish()


def dispatch(words: list[str]) -> None:
    """Run a command line without its first word.

    Raises:
        SystemExit: with 2, there is no such command.
    """
    parser = Parser(prog=NAME, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="its options")
    args = parser.parse_args(words)
    name, rest = args.command, args.options
    group = [command for command in COMMANDS if command.startswith(f"{name} ")]
    if group and rest:
        if rest[0] in ("-h", "--help"):
            print(f"usage: {NAME} {name} COMMAND ...\n\ncommands:\n{listed(group)}")
            return
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        parser.error(f"no command {name!r}{did_you_mean(name, COMMANDS)}")
    sys.argv = [f"{NAME} {name}", *rest]
    start(COMMANDS[name].module)


def listed(names) -> str:
    """Commands with their summaries, one per line."""
    return "\n".join(f"  {name:16}{COMMANDS[name].summary}" for name in names)


DESCRIPTION = "Research backbones for object detection: train, test and use detectors with them."
EPILOG = f"commands (`{NAME} COMMAND --help` lists the options):\n{listed(COMMANDS)}"


def start(module: str) -> None:
    """Import the module of a command and run it with the options in ``sys.argv``."""
    if module not in WITHOUT_TORCH:
        require_torch()
    importlib.import_module(f"models_mm.cli.{module}").main()


def prepare() -> None:
    """End a rank whose launcher is gone."""
    end_with_launcher()


def finish() -> None:
    """End after a command that has done its work.

    What has been registered to happen at the end happens; then the process exits. The interpreter's
    own end would collect all objects first, which takes more than a second.
    """
    atexit._run_exitfuncs()
    exit_now(0)


def end_with_launcher() -> None:
    """Make a rank that ``launch`` has started end when that ends, even if it is killed.

    This comes before the imports of the command, which take seconds, in which the launcher may end.
    """
    launcher = int(os.environ.get("MODELS_MM_LAUNCHER", 0))
    if not launcher or sys.platform != "linux":  # distributed/liveness.py looks after it later
        return
    if os.getppid() == launcher:
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != launcher and not os.path.exists(f"/proc/{launcher}"):
        os._exit(1)
