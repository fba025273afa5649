"""The commands of docs/moving_over.md: each is one that the tools take; typed, they do it."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.models import build_detector

from models_mm import create_backbone
from models_mm.catalogue import catalogue
from models_mm.cli import test, train
from models_mm.mmdet2.configs import find_config, load_config, pretrained_files

from ..checkpoints.detectron2_files import entries_of
from ..documents import ROOT, follow
from .projects import PROJECTS

TEXT = (ROOT / "docs/moving_over.md").read_text()
# of each project: the config that CONFIG stands for
CONFIGS = {
    "RecNeXt": ("recnext", "recnext_m3"),
    "BiFormer": ("biformer", "maskrcnn_biformer_small"),
    "DFvT": ("dfvt", "dfvt_tiny"),
    "KernelWarehouse": ("kernelwarehouse", "kw1x_mobilenetv2"),
    "MPViT": (None, None),
}


def typed(project: str) -> list[str]:
    """The right column of a project's table of commands."""
    section = re.search(rf"^## {project}\n(.*?)^## ", TEXT, re.M | re.S)[1]
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `([^|]+)` \|$", section, re.M)
    assert len(rows) >= 6
    return rows


def overrides(project: str) -> list[str]:
    """Settings in tables of two columns."""
    section = re.search(rf"^## {project}\n(.*?)^## ", TEXT, re.M | re.S)[1]
    return re.findall(r"^\| `[A-Z][^|]+ \| `([\w.]+=[^`]+)`", section, re.M)


def arguments(command: str) -> tuple[str, list[str]]:
    """Which program a command starts in the end, ``train`` or ``test``, and with what."""
    words = shlex.split(command)[1:]
    name = words[0].removeprefix("tools/")
    if name == "dist_train.sh":
        return "train", [words[1], "--launcher", "pytorch", *words[3:]]
    if name == "dist_test.sh":
        return "test", [*words[1:3], "--launcher", "pytorch", *words[4:]]
    if name == "slurm_train.sh":
        return "train", [words[3], "--work-dir", words[4], "--launcher", "slurm", *words[5:]]
    return name.removesuffix(".py"), words[1:]


@pytest.mark.parametrize("title", CONFIGS)
def test_each_command_is_understood(title, tmp_path, monkeypatch):
    name, shape = CONFIGS[title]
    config = str(PROJECTS[name](tmp_path)[shape]) if name else ""
    monkeypatch.chdir(tmp_path)
    kinds = set()
    for command in typed(title):
        script = ROOT / shlex.split(command)[1]
        assert script.is_file(), command
        kind, words = arguments(command.replace("CONFIG", config))
        kinds.add(kind)
        if kind in ("train", "test"):
            args = (train if kind == "train" else test).parse_args(words)
            assert load_config(args.config, args.cfg_options).model.type == "MaskRCNN"
        elif kind == "benchmark":
            assert find_config(words[0])
    assert kinds >= {"train", "test", "benchmark"} or title == "MPViT"


def test_overrides_of_detectron2_are_settings_here():
    settings = overrides("MPViT")
    assert len(settings) >= 12
    config = "configs/mpvit/mask_rcnn_mpvit_tiny_fpn_1x_coco.py"
    plain = load_config(config)
    args = train.parse_args([config, "--cfg-options", *(s.replace('"', "") for s in settings)])
    changed = load_config(args.config, args.cfg_options)
    # what they are in detectron2's recipe they are in ours
    for key in ("optimizer", "lr_config", "runner", "checkpoint_config", "optimizer_config"):
        assert changed[key] == plain[key], key
    assert changed.amp == "float16" and changed.data.workers_per_gpu == 4


def test_the_table_of_yaml_names_is_complete():
    rows = dict(re.findall(r"^\| `(\w+)\.yaml` \| `(\S+)` \|$", TEXT, re.M))
    entries = [entry for entry in catalogue() if entry.family == "MPViT"]
    assert rows == {
        entry.metadata["Checkpoint File"].removesuffix(".pth"): entry.config for entry in entries
    }


