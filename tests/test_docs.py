"""Every fenced command of README and docs runs, in order, as a new user would type it."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import models_mm  # isort: skip  (before mmdet, which does not import without it)
import cv2
import pytest
import torch
from mmdet.models import build_detector

from models_mm.mmdet2.configs import load_config

from .checkpoints.detectron2_files import entries_of
from .documents import CHOICES, ROOT, SMALLER, commands, fences, follow
from .mmdet2.compat.conftest import free_port

# pages whose commands need files of the reader: weights, COCO, a config
PAGES = ("README.md", "docs/core.md", "docs/checkpoints.md")
DOCS = ("getting_started", "train", "test", "inference", "own_data", "small_data")
DOCS += ("own_backbone", "speed", "faults", "deploy")
CHECKOUT = ("tools", "configs", "models_mm")
FILES = ("dist_train.sh", "dist_test.sh", "Makefile", "requirements.txt")
FILES += ("pyproject.toml", "setup.py", "model-index.yml")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What a new user has after ``make install``."""
    for name in CHECKOUT:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.slow
def test_following_the_docs(checkout):
    able = [name for name in DOCS if name != "deploy" or importlib.util.find_spec("onnxscript")]
    said = {name: follow(commands(fences(f"docs/{name}.md"), checkout), checkout) for name in able}
    assert "everything is in order" in said["getting_started"][0]
    assert len(list((checkout / "work_dirs/first/pictures").glob("*.png"))) == 5
    written = re.findall(
        r"--out (\S+\.png)", "".join((ROOT / f"docs/{name}.md").read_text() for name in DOCS)
    )
    assert len(written) >= 3
    for name in written:
        assert cv2.imread(str(checkout / name)).std() > 10


@pytest.mark.slow
def test_following_the_readme(checkout, coco_data):
    """With core.md and checkpoints.md, and the files that they tell to put; tests/slurm types
    Slurm's commands."""
    (checkout / "data").mkdir()
    (checkout / "data/coco").symlink_to(coco_data)
    (checkout / "pretrain").mkdir()
    model = load_config("configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py").model
    detector = build_detector(model)
    torch.save({"state_dict": detector.state_dict()}, checkout / "recnext_m3_coco.pth")
    for name, backbone in {
        "recnext_m3_distill_300e": detector.backbone,
        "biformer_small_best": models_mm.create_backbone("biformer_small"),
    }.items():
        torch.save({"model": backbone.state_dict()}, checkout / f"pretrain/{name}.pth")
    published = {"model": entries_of("mask_rcnn", "small", (4, 4, 4, 4))}
    torch.save(published, checkout / "mask_rcnn_mpvit_small_ms_3x.pth")

    demo = checkout / "tools/demo.sh"
    script = demo.read_text().replace("--train 1000 --val 100", "--train 8 --val 5 --size 128x96")
    demo.write_text(script.replace("< 0.40", "< 0"))

    port = {"NNODES": f"PORT={free_port()} NNODES"}
    blocks = [block for page in PAGES for block in fences(page, SMALLER | CHOICES | port)]
    typed = [command for command in commands(blocks, checkout) if "slurm" not in command]
    said = dict(zip(typed, follow(typed, checkout), strict=True))
    assert sum("dist_t" in command for command in typed) == 7
    evaluated = [said[command] for command in typed if "--eval bbox segm" in command]
    assert len(evaluated) == 3 and all("metrics: " in text for text in evaluated)
    (demonstrated,) = (said[command] for command in typed if command.endswith(" demo"))
    assert "The demo took" in demonstrated
    assert (checkout / "predictions/predictions.json").is_file()


def test_every_document_is_followed_or_has_nothing_to_run():
    for file in (ROOT / "docs").glob("*.md"):
        if file.stem not in DOCS and f"docs/{file.name}" not in PAGES:
            assert not fences(f"docs/{file.name}"), file


def test_commands_in_prose_exist(run_tool):
    """Tools and their options outside of fences; `bash` scripts; links between documents."""
    helps = {}
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(((?:\.\./)*[\w/]+\.(?:md|py))\)", text):
            assert (file.parent / link).is_file(), f"{file.name}: {link}"
        for script in re.findall(r"bash ((?:\w+/)*\w+\.sh)", text):
            assert (ROOT / script).is_file(), f"{file.name}: {script}"
        for tool, rest in re.findall(r"python (tools/\w+\.py)([^`\n]*)", text):
            assert (ROOT / tool).is_file(), f"{file.name}: {tool}"
            command = re.match(r" ([a-z]+)\b(?! *[./])|", rest)[1]  # of tools that have several
            for option in re.findall(r"(?<=\s)--[a-z][\w-]*", rest):
                words = (ROOT / tool, *([command] if command else []), "--help")
                if words not in helps:
                    helps[words] = run_tool(*words).stdout
                assert option in helps[words], f"{file.name}: {tool} has no {option}"
