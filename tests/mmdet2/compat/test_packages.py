"""What users are told of installations that cannot work."""

import json
import subprocess
import sys

import pytest

from models_mm.mmdet2.compat import packages

from .conftest import ROOT

# -S: nothing but the standard library and the folder is on the path
SCRIPT = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[2])
spec = importlib.util.spec_from_file_location("packages", sys.argv[1])
packages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(packages)
print(json.dumps(packages.problems()))
"""


def install(folder, **versions):
    """The records that pip leaves of installed packages."""
    for name, version in versions.items():
        record = folder / f"{name}-{version}.dist-info"
        record.mkdir()
        record.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )


GOOD = dict(mmcv="1.7.2", mmdet="2.28.2", torch="2.14.1+cu130", torchvision="0.29.1", timm="1.0.9")


def problems(folder, missing=(), **versions):
    """What is said of a good installation with some packages changed or missing."""
    wanted = {name: version for name, version in GOOD.items() if name not in missing}
    install(folder, **wanted | versions)
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, packages.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mmcv": "1.7.0"},
        {"missing": ["mmcv"], "mmcv_full": "1.7.2"},
        {"torch": "2.4rc1", "torchvision": "0.19.0a0+48b1edf"},
        {"timm": "1.1.0.dev0"},
        {"torch": "3.0"},
    ],
)
def test_good_installations(tmp_path, change):
    assert problems(tmp_path, **change) == []


def test_both_mmcvs(tmp_path):
    (problem,) = problems(tmp_path, mmcv_full="1.7.1")
    assert "both mmcv 1.7.2 and mmcv-full 1.7.1 are installed" in problem
    assert "`pip uninstall -y mmcv mmcv-full`" in problem


@pytest.mark.parametrize("version", ["2.1.0", "1.6.2", "1.70.0"])
def test_another_mmcv(tmp_path, version):
    assert problems(tmp_path, mmcv=version) == [
        f"mmcv {version} is installed, models_mm needs 1.7.x: `models_mm setup`"
    ]


def test_another_mmdet(tmp_path):
    assert problems(tmp_path, mmdet="3.3.0") == [
        "mmdet 3.3.0 is installed, models_mm needs 2.28.2: `models_mm setup`"
    ]


@pytest.mark.parametrize(
    ("name", "version", "least"),
    [("torch", "2.3.1+cpu", "2.4"), ("torchvision", "0.18.0", "0.19"), ("timm", "0.9.16", "1.0")],
)
def test_too_old(tmp_path, name, version, least):
    assert problems(tmp_path, **{name: version}) == [
        f"{name} {version} is too old: `pip install '{name}>={least}'`"
    ]


def test_nothing_at_all(tmp_path):
    assert problems(tmp_path, missing=GOOD) == [
        "mmcv is not installed: `models_mm setup`",
        "torch is not installed: `pip install 'torch>=2.4'`",
        "torchvision is not installed: `pip install 'torchvision>=0.19'`",
        "timm is not installed: `pip install 'timm>=1.0'`",
        "mmdet is not installed, models_mm needs 2.28.2: `models_mm setup`",
    ]


def import_host(folder, **versions):
    """Import mmdet after the package, where the records in a folder come first."""
    install(folder, **versions)
    command = [sys.executable, "-c", "import models_mm, mmdet"]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_import_stops_at_what_cannot_work(tmp_path):
    done = import_host(tmp_path, mmdet="3.3.0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: mmdet 3.3.0 is installed")


def test_import_warns_of_both_mmcvs(tmp_path):
    done = import_host(tmp_path, mmcv="1.7.2", mmcv_full="1.7.2")
    assert done.returncode == 0, done.stderr
    assert "UserWarning: both mmcv 1.7.2 and mmcv-full 1.7.2 are installed" in done.stderr
    assert "January 1, 2023" not in done.stderr  # mmcv's advertisement of its version 2
