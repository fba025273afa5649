"""Check what only a GPU shows, and measure; without a GPU, check all that needs none.

    models_mm gpu-check --out report.md
    models_mm gpu-check --out report.md --tier operators

The tiers are operators, goldens, training and table. The report is written after each step, as
Markdown and, beside it, as JSON. A step that fails does not end the check. The same command goes on
where an earlier one was stopped: steps that have passed on this machine do not run again. After
``--minutes`` no further step begins.

The exit code is 1 if a step has failed, or if all that is asked for needs a GPU and there is none.
Single steps for which the machine has too few GPUs do not count; nor do those whose tests are
missing, because they are part of a checkout only.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from models_mm.cli.command import Parser, child_environment
from models_mm.config_files import ROOT
from models_mm.disk import open_regular
from models_mm.errors import UserError
from models_mm.outputs import write_whole
from models_mm.values import output_file, whole_option
from models_mm.version import __version__

TIERS = ("operators", "goldens", "training", "table")
LONGEST = 1200  # seconds of a step
# What reading a damaged report may raise.
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
# One variant per family is also measured compiled, and as a whole detector.
FAMILIES = ("biformer_s", "dfvt_t", "kw1x_resnet50", "mpvit_tiny", "recnext_m3")
DIRECT = ("biformer_s", "dfvt_t", "kw1x_resnet50", "mpvit_tiny")


class Step(NamedTuple):
    """One part of the check.

    Attributes:
        tier: one of ``TIERS``.
        name: of the step in the report.
        gpus: how many it needs.
        command: arguments of Python.
    """

    tier: str
    name: str
    gpus: int
    command: tuple[str, ...]


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE.md")
    parser.add_argument("--tier", choices=TIERS, nargs="+", default=list(TIERS))
    minutes = whole_option(1, 10_000)
    parser.add_argument("--minutes", type=minutes, default=30, help="default: %(default)s")
    parser.add_argument("--table-of", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the steps, and write the report.

    Raises:
        SystemExit: with 1, a step has failed.
        UserError: the report cannot be one, or there is no GPU and no step without one.
    """
    args = parse_args(sys.argv[1:] if argv is None else argv)
    if args.table_of:
        from models_mm.mmdet2.gpu_table import measure

        print(json.dumps(measure(args.table_of, "cuda", (800, 1344))))
        return
    if Path(args.out).suffix != ".md":
        raise UserError(f"--out {args.out}: the report is a file .md, with a file .json beside it")
    report = Report(Path(args.out))
    end = time.monotonic() + 60 * args.minutes
    asked = [step for step in steps() if step.tier in args.tier]
    if report.gpus == 0 and all(step.gpus for step in asked):
        raise UserError(
            f"--tier {' '.join(args.tier)}: needs a GPU, and PyTorch sees none on this machine "
            "(tier operators has checks that need none)"
        )
    left = {}
    for step in asked:
        reason = report.why_not(step)
        if reason is None and time.monotonic() > end:
            reason = f"not begun within {args.minutes} minutes"
        if reason is None:
            print(f"{step.tier}: {step.name}", flush=True)
            report.add(step, *run(step))
            report.write()
            outcome = report.found["steps"][step.name]
            print(f"  {outcome['state']}: {outcome['said'].splitlines()[-1]}", flush=True)
            continue
        if not report.has_passed(step):
            report.add(step, "not run", reason)
        left.setdefault(reason, []).append(step.name)
    report.write()
    for reason, names in left.items():
        print(f"not run: {reason}: {', '.join(names)}")
    print(f"the report is {args.out}")
    if any(report.found["steps"][step.name]["state"] == "failed" for step in asked):
        raise SystemExit(1)


def steps() -> list[Step]:
    """All steps, in their order."""
    from models_mm.catalogue import list_backbones

    def tests(*words: str) -> tuple[str, ...]:
        return ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "--tb=short", *words)

    def table(target: str) -> tuple[str, ...]:
        return ("-m", "models_mm", "gpu-check", "--out", os.devnull, "--table-of", target)

    targets = [*list_backbones(), "biformer_s:routing_kernel"]
    targets += [f"{name}:compiled" for name in FAMILIES] + [f"{name}:direct" for name in DIRECT]
    targets += [f"mask_rcnn_{name}_fpn_1x_coco" for name in FAMILIES]
    return [
        Step("operators", "installation", 0, ("-m", "models_mm", "env")),
        Step("operators", "kernels compile", 0, ("-m", "models_mm.layers.kernel_resources")),
        Step("operators", "kernels, interpreted", 0, tests("tests/layers/interpreted.py")),
        Step("operators", "devices and formats", 0, tests("tests/gpu/test_fake_tensors.py")),
        Step("operators", "necks and heads", 0, tests("tests/gpu/test_fake_detectors.py")),
        Step("operators", "launch", 0, tests("tests/mmdet2/compat/test_launch.py")),
        Step("operators", "losses", 0, tests("tests/mmdet2/test_losses.py")),
        Step("operators", "operators on a GPU", 1, tests("tests/gpu/test_operators.py")),
        Step("goldens", "golden values on a GPU", 1, tests("tests/gpu/test_goldens.py")),
        Step("training", "training", 1, tests("tests/gpu/test_training.py")),
        Step("training", "two GPUs", 2, tests("tests/gpu/test_training.py", "-k", "two_processes")),
        *(Step("table", target, 1, table(target)) for target in targets),
    ]


