"""Run the tools from a checkout without installing it: put the package's parent on the path.

A Python without the packages, as before the environment is activated, is told so in one line; so is
whatever fails before ``models_mm.cli.command.run`` takes over, or in a tool that does without it.
"""

import atexit
import ctypes
import importlib.util
import os
import signal
import sys
from pathlib import Path


def in_one_line(kind: type[BaseException], error: BaseException, trace) -> None:
    """Print an error that nobody has caught; Python then exits with 1, or 130 after Ctrl-C."""
    if os.environ.get("MODELS_MM_TRACEBACK", "0") != "0":
        sys.__excepthook__(kind, error, trace)
    elif not issubclass(kind, (KeyboardInterrupt, BrokenPipeError)):
        message = " ".join(str(error).split())
        print(
            f"error: {kind.__name__}: {message} (MODELS_MM_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )


def flush() -> None:
    """Write what is left; a reader that is gone, as `head` is, has read enough."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_with_launcher() -> None:
    """Make a rank that tools/launch.py has started end when that ends, even if it is killed.

    Here, since the imports that follow take seconds, in which the launcher may end too.
    """
    launcher = int(os.environ.get("MODELS_MM_LAUNCHER", 0))
    if not launcher or sys.platform != "linux":  # distributed/liveness.py looks after it later
        return
    if os.getppid() == launcher:
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != launcher and not os.path.exists(f"/proc/{launcher}"):
        os._exit(1)


ROOT = Path(__file__).resolve().parent.parent
end_with_launcher()
if Path(getattr(sys.modules["__main__"], "__file__", "")).resolve().parent == ROOT / "tools":
    sys.excepthook = in_one_line
    atexit.register(flush)
if (ROOT / "models_mm" / "__init__.py").is_file():
    sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("torch") is None:
    sys.exit(
        f"error: {sys.executable} has no PyTorch: run 'make install' once, then "
        "'source .venv/bin/activate' (or activate the environment that models_mm is in)"
    )
