"""Install MMDetection 2.28 and what it needs into the environment of this Python.

mmcv 1.7 has no wheel, and its build needs a setuptools that still has pkg_resources; it also asks
for an OpenCV of its own unless one is installed. So pip is called several times, in a fixed order.
"""

import argparse
import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from models_mm.cli.command import Parser, child_environment
from models_mm.errors import UserError

MMCV = "mmcv==1.7.2"
OPENCV = "opencv-python-headless"


def main(argv: list[str] | None = None) -> None:
    """Install, and end with what ``models_mm env`` says and its exit code.

    Raises:
        UserError: a step failed; names it and the log.
    """
    args = parse_args(argv)
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{sys.executable} has no pip: `{sys.executable} -m ensurepip`")
    for number, (what, options) in enumerate(steps := plan(), 1):
        print(f"{number}/{len(steps)} installing {what}", flush=True)
        pip(what, options, args)
    if args.mmcv_full:
        print("building mmcv's compiled operators", flush=True)
        build_operators()
    report = [sys.executable, "-m", "models_mm", "env"]
    raise SystemExit(subprocess.run(report, env=child_environment()).returncode)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--constraint", "-c", metavar="FILE", help="versions to install, as pip's option"
    )
    parser.add_argument(
        "--mmcv-full",
        action="store_true",
        help="build mmcv's compiled operators too: ten minutes, needs a C++ compiler",
    )
    parser.add_argument(
        "--log",
        default="models_mm_setup.log",
        metavar="FILE",
        help="what pip prints is added there (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.constraint and not Path(args.constraint).is_file():
        parser.error(f"--constraint {args.constraint}: no such file")
    return args


def plan() -> list[tuple[str, list[str]]]:
    """What is installed, in this order, and the arguments of pip for it.

    Raises:
        UserError: models_mm itself is not installed.
    """
    needed = host_requirements()
    if importlib.util.find_spec("cv2"):  # of whatever package: a second one overwrites its files
        needed = [name for name in needed if not name.startswith(OPENCV)]
        opencv = []
    else:
        opencv = [OPENCV]
    steps = [("the tools that build mmcv", ["setuptools<81", "wheel", *opencv])]
    if not installed("mmcv-full"):
        # a wheel in pip's cache may ask for an OpenCV with windows, which servers cannot load
        steps.append((MMCV, ["--no-cache-dir", "--no-build-isolation", MMCV]))
    return [*steps, ("MMDetection and the rest", needed)]


def host_requirements() -> list[str]:
    """The requirements of the extra ``mmdet``, from the metadata of the installed package.

    Raises:
        UserError: models_mm itself is not installed.
    """
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(text) for text in metadata.requires("models_mm") or ()]
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "models_mm is not installed in this environment: `make install` in the checkout, or "
            "`pip install` of the wheel, comes first"
        ) from error
    extra = [one for one in listed if one.marker and "extra" in str(one.marker)]
    wanted = [one for one in extra if one.marker.evaluate({"extra": "mmdet"})]
    return [f"{one.name}{one.specifier}" for one in wanted]


def pip(what: str, options: list[str], args: argparse.Namespace) -> None:
    """Call ``pip install``, its output in the log.

    Raises:
        UserError: it failed.
    """
    constraint = ["-c", args.constraint] if args.constraint else []
    command = [sys.executable, "-m", "pip", "install", *constraint, *options]
    log = Path(args.log)
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        printed = log.read_bytes()[begin:].decode(errors="replace").splitlines()
        errors = [line for line in printed if "error" in line.lower() or "no space" in line.lower()]
        # pip's last word on a conflict, which names no package: the line before does
        errors = [line for line in errors if "ResolutionImpossible" not in line]
        reason = (errors or printed or ["pip said nothing"])[-1].strip()
        raise UserError(
            f"installing {what} failed: {reason} (check network and disk; all of it in {log})"
        )


def build_operators() -> None:
    """Put mmcv-full in mmcv's place.

    Raises:
        UserError: the build failed, which its script has explained.
    """
    script = Path(__file__).resolve().parents[1] / "mmdet2/compat/build_mmcv_full.sh"
    if subprocess.run(
        ["bash", str(script)], env=child_environment(PYTHON=sys.executable)
    ).returncode:
        raise UserError("mmcv-full was not built; mmcv stays as it is")


def installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