def run(step: Step) -> tuple[str, str]:
    """Run a step: whether it has passed, and what it has said in the end."""
    environment = {"OMP_NUM_THREADS": "1"}
    if step.name == "kernels, interpreted":
        environment["TRITON_INTERPRET"] = "1"
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *step.command],
        cwd=ROOT if ROOT.is_dir() else None,
        env=child_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "failed", f"not over after {LONGEST} s"
    finally:  # with all that it has started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = f"({time.monotonic() - begun:.0f} s)"
    if process.returncode:
        said = (out + errors).strip()
        return "failed", f"{said[-4000:]}\n{seconds}"
    said = out.strip() or "nothing"
    if step.tier == "table":
        return "passed", said.splitlines()[-1]
    if "pytest" in step.command:
        said = said.splitlines()[-1]
    return "passed", f"{said}\n{seconds}" if "\n" in said else f"{said} {seconds}"


class Report:
    """What has been found, in two files.

    Args:
        path: the file of Markdown; the other one ends with ``.json``.

    Raises:
        UserError: the file of an earlier check is damaged, or is not one.
    """

    def __init__(self, path: Path):
        self.path, self.data = path, path.with_suffix(".json")
        self.gpus, machine = machine_facts()
        self.found = {"machine": machine, "steps": {}}
        if self.data.exists():
            try:
                with open_regular(self.data) as file:
                    before = json.load(file)
                if before["machine"] == machine:
                    known = {step.name for step in steps()}
                    self.found["steps"] = {
                        n: dict(s) for n, s in before["steps"].items() if n in known
                    }
                    self.markdown()
            except DAMAGE as error:
                raise UserError(
                    f"{self.data} is no report of gpu-check: delete it, or give another --out"
                ) from error

    def has_passed(self, step: Step) -> bool:
        """Whether a step has passed on this machine before."""
        return self.found["steps"].get(step.name, {}).get("state") == "passed"

    def why_not(self, step: Step) -> str | None:
        """Why a step is not to be run, if it is not."""
        if self.has_passed(step):
            return "has passed before"
        if step.gpus > self.gpus:
            return f"needs {step.gpus} GPU(s), this machine has {self.gpus}"
        for word in step.command:
            if word.startswith("tests/") and not (ROOT / word).exists():
                return "its tests are part of a checkout"
        if step.name.endswith(":direct") and not (ROOT / "tests/direct").is_dir():
            return "its tests are part of a checkout"
        return None

    def add(self, step: Step, state: str, said: str) -> None:
        """Add what became of a step."""
        self.found["steps"][step.name] = {"tier": step.tier, "state": state, "said": said}

    def write(self) -> None:
        """Write both files.

        Raises:
            UserError: they cannot be written.
        """
        write_whole(self.data, json.dumps(self.found, indent=1) + "\n")
        write_whole(self.path, self.markdown())

    def markdown(self) -> str:
        """The report."""
        lines = ["# models_mm on this machine", ""]
        lines += [f"- {name}: {value}" for name, value in self.found["machine"].items()]
        lines += ["", "| tier | step | state | |", "|---|---|---|---|"]
        texts, rows = [], []
        for name, step in self.found["steps"].items():
            said = step["said"].splitlines()
            if step["tier"] == "table" and step["state"] == "passed":
                rows += json.loads(step["said"])
                continue
            last = said[-1].replace("|", "\\|")
            lines.append(f"| {step['tier']} | {name} | {step['state']} | {last} |")
            if len(said) > 1:
                is_table = step["said"].startswith("|")
                text = step["said"] if is_table else f"```text\n{step['said']}\n```"
                texts += ["", f"## {name}", "", text]
        if rows:
            columns = (
                "target",
                "mode",
                "batch",
                "dtype",
                "ms",
                "images/s",
                "MB",
                "waits",
                "failed",
            )
            texts += ["", "## Models at 800x1344", "", f"| {' | '.join(columns)} |"]
            texts.append("|" + "---|" * len(columns))
            texts += [f"| {' | '.join(cell(row.get(c)) for c in columns)} |" for row in rows]
        return "\n".join([*lines, *texts]) + "\n"


def cell(value) -> str:
    """A figure in the table."""
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def machine_facts() -> tuple[int, dict[str, str]]:
    """The number of GPUs, and what the figures depend on."""
    import torch

    gpus = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(i) for i in range(gpus)]
    return gpus, {
        "models_mm": __version__,
        "GPUs": ", ".join(names) or "none",
        "torch": torch.__version__,
        "CUDA of torch": str(torch.version.cuda),
        "Python": platform.python_version(),
    }
