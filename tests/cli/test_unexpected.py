"""Whatever surprises a tool: one line, exit code 1, and a traceback for whoever asks for it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def started(program: str, **environment: str) -> subprocess.CompletedProcess:
    """A tool whose main is the statement."""
    code = f"from models_mm.cli.command import run\ndef main():\n    {program}\nrun(main)"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        timeout=120,
    )


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("raise ValueError('first\\nsecond')", 1, r"error: ValueError: first second \(MODELS.*\)"),
        ("raise RuntimeError('gloo')", 1, r"error: RuntimeError: gloo \(MODELS.*where\)"),
        ("raise KeyboardInterrupt", 130, ""),
        ("import os; os.close(1); os.dup2(os.pipe()[1], 1); print('x' * 10)", 141, ""),
    ],
)
def test_no_traceback(program, code, message):
    done = started(program)
    assert done.returncode == code and re.fullmatch(message, done.stderr.strip())


def test_a_traceback_for_developers():
    done = started("1 / 0", MODELS_MM_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.count("error: ZeroDivisionError") == 1


def test_a_fault_before_the_tool_has_begun(tmp_path):
    """What a command needs cannot be imported; its help does not need it."""
    (tmp_path / "mmcv.py").write_text("raise OSError('disk')")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    for tool in ("train.py", "browse_dataset.py"):
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / tool, "config.py"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        first = r"(models_mm .*: config.py\n)?"  # of train, before the imports
        message = first + r"error: OSError: disk \(MODELS_MM_TRACEBACK=1 shows where\)\n"
        assert done.returncode == 1 and re.fullmatch(message, done.stderr)
