"""What `pip install .` installs works away from the checkout; the pins agree with one another."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from models_mm.cli import setup
from models_mm.errors import UserError

from .drawn import data_options

ROOT = Path(__file__).resolve().parents[1]
DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the installed package, built from a clean copy of what git knows."""
    work = tmp_path_factory.mktemp("package")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            target = work / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", work / "site", work / "source"], check=True)
    return work / "site"


@pytest.mark.slow
def test_the_installed_tools_train_and_test(installed, run_tool, demo_data, tmp_path):
    """From an empty folder, by the scripts that came with the package."""
    mim = installed / "models_mm" / ".mim"
    environment = {"PYTHONPATH": str(installed)}
    more = data_options(demo_data)
    done = run_tool(
        mim / "dist_train.sh", DEMO, 1, "--no-validate", *more, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    latest = tmp_path / "work_dirs" / Path(DEMO).stem / "latest.pth"
    done = run_tool(
        *(mim / "dist_test.sh", DEMO, latest, 1, "--eval", "bbox", *more),
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    where = "import models_mm; print(models_mm.__file__)"
    done = run_tool(sys.executable, "-c", where, cwd=tmp_path, env=environment)
    assert done.stdout.startswith(str(installed))


def test_metadata_of_the_wheel(installed):
    (folder,) = installed.glob("models_mm-*.dist-info")
    described = (folder / "METADATA").read_text()
    extra = re.findall(r"^Requires-Dist: (\S+?)[<>=;].*extra == .mmdet.", described, re.M)
    core = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra)", described, re.M)
    assert "mmdet" in extra and "mmdet" not in core and {"torch", "timm"} <= set(core)
    assert "License-Expression: Apache-2.0" in described and (folder / "licenses/LICENSE").is_file()
    assert "models_mm = models_mm.cli.main:main" in (folder / "entry_points.txt").read_text()
    assert (installed / "models_mm/py.typed").is_file()
    assert (installed / "models_mm/visualization/report.html").is_file()


NO_INDEX = {
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
}


@pytest.mark.slow
def test_setup_where_everything_is_installed(installed, run_tool, tmp_path):
    """Every step is satisfied, none needs the network, and the report comes last."""
    done = run_tool(
        *(sys.executable, "-m", "models_mm", "setup", "-c", ROOT / "requirements.txt"),
        cwd=tmp_path,
        env={**NO_INDEX, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3/3 installing MMDetection and the rest" in done.stdout
    assert done.stdout.rstrip().endswith("everything is in order")
    log = (tmp_path / "models_mm_setup.log").read_text()
    assert "already satisfied: mmcv==1.7.2" in log and "already satisfied: mmdet==2.28.2" in log


@pytest.mark.slow
def test_setup_that_fails_says_why(installed, run_tool, tmp_path):
    (tmp_path / "pins.txt").write_text("terminaltables==0.0.1\n")
    done = run_tool(
        *(sys.executable, "-m", "models_mm", "setup", "-c", "pins.txt", "--log", "pip.log"),
        cwd=tmp_path,
        env={**NO_INDEX, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: installing MMDetection and the rest failed: ERROR: .*terminaltables.* "
        r"\(check network and disk; all of it in pip.log\)\n",
        done.stderr,
    )


def test_setup_without_pip(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(UserError, match="has no pip: `.* -m ensurepip`"):
        setup.main([])


def test_one_file_pins_what_all_others_use():
    pins = dict(
        line.split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert pins["mmdet"] == "2.28.2" and pins["mmcv"] == "1.7.2"
    assert "-r requirements.txt" in (ROOT / "environment.yaml").read_text()
    assert "-r requirements.txt" in (ROOT / "Makefile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|mmdet) = \[(.*?)^\]", project, re.M | re.S)
    names = re.findall(r'^\s+"([A-Za-z0-9-]+)', "".join(lists), re.M)
    assert len(lists) == 2 and len(names) > 15
    assert {name.lower() for name in names} <= {name.lower() for name in pins}


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        (["PYTHON=/nowhere/python"], {}, "error: Python 3.10 or newer is needed"),
        (
            [f"PYTHON={sys.executable}"],
            NO_INDEX,
            "error: installing failed: ERROR: No matching distribution .*check network",
        ),
    ],
)
def test_an_installation_that_fails_says_why(run_tool, tmp_path, settings, environment, message):
    """An interpreter that is too old or missing; an index that cannot be reached."""
    environment = {"MAKEFLAGS": "", "MAKELEVEL": "0", **environment}
    command = ("make", "-C", ROOT, "install", f"VENV={tmp_path / 'venv'}", *settings)
    done = run_tool(*command, env=environment)
    assert done.returncode != 0
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


def test_mmcv_full_needs_a_compiler(run_tool):
    script = ROOT / "models_mm" / "mmdet2" / "compat" / "build_mmcv_full.sh"
    done = run_tool(script, env={"CXX": "no-such-compiler"})
    assert done.returncode == 1 and "a C++ compiler is needed" in done.stderr
