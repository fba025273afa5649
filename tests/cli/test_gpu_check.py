"""``models_mm gpu-check`` on a machine without a GPU."""

import json
import re
import sys
import time

import psutil
import pytest
import torch

from models_mm.cli import gpu_check
from models_mm.cli.gpu_check import Report, Step
from models_mm.errors import UserError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
CHECK = ("-m", "models_mm", "gpu-check")
PASSES = ("-c", "print('fine')")


def test_what_needs_a_gpu_is_named_and_is_no_failure(tmp_path, capsys, monkeypatch):
    of_gpus = [step for step in gpu_check.steps() if step.gpus]
    monkeypatch.setattr(gpu_check, "steps", lambda: [Step("operators", "x", 0, PASSES), *of_gpus])
    out = tmp_path / "reports" / "gpu.md"
    gpu_check.main(["--out", str(out)])
    *_, one, two, last = capsys.readouterr().out.splitlines()
    assert one.startswith("not run: needs 1 GPU(s), this machine has 0: ")
    assert "golden values on a GPU, training, biformer_b" in one
    assert two == "not run: needs 2 GPU(s), this machine has 0: two GPUs"
    assert last == f"the report is {out}"
    assert "| goldens | golden values on a GPU | not run |" in out.read_text()
    found = json.loads(out.with_suffix(".json").read_text())
    assert {step["tier"] for step in found["steps"].values()} == set(gpu_check.TIERS)


def test_tiers_of_which_nothing_can_be_run_are_refused(tmp_path, run_tool):
    out = tmp_path / "gpu.md"
    done = run_tool(sys.executable, *CHECK, "--out", out, "--tier", "table", "goldens")
    assert done.returncode == 1 and not out.exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --tier table goldens: needs a GPU, and PyTorch")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tier", "operator"], "invalid choice: 'operator'"),
        (["--minutes", "0"], "--minutes: "),
        (["--minutes", "x"], "--minutes: "),
        (["--out", "."], "is a folder: give a file"),
        (["--out", "x.txt"], "the report is a file .md"),
        (["--table", "recnext_m3"], "unrecognized arguments|--table"),
        (["--out"], "expected one argument"),
    ],
)
def test_wrong_options(run_tool, tmp_path, given, message):
    done = run_tool(sys.executable, *CHECK, "--out", tmp_path / "x.md", *given)
    assert done.returncode and re.search(message, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


@pytest.fixture
def two_steps(monkeypatch, tmp_path):
    """A check of two steps, of which the first fails until a file is there; returns that file."""
    mended, counted = tmp_path / "mended", tmp_path / "counted"
    fails = f"import os, sys; sys.exit(not os.path.exists({str(mended)!r}) and 'it | broke')"
    counts = f"open({str(counted)!r}, 'a').write('x'); print('a\\nlast words')"
    steps = [Step("operators", "first", 0, ("-c", fails)), Step("table", "m", 0, ("-c", counts))]
    steps[1] = steps[1]._replace(tier="training")
    monkeypatch.setattr(gpu_check, "steps", lambda: steps)
    return mended, counted


def test_a_failure_does_not_end_it_and_only_it_runs_again(two_steps, tmp_path, capsys):
    mended, counted = two_steps
    out = tmp_path / "gpu.md"
    with pytest.raises(SystemExit) as error:
        gpu_check.main(["--out", str(out)])
    assert error.value.code == 1 and "it | broke" in out.read_text()
    assert "failed" in out.read_text() and "last words" in out.read_text()
    mended.touch()
    gpu_check.main(["--out", str(out)])
    assert "failed" not in out.read_text() and counted.read_text() == "x"
    assert "passed: " in capsys.readouterr().out


def test_a_step_that_hangs_is_ended_with_its_children(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "LONGEST", 3)
    child = f"import time; time.sleep(60); open({str(tmp_path / 'late')!r}, 'w')"
    hangs = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    begun = time.monotonic()
    state, said = gpu_check.run(Step("operators", "hangs", 0, ("-c", hangs)))
    assert (state, said) == ("failed", "not over after 3 s") and time.monotonic() - begun < 30
    time.sleep(0.5)
    assert not [p for p in psutil.process_iter(["cmdline"]) if child in (p.info["cmdline"] or ())]


def test_the_table(tmp_path):
    report = Report(tmp_path / "gpu.md")
    rows = [{"target": "biformer_s", "mode": "train", "batch": 2, "dtype": "float32", "ms": 12.34}]
    rows.append({**rows[0], "ms": None, "failed": "out of memory"})
    report.add(Step("table", "biformer_s", 1, ()), "passed", json.dumps(rows))
    report.write()
    text = report.path.read_text()
    assert "| biformer_s | train | 2 | float32 | 12.3 |" in text and "out of memory |" in text


def test_rows_are_measured():
    from models_mm.mmdet2.gpu_table import measure

    rows = measure("recnext_m3", "cpu", (64, 64), ("float32",))
    assert [(row["mode"], row["batch"]) for row in rows] == [
        ("train", 2),
        ("infer", 1),
        ("infer", 8),
    ]
    assert all(row["ms"] > 0 and row["images/s"] > 0 for row in rows)


STEP = '{"machine": 1, "steps": {"dfvt_t": {"tier": "table", "state": "passed", "said": %s}}}'


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"machine": 1}', '{"machine": 1, "steps": 2}', "[" * 100_000),
        *(STEP % said for said in ("1", '"no"', '"[1]"', "null")),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "gpu.json").write_text(
        text.replace("1", json.dumps(gpu_check.machine_facts()[1]), 1)
    )
    with pytest.raises(UserError, match="gpu.json is no report of gpu-check"):
        Report(tmp_path / "gpu.md")
