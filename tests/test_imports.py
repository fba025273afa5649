"""Imports run one way: the contracts of pyproject.toml hold, and a forbidden import breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess:
    """import-linter on the package and the contracts of a folder."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_imports_run_downwards():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "statement", "broken"),
    [
        ("backbones/biformer.py", "import mmcv", "models_mm.backbones.biformer -> mmcv"),
        (
            "data/check.py",
            "def late():\n    from models_mm.mmdet2 import configs",
            "models_mm.data.check -> models_mm.mmdet2.configs",
        ),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, statement, broken):
    """At the top of a module, and hidden in a function."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "models_mm", tmp_path / "models_mm", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "models_mm" / file).open("a") as opened:
        opened.write(f"\n\n{statement}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and broken in " ".join(done.stdout.split())