def small(command: str) -> str:
    """The same command for one process, little data, one epoch, and one round of measuring."""
    words = shlex.split(command)
    if "dist_" in words[1]:
        words[3 if "train" in words[1] else 4] = "1"
    if "train" in words[1]:
        words += [] if "--cfg-options" in words else ["--cfg-options"]
        words += ["data.workers_per_gpu=0", "evaluation.interval=1"]
        iterations = "mpvit" in command
        words += ["runner.max_iters=1" if iterations else "runner.max_epochs=1"]
        words += ["data.samples_per_gpu=1", "checkpoint_config.interval=1"]
    if "benchmark" in words[1]:
        words = [*words[: words.index("--shape")], "--shape", "64", "64", "--rounds", "2"]
        words += ["--no-memory"]
    return shlex.join(words)


def shrink_configs(folder) -> None:
    for file in folder.rglob("*.py"):
        text = re.sub(r"(crop_size=)\(\d{3,4}, *\d{3,4}\)", r"\1(64, 96)", file.read_text())
        text = re.sub(r"\((\d{3,4}), *(\d{3,4})\)", "(128, 96)", text)
        file.write_text(text)


@pytest.fixture
def folder(tmp_path, little_coco, monkeypatch):
    """A project's folder with small images and random weights, our tools linked beside them."""
    monkeypatch.delenv("MMDET_DATASETS", raising=False)

    def make(title: str):
        name, shape = CONFIGS[title]
        if name:
            config = PROJECTS[name](tmp_path)[shape].relative_to(tmp_path)
        else:
            shutil.copytree(ROOT / "configs", tmp_path / "configs")
            config = "configs/mpvit/mask_rcnn_mpvit_tiny_fpn_1x_coco.py"
        shrink_configs(tmp_path / "configs")
        for linked in ("tools", "dist_train.sh", "dist_test.sh", "slurm_train.sh"):
            (tmp_path / linked).symlink_to(ROOT / linked)
        for made in ("data", "pretrain"):
            (tmp_path / made).mkdir()
        (tmp_path / "data/coco").symlink_to(little_coco)
        (tmp_path / "FOLDER").symlink_to(little_coco / "val2017")
        return tmp_path, str(config)

    return make


def write_weights(folder, title: str, config: str) -> None:
    """Random weights in the layout of the published files, under the names of the document."""
    cfg = load_config(str(folder / config))
    named = {str(folder / path) for path in pretrained_files(cfg.model)}
    cfg.model.backbone.init_cfg = cfg.model.pretrained = None
    detector = build_detector(cfg.model)
    backbone = {"model": detector.backbone.state_dict()}
    for name in set(re.findall(r"pretrain/(\w+\.pth)", TEXT)) | {"recnext_m3_distill_300e.pth"}:
        torch.save(backbone, folder / "pretrain" / name)
    for path in map(Path, named):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(backbone, path)
    for name in ("CHECKPOINT", "recnext_m3_coco.pth", "DFvT_tiny_for_coco.pth"):
        torch.save({"state_dict": detector.state_dict(), "meta": {}}, folder / name)
    if title == "MPViT":
        torch.save(
            {"model": create_backbone("mpvit_tiny").state_dict()},
            folder / "pretrain/mpvit_tiny_d2.pth",
        )
        published = {"model": entries_of("mask_rcnn", "tiny", (2, 2, 2, 2))}
        torch.save(published, folder / "mask_rcnn_mpvit_tiny_1x.pth")


@pytest.mark.slow
@pytest.mark.parametrize("title", CONFIGS)
def test_each_command_works(title, folder):
    """All but Slurm's, whose script tests/slurm types."""
    place, config = folder(title)
    write_weights(place, title, config)
    rows = [row.replace("CONFIG", config) for row in typed(title) if "slurm" not in row]
    said = dict(zip(rows, follow([small(row) for row in rows], place), strict=True))
    for row, text in said.items():
        if "--eval" in row:
            assert "metrics: " in text
        if "--show" in row.split():
            assert "no pictures: --show" in text
    assert len(list((place / "pictures").rglob("*.*"))) >= 1
