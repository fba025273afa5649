"""A reference project's folder, with a small data set where its configs look for COCO."""

from pathlib import Path

import pytest

from models_mm.mmdet2 import testing, training
from models_mm.mmdet2.configs import load_config

from ..drawn import draw_coco
from ..test_configs import shrink
from .projects import PROJECTS


@pytest.fixture(scope="package")
def little_coco(tmp_path_factory) -> Path:
    """1 + 1 drawn images under names of COCO's classes."""
    return draw_coco(tmp_path_factory.mktemp("data") / "coco", train=1, val=1)


@pytest.fixture
def project(tmp_path, monkeypatch, little_coco):
    """Write a project's folder and work in it; returns its configs, relative to the folder."""
    monkeypatch.delenv("MMDET_DATASETS", raising=False)

    def make(name: str) -> dict[str, str]:
        files = PROJECTS[name](tmp_path / name)
        (tmp_path / name / "data").mkdir()
        (tmp_path / name / "data/coco").symlink_to(little_coco)
        monkeypatch.chdir(tmp_path / name)
        return {key: str(file.relative_to(tmp_path / name)) for key, file in files.items()}

    return make


@pytest.fixture
def small_images(monkeypatch):
    """Train and test in this process with images of 128 x 96 pixels."""

    def load_small(*args):
        cfg = load_config(*args)
        shrink(cfg.data)
        return cfg

    monkeypatch.setattr(training, "load_config", load_small)
    monkeypatch.setattr(testing, "load_config", load_small)
